// Estimates the recall of a selector that guesses, while it runs: on a sample of layers, neurons that it did not choose are computed
// too. Of kMostLookedAt of them at most those in slots, which cost no read, are all looked at; of the others a few are read. Changes neither
// results nor cache.
#pragma once

#include <cstdint>

#include "src/base/aligned_buffer.h"
#include "src/base/random.h"
#include "src/model/forward.h"

namespace frugal {

class RecallSampler {
 public:
  // One layer in every `every` decode steps is looked at, in turn.
  static Result<RecallSampler> Create(Weights& weights, uint32_t every, uint64_t seed);

  // To be called as the observer of decode steps (one row).
  Status Observe(const LayerObservation& observation);
  void NextStep() { ++step_; }

  // Chosen among truly active neurons, estimated; 1 when none was active. Negative when nothing was sampled.
  double recall() const;
  uint64_t num_samples() const { return num_samples_; }

 private:
  RecallSampler(Weights& weights, uint32_t every, uint64_t seed) : weights_(&weights), every_(every), random_(seed) {}
  // A row of the bundle times x, with its bias.
  float Product(uint32_t layer, uint32_t position, const std::byte* row, DType type, LayerVector bias, const float* x) const;
  bool IsActive(uint32_t layer, uint32_t position, const std::byte* bundle, const float* x) const;

  static constexpr uint32_t kMostLookedAt = 2048;  // of a layer; all of OPT-6.7B's 16384 would take a fortieth of a token
  static constexpr uint32_t kReadsPerSample = 8;

  Weights* weights_;
  uint32_t every_;
  Random random_;
  AlignedBuffer scratch_;  // one bundle
  std::vector<int8_t> input_q_;      // [hidden_size] and [hidden_size / 32]: the observed input, where up is quantised
  std::vector<float> input_scales_;
  uint64_t step_ = 0;
  uint64_t num_samples_ = 0;
  double found_active_ = 0;   // active and chosen
  double missed_active_ = 0;  // active and not chosen, estimated
};

}  // namespace frugal
