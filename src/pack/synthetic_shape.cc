#include "src/pack/synthetic_shape.h"

#include <array>
#include <cmath>

namespace frugal {
namespace {

constexpr std::array<SyntheticShape, 6> kShapes = {{{"opt-125m", 12, 768, 12},
                                                    {"opt-1.3b", 24, 2048, 32},
                                                    {"opt-2.7b", 32, 2560, 32},
                                                    {"opt-6.7b", 32, 4096, 32},
                                                    {"opt-13b", 40, 5120, 40},
                                                    {"opt-30b", 48, 7168, 56}}};
constexpr uint32_t kVocabSize = 50272;
constexpr uint32_t kMaxContext = 2048;

}  // namespace

std::span<const SyntheticShape> SyntheticShapes() { return kShapes; }

ModelConfig OptConfig(uint32_t num_layers, uint32_t hidden_size, uint32_t ffn_size, uint32_t num_heads) {
  ModelConfig config;
  config.num_layers = num_layers;
  config.hidden_size = config.embedding_size = hidden_size;
  config.ffn_size = ffn_size;
  config.num_heads = config.num_kv_heads = num_heads;
  config.head_dim = hidden_size / num_heads;
  config.attention_scale = 1.0f / std::sqrt(static_cast<float>(config.head_dim));
  config.learned_positions = true;
  config.position_offset = 2;
  config.ffn_layout = FfnLayout::kUpDown;
  return config;
}

Result<ModelConfig> SyntheticConfig(std::string_view shape, uint32_t num_layers) {
  std::string names;
  for (const SyntheticShape& known : kShapes) {
    names += (names.empty() ? "" : ", ") + std::string(known.name);
    if (known.name != shape) continue;
    ModelConfig config =
        OptConfig(num_layers > 0 ? num_layers : known.num_layers, known.hidden_size, 4 * known.hidden_size, known.num_heads);
    config.vocab_size = kVocabSize;
    config.max_context = kMaxContext;
    return config;
  }
  return MakeError(ErrorCode::kUsage, "shape {}: expected one of {}", shape, names);
}

}  // namespace frugal
