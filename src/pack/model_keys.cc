#include "src/pack/model_keys.h"

#include <fmt/format.h>

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

}  // namespace

void AddModelKeys(const ModelConfig& config, const ModelLayout& layout, GgufWriter& keys) {
  keys.AddString("general.architecture", "opt");
  keys.AddString("general.name", layout.name);
  keys.AddUint32("general.file_type", FileType(layout.up_type));
  keys.AddUint32("opt.block_count", config.num_layers);
  keys.AddUint32("opt.embedding_length", config.hidden_size);
  keys.AddUint32("opt.feed_forward_length", config.ffn_size);
  keys.AddUint32("opt.attention.head_count", config.num_heads);
  keys.AddUint32("opt.attention.head_count_kv", config.num_heads);
  keys.AddUint32("opt.vocab_size", config.vocab_size);
  keys.AddUint32("opt.context_length", config.max_context);
  keys.AddUint32("opt.word_embedding_length", config.embedding_size);
  keys.AddFloat32("opt.attention.layer_norm_epsilon", config.layer_norm_epsilon);
  keys.AddBool("opt.pre_norm", config.norm_placement == NormPlacement::kPre);
  keys.AddBool("opt.final_norm", config.has_final_norm);
  keys.AddUint32(kPackedVersionKey, kPackedVersion);
  keys.AddUint32(kBundleStrideKey, static_cast<uint32_t>(layout.stride_bytes));
  keys.AddString(kBundleLayoutKey, "up+down");
  keys.AddString("frugal.activation", "relu");
  const std::string types = fmt::format("{},{}", DTypeName(layout.up_type), DTypeName(layout.down_type));
  for (uint32_t layer = 0; layer < config.num_layers; ++layer) keys.AddString(BundleTypesKey(layer), types);
}

}  // namespace frugal
