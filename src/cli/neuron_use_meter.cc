#include "src/cli/neuron_use_meter.h"

#include <algorithm>
#include <bit>

#include "src/select/selector.h"

namespace frugal {

size_t MeasuredUse::num_windows() const {
  constexpr uint64_t kTimes = 4;
  size_t count = 0;
  while (count < kNumWindows && (uint64_t{1} << count) * kTimes <= num_tokens) ++count;
  return count;
}

NeuronUseMeter::NeuronUseMeter(const ModelConfig& config, const PredictorInfo* predictor)
    : ffn_size_(config.ffn_size), layers_(config.num_layers, UseCounter(config.ffn_size)), selects_(config.num_layers, 1) {
  if (predictor == nullptr) return;
  for (uint32_t layer = 0; layer < config.num_layers; ++layer) selects_[layer] = predictor->layers[layer].rank > 0;
  if (predictor->window_misses.empty()) return;
  expected_.emplace();
  for (uint32_t layer = 0; layer < config.num_layers; ++layer) {
    if (selects_[layer] == 0) continue;
    for (size_t i = 0; i < kNumWindows; ++i) (*expected_)[i] += static_cast<double>(predictor->window_misses[layer][i]) * ffn_size_;
  }
}

void NeuronUseMeter::Observe(const LayerObservation& observation) {
  const size_t words = Selector::WordsPerToken(ffn_size_);
  for (uint32_t row = 0; row < observation.num_rows; ++row) {
    const std::span<const uint64_t> chosen = observation.active.subspan(row * words, words);
    for (const uint64_t word : chosen) num_chosen_ += static_cast<uint64_t>(std::popcount(word));
    const float* const activations = observation.activations + row * observation.activation_stride;
    num_active_ += observation.positions.size() -
                   static_cast<uint64_t>(std::count(activations, activations + observation.positions.size(), 0.0f));
    layers_[observation.layer].AddToken(chosen);
  }
  if (observation.layer + 1 == layers_.size()) num_tokens_ += observation.num_rows;
}

MeasuredUse NeuronUseMeter::Measured() const {
  MeasuredUse use;
  use.num_tokens = num_tokens_;
  use.expected = expected_;
  if (num_tokens_ == 0) return use;
  use.chosen = static_cast<double>(num_chosen_) / static_cast<double>(num_tokens_);
  use.active = static_cast<double>(num_active_) / static_cast<double>(num_tokens_);
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    if (selects_[layer] == 0) continue;
    use.num_selectable += ffn_size_;
    const WindowMisses misses = layers_[layer].Misses();
    for (size_t i = 0; i < kNumWindows; ++i) use.new_neurons[i] += static_cast<double>(misses[i]) * ffn_size_;
  }
  return use;
}

}  // namespace frugal
