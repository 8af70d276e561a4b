#include "src/pack/synthetic_shape.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "src/base/check.h"

namespace frugal {
namespace {

// The paper, sections 3.1 and 4 and table 3. Held by the window: OPT and Falcon as published, the others as a simulation of scores gives
// it with that many marked and loaded (docs/synthetic-models.md).
constexpr SyntheticActivity kOpt;
constexpr SyntheticActivity kFalcon = {0.035, 0.07, 0.05, 0.15, 4, 0.33, 0.031, 0.15, 0.433f, RankProfile::kLastFour, 256, 1152};
constexpr SyntheticActivity kPersimmon = {0.055, 0.095, 0.08, 0.175, 2, 0.263, 0.058, 0.175, 0.394f, RankProfile::kLastFour, 256, 1152};
constexpr SyntheticActivity kPhi = {0.12, 0.12, 0.15, 0.33, 1, 0.33, 0.12, 0.33, 0.46f, RankProfile::kRising, 160, 800};
constexpr SyntheticActivity kLlama = {0.08, 0.08, 0.10, 0.22, 2, 0.32, 0.063, 0.22, 0.422f, RankProfile::kMiddleFour, 256, 1024};

constexpr std::array<SyntheticShape, 10> kShapes = {{
    {"opt-125m", Architecture::kOpt, 12, 768, 3072, 12, 12, 50272, 2048, kOpt},
    {"opt-1.3b", Architecture::kOpt, 24, 2048, 8192, 32, 32, 50272, 2048, kOpt},
    {"opt-2.7b", Architecture::kOpt, 32, 2560, 10240, 32, 32, 50272, 2048, kOpt},
    {"opt-6.7b", Architecture::kOpt, 32, 4096, 16384, 32, 32, 50272, 2048, kOpt},
    {"opt-13b", Architecture::kOpt, 40, 5120, 20480, 40, 40, 50272, 2048, kOpt},
    {"opt-30b", Architecture::kOpt, 48, 7168, 28672, 56, 56, 50272, 2048, kOpt},
    {"falcon-7b", Architecture::kFalcon, 32, 4544, 18176, 71, 1, 65024, 2048, kFalcon},
    {"persimmon-8b", Architecture::kPersimmon, 36, 4096, 16384, 64, 64, 262144, 16384, kPersimmon},
    {"phi-2", Architecture::kPhi2, 32, 2560, 10240, 32, 32, 51200, 2048, kPhi},
    {"llama-2-7b", Architecture::kLlama, 32, 4096, 11008, 32, 32, 32000, 4096, kLlama},
}};

constexpr float kFatReluThreshold = 0.1f;
constexpr uint32_t kSpecialLayers = 4;  // of larger rank, or without a predictor

void SetFeatures(Architecture architecture, ModelConfig& config) {
  config.architecture = architecture;
  config.ffn_layout = FfnLayout::kUpDown;
  config.rope.dims = config.head_dim;
  switch (architecture) {
    case Architecture::kOpt:
      config.rope.dims = 0;
      config.learned_positions = true;
      config.position_offset = 2;
      return;
    case Architecture::kFalcon:
      config.block_order = BlockOrder::kParallel;
      config.has_ffn_norm = false;
      return;
    case Architecture::kPersimmon:
      config.rope.dims = config.head_dim / 2;
      config.rope.theta = 25000.0f;
      config.head_norm = HeadNorm::kLayer;
      config.activation.kind = ActivationKind::kRelu2;
      config.has_output_matrix = true;
      return;
    case Architecture::kPhi2:
      config.rope.dims = config.head_dim / 5 * 2;  // 0.4 of 80
      config.block_order = BlockOrder::kParallel;
      config.has_ffn_norm = false;
      config.has_output_matrix = true;
      return;
    case Architecture::kLlama:
      config.rope.pairs = RopePairs::kNeighbours;
      config.norm = NormKind::kRms;
      config.activation = {ActivationKind::kFatRelu, kFatReluThreshold};
      config.gated = true;
      config.ffn_layout = FfnLayout::kBundle3;
      config.has_output_matrix = true;
      return;
    default:
      CHECK(false);
  }
}

}  // namespace

double SyntheticActiveShare(const SyntheticActivity& activity, uint32_t layer, uint32_t num_layers) {
  // The parabola with these ends and this mean.
  const double x = num_layers > 1 ? static_cast<double>(layer) / (num_layers - 1) : 0.5;
  const double bend = 6 * ((activity.first_active + activity.last_active) / 2 - activity.mean_active);
  return activity.first_active + (activity.last_active - activity.first_active - bend) * x + bend * x * x;
}

uint32_t SyntheticRank(const SyntheticActivity& activity, uint32_t layer, uint32_t num_layers) {
  // A model of few layers is not made of special ones.
  const uint32_t num_special = num_layers > 2 * kSpecialLayers ? kSpecialLayers : 0;
  switch (activity.ranks) {
    case RankProfile::kLastFour:
      return layer + num_special >= num_layers ? activity.large_rank : activity.rank;
    case RankProfile::kMiddleFour: {
      const uint32_t first = (num_layers - num_special) / 2;
      return layer >= first && layer < first + num_special ? activity.large_rank : activity.rank;
    }
    case RankProfile::kRising:
      break;
  }
  // One layer without a predictor is in every model of this kind.
  const uint32_t num_ranked = num_layers - std::min(std::max(num_special, 1u), num_layers - 1);
  if (layer >= num_ranked) return 0;
  const uint32_t third = std::min(2u, 3 * layer / num_ranked);
  return activity.rank + (activity.large_rank - activity.rank) * third / 2;
}

std::span<const SyntheticShape> SyntheticShapes() { return kShapes; }

Result<SyntheticShape> FindSyntheticShape(std::string_view name) {
  std::string names;
  for (const SyntheticShape& shape : kShapes) {
    if (shape.name == name) return shape;
    names += (names.empty() ? "" : ", ") + std::string(shape.name);
  }
  return MakeError(ErrorCode::kUsage, "shape {}: expected one of {}", name, names);
}

ModelConfig SyntheticConfig(const SyntheticShape& shape, uint32_t num_layers) {
  ModelConfig config;
  config.num_layers = num_layers > 0 ? num_layers : shape.num_layers;
  config.hidden_size = shape.hidden_size;
  config.embedding_size = shape.hidden_size;
  config.ffn_size = shape.ffn_size;
  config.num_heads = shape.num_heads;
  config.num_kv_heads = shape.num_kv_heads;
  config.head_dim = shape.hidden_size / shape.num_heads;
  config.attention_scale = 1.0f / std::sqrt(static_cast<float>(config.head_dim));
  config.vocab_size = shape.vocab_size;
  config.max_context = shape.max_context;
  SetFeatures(shape.architecture, config);
  return config;
}

}  // namespace frugal
