// One layer of a synthetic model: neurons whose activity is that of a model in "LLM in a flash", and the
// predictor that knows them as badly as a trained one would.
//
// The row that decides whether a neuron fires (up; of gated models the gate) is  rho * (its combination of some of
// the layer's shared directions) + noise.  The predictor sees the first part only: its factors are the directions
// and the combinations. With inputs of unit variance the pre-activation is Gaussian, so that the bias sets how
// often the neuron fires. Biases are spread widely (a few neurons fire almost always, most rarely); groups of neurons share half of their
// combination (they fire together). rho, the middle of the biases and the predictor's thresholds are fitted
// on inputs that the model will really see.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "src/base/thread_pool.h"
#include "src/pack/noise_pool.h"

namespace frugal {

struct SyntheticLayerOptions {
  uint32_t hidden_size = 0, ffn_size = 0;
  uint32_t rank = 0;        // of the on-time predictor
  uint32_t early_rank = 0;  // of the early one; at most rank
  uint64_t seed = 0;
  double active_share = 0.033;    // of the neurons, truly active for a token
  double predicted_share = 0.1;   // chosen by the on-time predictor
  double recall = 0.95;           // of the on-time predictor
  double early_recall = 0.9;      // of the early one
  double popularity_share = 0.4;  // of the variance of predicted scores: differences between neurons
  bool has_predictor = true;      // otherwise all neurons are used; the layer is made as if it had one
  bool has_early = true;          // a parallel block knows the FFN's input before attention and needs none
  float threshold = 0;            // that a firing neuron's value is above: of FATReLU
};

// As fitted; what is true of the file is measured on it. A predictor that the layer has not: rank 0, all found, all predicted.
struct SyntheticLayerQuality {
  uint32_t rank = 0, early_rank = 0;
  double active_share = 0;
  double recall = 0, predicted_share = 0;
  double early_recall = 0, early_predicted_share = 0;
};

struct SyntheticLayer {
  static constexpr uint32_t kShared = 4;   // directions that a group has in common
  static constexpr uint32_t kEntries = 8;  // directions of a neuron; the early predictor lacks the last

  SyntheticLayerOptions options;
  std::vector<float> directions;       // [rank, hidden_size], of unit length
  std::vector<uint32_t> entries;       // [ffn_size, kEntries]: directions of the neuron
  std::vector<float> weights;          // [ffn_size, kEntries]: of the directions; rho is in them
  float noise_scale = 0;               // of the rest of a firing row, for each of its elements
  std::vector<float> bias;             // of the firing row // [ffn_size]
  float margin = 0, early_margin = 0;  // predictor's bias = bias - threshold + margin
  float rho = 0;
  SyntheticLayerQuality quality;

  // The neuron's row that decides whether it fires, all of it. // out [hidden_size]
  void FiringRow(uint32_t neuron, const NoisePool& noise, float* out) const;
  // Share of the tokens for which the on-time predictor chooses the neuron.
  float Popularity(uint32_t neuron) const;
  static uint64_t MemoryBytes(const SyntheticLayerOptions& options, size_t num_inputs);
};

// `inputs` [num_inputs, hidden_size]: of the FFN, normalised.
SyntheticLayer MakeSyntheticLayer(const SyntheticLayerOptions& options, const NoisePool& noise,
                                  std::span<const float> inputs, ThreadPool& pool);

}  // namespace frugal
