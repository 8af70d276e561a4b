// Fits both predictors of one layer from what the layer showed: whitens the inputs, chooses the ranks,
// fine-tunes, quantises, chooses the thresholds on held-out rows and measures on others.
#pragma once

#include <span>
#include <vector>

#include "src/base/function_ref.h"
#include "src/base/thread_pool.h"
#include "src/train/quantised_predictor.h"
#include "src/train/samples.h"
#include "src/train/train.h"

namespace frugal {

struct LayerPredictors {
  QuantisedPredictor on_time, early;  // rank 0: none
  PredictorQuality on_time_quality, early_quality;
  std::vector<float> popularity;  // share of the held-out tokens for which the on-time predictor chose the
                                  // neuron // [ffn_size]
  WindowMisses window_misses{};   // of the same choices
  float early_wrong_share = 0;    // of the neurons: chosen by the early predictor, not by the on-time one
};

// A layer's up projection, and what a bundle of it costs.
struct LayerWeights {
  uint32_t hidden_size = 0, ffn_size = 0;
  uint64_t bundle_bytes = 0;
  std::vector<float> up;    // [ffn_size, hidden_size]
  std::vector<float> bias;  // [ffn_size]
};

// `samples`: its fit rows are whitened in place; `weights` is used up.
Result<LayerPredictors> FitLayer(ThreadPool& pool, const TrainOptions& options, uint32_t layer,
                                 const SampleSplit& split, LayerSamples& samples, LayerWeights weights,
                                 FunctionRef<void(double share)> progress);

// Ranks that make sense for a model of that size, ascending; never empty.
std::vector<uint32_t> CandidateRanks(const TrainOptions& options, uint32_t hidden_size);
// An upper bound of what FitLayer allocates, the layer's up projection included.
uint64_t FitLayerBytes(const TrainOptions& options, uint32_t hidden_size, uint32_t ffn_size);

}  // namespace frugal
