// How a text uses neurons, counted while it runs: how many of them a token chose and how many turned out active, and how many were new,
// beside what the predictors' file says of the text that it was made with. One thread.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "src/format/packed_format.h"
#include "src/model/forward.h"
#include "src/model/predictor_file.h"
#include "src/train/use_counter.h"

namespace frugal {

struct MeasuredUse {
  uint64_t num_tokens = 0;         // 0: nothing was counted
  double chosen = 0, active = 0;   // neurons of a token, of all layers
  uint64_t num_selectable = 0;     // neurons of the layers whose selector leaves some out: of all but those without a predictor
  // Entry i: of these layers' neurons, chosen by a token and by none of the 2^i tokens before it.
  std::array<double, kNumWindows> new_neurons = {};
  std::optional<std::array<double, kNumWindows>> expected;  // the same by the predictors' file

  // Windows that the text filled several times.
  size_t num_windows() const;
};

class NeuronUseMeter {
 public:
  // Of every neuron: its uses and its last one.
  static constexpr uint64_t kBytesPerNeuron = 2 * sizeof(uint32_t);

  // `predictor`: nullptr where something else selects.
  NeuronUseMeter(const ModelConfig& config, const PredictorInfo* predictor);

  // The text's next tokens, layer by layer in each step.
  void Observe(const LayerObservation& observation);
  MeasuredUse Measured() const;

 private:
  const uint32_t ffn_size_;
  std::vector<UseCounter> layers_;
  std::vector<uint8_t> selects_;  // [num_layers]
  std::optional<std::array<double, kNumWindows>> expected_;
  uint64_t num_tokens_ = 0, num_chosen_ = 0, num_active_ = 0;
};

}  // namespace frugal
