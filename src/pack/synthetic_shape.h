// The shapes of which synthetic models are made, each with the activity that such a model is made for: those of the OPT family (Zhang et
// al., arXiv 2205.01068, table 1) and the other models of "LLM in a flash" (Alizadeh et al., arXiv 2312.11514).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "src/base/result.h"
#include "src/model/config.h"

namespace frugal {

// Which ranks the predictors of the layers have (section 3.1 of the paper).
enum class RankProfile {
  kLastFour,    // all the same, the last four layers' larger (OPT, Falcon, Persimmon)
  kMiddleFour,  // all the same, four middle layers' larger (Llama)
  kRising,      // by thirds 160, 480, 800; the last four layers have none and use all neurons (Phi-2)
};

// What fires, as shares of the FFN; what is marked, held and loaded are means over the layers that have a predictor.
struct SyntheticActivity {
  // Truly active for a token: in the first layer, in the last, on average.
  double first_active = 0.0156, last_active = 0.0536, mean_active = 0.033;
  double predicted = 0.10;                      // marked by the on-time predictor
  uint32_t window = 4;                          // tokens whose neurons are kept
  double held = 0.24, loaded = 0.024;           // by that window: used by its tokens together, new with a token
  // How it is made (synthetic_model.cc): what the predictors are asked to mark, and the slow part's share of the residual's variance.
  double asked_predicted = 0.104;
  float slow_share = 0.47f;
  RankProfile ranks = RankProfile::kLastFour;
  uint32_t rank = 128, large_rank = 1024;
};

// Of all neurons, truly active for a token: a parabola over the layers.
double SyntheticActiveShare(const SyntheticActivity& activity, uint32_t layer, uint32_t num_layers);
// Of the layer's on-time predictor; 0: it has none.
uint32_t SyntheticRank(const SyntheticActivity& activity, uint32_t layer, uint32_t num_layers);

struct SyntheticShape {
  std::string_view name;
  Architecture architecture;
  uint32_t num_layers, hidden_size, ffn_size, num_heads, num_kv_heads, vocab_size, max_context;
  SyntheticActivity activity;
};

std::span<const SyntheticShape> SyntheticShapes();
// kUsage listing all names.
Result<SyntheticShape> FindSyntheticShape(std::string_view name);
// What the architecture computes, in the shape's sizes. num_layers 0: the shape's own.
ModelConfig SyntheticConfig(const SyntheticShape& shape, uint32_t num_layers);

}  // namespace frugal
