// NAME.sparsify.gguf beside a packed model (docs/selectors.md draws it): for each layer, how large an activated gate has to be for its
// neuron to count, where no gate is ever exactly zero; and what leaving out the others costs in perplexity. `train --sparsify` writes it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/base/result.h"
#include "src/format/gguf_reader.h"
#include "src/format/output_file.h"
#include "src/format/packed_format.h"

namespace frugal {

struct GateThresholds {
  uint64_t model_content_hash = 0;  // of the one model that they belong to
  float share = 0;                  // of the neurons, to be left out; between 0 and 1
  std::vector<float> thresholds;    // [num_layers]: a neuron counts where |activated gate| is above it
  std::string source;               // "text:NAME", "sampled"
  uint64_t num_tokens = 0;          // that they were calibrated on
  // Measured on tokens that calibrating did not see.
  PerplexityEffect effect;
  float measured_share = 0;  // of the neurons, left out there
};

// NAME.sparsify.gguf for NAME.gguf.
std::string DefaultSparsifyPath(const std::string& model_path);

// "50% of the neurons left out, by thresholds from 6144 tokens (text:a.txt); perplexity 20.7651 -> ..."
std::string DescribeThresholds(const GateThresholds& thresholds);

// What such a file says of itself as general.architecture.
constexpr const char* kGateThresholdsArchitecture = "frugal-sparsify";

// All but the thresholds themselves. kBadModel names the key that is missing or holds what none can hold.
Result<GateThresholds> ReadGateThresholdKeys(const GgufReader& gguf);
// kBadModel when it is no such file, is damaged, or holds what none can hold. Every byte is checked by its hash.
Result<GateThresholds> ReadGateThresholds(const std::string& path);
// As HashedGgufWriter: nothing lies under the name before it is complete.
Status WriteGateThresholds(const std::string& path, Overwrite overwrite, const GateThresholds& thresholds);

}  // namespace frugal
