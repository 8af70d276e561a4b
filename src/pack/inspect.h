// What a GGUF file or a checkpoint says of itself: keys, tensors and, for packed models, the figures that people ask for. No weight is read.
// Printing is the caller's.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "src/base/result.h"
#include "src/format/gate_thresholds.h"
#include "src/model/config.h"
#include "src/pack/bundle_types.h"
#include "src/tensor/dtype.h"
#include "src/tensor/tensor_info.h"

namespace frugal {

// Of an array and of a string: longer ones are cut.
constexpr uint64_t kMaxShownElements = 8;
constexpr uint64_t kMaxShownBytes = 200;

struct InspectedKey {
  std::string key;
  std::string type;               // "u32", "string", "array of string"
  nlohmann::json value;           // of an array its first kMaxShownElements
  std::optional<uint64_t> count;  // of an array
};

struct PackedSummary {
  std::string architecture;
  ModelConfig config;
  std::vector<BundlePart> parts;  // of layer 0's bundles; empty where the FFN is matrices
  uint64_t stride_bytes = 0;
  uint64_t bundle_bytes = 0;  // of a stride that are weights
  uint64_t ffn_bytes = 0;     // of all bundles and matrices of FFNs
  std::optional<float> largest_difference;  // between a weight and the source's, where weights were converted
  std::optional<PerplexityEffect> effect;   // of converting them, where that was measured
  std::string effect_text;                  // on what
  double ffn_share = 0;       // of all weights' bytes
  bool has_tokenizer = false;
  uint64_t num_tokens = 0;    // of the tokenizer
  uint64_t content_hash = 0;  // what a predictor file names
};

struct Inspection {
  std::string path;
  std::vector<std::string> files;  // of a checkpoint: TensorInfo::file_index counts in these; else empty
  uint64_t file_bytes = 0;         // of all
  uint32_t version = 0;            // this and the next two: of a GGUF
  uint64_t alignment_bytes = 0;
  uint64_t data_offset_bytes = 0;
  std::vector<InspectedKey> keys;  // of a checkpoint those of config.json
  std::vector<TensorInfo> tensors;      // in file order
  uint64_t num_parameters = 0;          // of float and quantised tensors, and in bundles
  std::optional<PackedSummary> packed;  // of packed models
  std::optional<ModelConfig> config;    // of other models whose architecture is known
  // Of a file of `train --sparsify`, and of a packed model beside which its own lies.
  std::optional<GateThresholds> thresholds;
};

// Errors as GgufReader::Open, of a checkpoint as ResolveCheckpointDirectory and OpenCheckpointTensors; also kBadModel when a packed model
// lacks a key. `activation` replaces what the file says.
Result<Inspection> Inspect(const std::string& path, std::optional<Activation> activation = std::nullopt);

// The same as one object: file, keys, tensors, packed.
nlohmann::ordered_json ToJson(const Inspection& inspection);
nlohmann::ordered_json ToJson(const GateThresholds& thresholds);

}  // namespace frugal
