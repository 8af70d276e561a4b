// What fires and what is predicted in a model, measured by running it: all neurons are computed, the
// predictors are asked beside them. The words are those of "LLM in a flash": s_agg(k) is the mean share of
// the FFN that the last k tokens' predictions used together. One thread calls.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "src/base/function_ref.h"
#include "src/base/result.h"
#include "src/pack/synthetic_shape.h"

namespace frugal {

struct LayerActivity {
  static constexpr size_t kMaxWindow = 9;
  bool has_predictor = true;                           // otherwise all neurons are used
  double active_share = 0;                             // of all neurons, truly active for a token
  double predicted_share = 0;                          // of all neurons, chosen by the on-time predictor
  double recall = 1;                                   // of the active ones, chosen
  std::array<double, kMaxWindow + 1> aggregated = {};  // [k]: s_agg(k)
};

struct ActivityOptions {
  std::string model_path;
  uint32_t num_tokens = 256;  // run, of `tokens`, in one step; more than kMaxWindow
  uint64_t ram_bytes = 0;     // of the whole process
  int num_threads = 2;
};

// Of each layer. kUsage: the model has no predictors, too few tokens; the engine's errors.
Result<std::vector<LayerActivity>> MeasureActivity(const ActivityOptions& options,
                                                   std::span<const int32_t> tokens,
                                                   FunctionRef<void(double share)> progress);

// Mean over the layers that have a predictor.
LayerActivity MeanActivity(std::span<const LayerActivity> layers);

// A figure that was measured and the one that was wanted.
struct WantedFigure {
  std::string name;
  double wanted = 0, measured = 0;

  // By a tenth of the wanted figure at most.
  bool holds() const { return measured >= 0.9 * wanted && measured <= 1.1 * wanted; }
};
// What a model was made for beside what was measured, in the layers that have a predictor.
std::vector<WantedFigure> CompareActivity(std::span<const LayerActivity> layers, const SyntheticActivity& wanted);
std::string FormatFigures(std::span<const WantedFigure> figures);  // a markdown table

}  // namespace frugal
