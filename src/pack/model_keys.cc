#include "src/pack/model_keys.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "src/format/packed_format.h"

namespace frugal {
namespace {

// GGUF's general.file_type.
uint32_t FileType(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return 0;
    case DType::kF16:
      return 1;
    case DType::kQ4_0:
      return 2;
    case DType::kQ4_1:
      return 3;
    case DType::kQ8_0:
      return 7;
    case DType::kQ5_0:
      return 8;
    case DType::kQ5_1:
      return 9;
    case DType::kQ2_K:
      return 10;
    case DType::kQ3_K:
      return 11;
    case DType::kQ4_K:
      return 14;
    case DType::kQ5_K:
      return 16;
    case DType::kQ6_K:
      return 18;
    case DType::kIQ4_NL:
      return 25;
    default:
      return 32;  // BF16
  }
}

// Keys below "ARCHITECTURE."
class ArchitectureKeys {
 public:
  ArchitectureKeys(Architecture architecture, GgufWriter& keys) : prefix_(ArchitectureName(architecture)), keys_(keys) {
    prefix_ += '.';
  }
  void Uint(const char* key, uint32_t value) { keys_.AddUint32(prefix_ + key, value); }
  void Float(const char* key, float value) { keys_.AddFloat32(prefix_ + key, value); }
  void Bool(const char* key, bool value) { keys_.AddBool(prefix_ + key, value); }
  void String(const char* key, std::string_view value) { keys_.AddString(prefix_ + key, value); }

 private:
  std::string prefix_;
  GgufWriter& keys_;
};

void AddRopeKeys(const ModelConfig& config, ArchitectureKeys& keys) {
  const Rope& rope = config.rope;
  keys.Uint("rope.dimension_count", rope.dims);
  keys.Float("rope.freq_base", rope.theta);
  if (config.has_local_rope) keys.Float("rope.freq_base_swa", config.local_rope.theta);
  switch (rope.scaling.kind) {
    case RopeScaling::Kind::kNone:
    case RopeScaling::Kind::kLlama3:  // a tensor, rope_freqs.weight
      return;
    case RopeScaling::Kind::kLinear:
      keys.String("rope.scaling.type", "linear");
      keys.Float("rope.scaling.factor", rope.scaling.factor);
      return;
    case RopeScaling::Kind::kYarn:
      break;
  }
  keys.String("rope.scaling.type", "yarn");
  keys.Float("rope.scaling.factor", rope.scaling.factor);
  keys.Uint("rope.scaling.original_context_length", rope.scaling.original_context);
  keys.Float("rope.scaling.yarn_beta_fast", rope.scaling.beta_fast);
  keys.Float("rope.scaling.yarn_beta_slow", rope.scaling.beta_slow);
  // GGUF's readers multiply it by the paper's amplitude.
  const float usual = rope.scaling.factor > 1.0f ? 0.1f * std::log(rope.scaling.factor) + 1.0f : 1.0f;
  keys.Float("rope.scaling.attn_factor", rope.scaling.amplitude / usual);
}

void AddWindowKeys(const ModelConfig& config, ArchitectureKeys& keys, GgufWriter& writer) {
  if (config.layer_windows.empty()) return;
  keys.Uint("attention.sliding_window", *std::max_element(config.layer_windows.begin(), config.layer_windows.end()));
  const std::vector<int32_t> windows(config.layer_windows.begin(), config.layer_windows.end());
  writer.AddInt32Array(kLayerWindowsKey, windows);
}

void AddLayoutKeys(const ModelConfig& config, const ModelLayout& layout, GgufWriter& keys) {
  keys.AddUint32(kPackedVersionKey, kPackedVersion);
  keys.AddString(kBundleLayoutKey, FfnLayoutName(layout.ffn_layout));
  keys.AddString(kActivationKey, ActivationName(config.activation));
  if (layout.ffn_layout == FfnLayout::kMatrices) return;
  keys.AddUint32(kBundleStrideKey, static_cast<uint32_t>(layout.stride_bytes));
  std::string types = fmt::format("{},{}", DTypeName(layout.up_type), DTypeName(layout.down_type));
  if (layout.gate_type) types = fmt::format("{},{}", DTypeName(*layout.gate_type), types);
  for (uint32_t layer = 0; layer < config.num_layers; ++layer) keys.AddString(BundleTypesKey(layer), types);
}

}  // namespace

void AddModelKeys(const ModelConfig& config, const ModelLayout& layout, GgufWriter& writer) {
  const bool is_opt = config.architecture == Architecture::kOpt;
  writer.AddString("general.architecture", ArchitectureName(config.architecture));
  writer.AddString("general.name", layout.name);
  writer.AddUint32("general.file_type", FileType(layout.matrix_type));
  ArchitectureKeys keys(config.architecture, writer);
  keys.Uint("block_count", config.num_layers);
  keys.Uint("embedding_length", config.hidden_size);
  keys.Uint("feed_forward_length", config.ffn_size);
  keys.Uint("attention.head_count", config.num_heads);
  keys.Uint("attention.head_count_kv", config.num_kv_heads);
  keys.Uint("vocab_size", config.vocab_size);
  keys.Uint("context_length", config.max_context);
  keys.Float(config.norm == NormKind::kRms ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon", config.norm_epsilon);
  if (is_opt) {
    keys.Uint("word_embedding_length", config.embedding_size);
    keys.Bool("pre_norm", config.norm_placement == NormPlacement::kPre);
    keys.Bool("final_norm", config.has_final_norm);
  } else {
    keys.Uint("attention.key_length", config.head_dim);
    keys.Uint("attention.value_length", config.head_dim);
    AddRopeKeys(config, keys);
  }
  if (config.architecture == Architecture::kGemma3) keys.Float("attention.scale", config.attention_scale);
  AddWindowKeys(config, keys, writer);
  AddLayoutKeys(config, layout, writer);
}

}  // namespace frugal
