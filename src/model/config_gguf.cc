// Hyper-parameters from a GGUF's keys: llama.cpp's names, and frugal's where llama.cpp has none (docs/packed-model.md).
#include <algorithm>
#include <cmath>

#include "src/format/gguf_reader.h"
#include "src/format/packed_format.h"
#include "src/format/untrusted_text.h"
#include "src/model/config.h"

namespace frugal {
namespace {

constexpr const char* kRopePairsKey = "frugal.rope_pairs";
constexpr uint32_t kGemmaWindowPeriod = 6;     // five layers with a window, then one without
constexpr uint32_t kLayersOfGemma27b = 62;     // the one size whose attention scale is another; no key tells it

// What llama.cpp knows about an architecture without a key.
struct Defaults {
  Architecture architecture;
  NormKind norm;
  ActivationKind activation;
  bool gated;
  RopePairs pairs;
};
constexpr Defaults kDefaults[] = {
    {Architecture::kOpt, NormKind::kLayer, ActivationKind::kRelu, false, RopePairs::kHalves},
    {Architecture::kFalcon, NormKind::kLayer, ActivationKind::kGelu, false, RopePairs::kHalves},
    {Architecture::kPersimmon, NormKind::kLayer, ActivationKind::kRelu2, false, RopePairs::kHalves},
    {Architecture::kPhi2, NormKind::kLayer, ActivationKind::kGeluTanh, false, RopePairs::kHalves},
    {Architecture::kLlama, NormKind::kRms, ActivationKind::kSilu, true, RopePairs::kNeighbours},
    {Architecture::kNemotron, NormKind::kLayer, ActivationKind::kRelu2, false, RopePairs::kHalves},
    {Architecture::kArcee, NormKind::kRms, ActivationKind::kRelu2, false, RopePairs::kNeighbours},
    {Architecture::kQwen2, NormKind::kRms, ActivationKind::kSilu, true, RopePairs::kHalves},
    {Architecture::kQwen3, NormKind::kRms, ActivationKind::kSilu, true, RopePairs::kHalves},
    {Architecture::kGemma3, NormKind::kRms, ActivationKind::kGeluTanh, true, RopePairs::kHalves},
};

Result<const Defaults*> FindDefaults(const std::string& architecture, const std::string& name) {
  std::string known;
  for (const Defaults& defaults : kDefaults) {
    if (architecture == ArchitectureName(defaults.architecture)) return &defaults;
    known += (known.empty() ? "" : ", ") + std::string(ArchitectureName(defaults.architecture));
  }
  return BadModel("{}: architecture \"{}\" is not supported, expected one of {}", name, architecture.substr(0, 64), known);
}

// Keys below "ARCHITECTURE."
class Keys {
 public:
  Keys(const GgufReader& gguf, const char* prefix) : gguf_(gguf), prefix_(std::string(prefix) + ".") {}

  std::string Name(const char* key) const { return prefix_ + key; }
  bool Has(const char* key) const { return gguf_.Find(Name(key)) != nullptr; }
  Result<uint32_t> Uint(const char* key) const {
    FRUGAL_ASSIGN(const uint64_t value, gguf_.GetUint(Name(key)));
    if (value > UINT32_MAX) return BadModel("{}: {} is {}, expected at most 2^32-1", gguf_.name(), Name(key), value);
    return static_cast<uint32_t>(value);
  }
  Result<uint32_t> Uint(const char* key, uint32_t otherwise) const {
    if (!Has(key)) return otherwise;
    return Uint(key);
  }
  Result<float> Float(const char* key) const {
    FRUGAL_ASSIGN(const double value, gguf_.GetFloat(Name(key)));
    return static_cast<float>(value);
  }
  Result<float> Float(const char* key, float otherwise) const {
    if (!Has(key)) return otherwise;
    return Float(key);
  }
  Result<bool> Bool(const char* key, bool otherwise) const {
    if (!Has(key)) return otherwise;
    return gguf_.GetBool(Name(key));
  }
  Result<std::string> String(const char* key, const char* otherwise) const {
    if (!Has(key)) return std::string(otherwise);
    return gguf_.GetString(Name(key));
  }

 private:
  const GgufReader& gguf_;
  const std::string prefix_;
};

Status ReadSizes(const GgufReader& gguf, const Keys& keys, ModelConfig& config) {
  FRUGAL_ASSIGN(config.num_layers, keys.Uint("block_count"));
  FRUGAL_ASSIGN(config.hidden_size, keys.Uint("embedding_length"));
  FRUGAL_ASSIGN(config.embedding_size, keys.Uint("word_embedding_length", config.hidden_size));
  FRUGAL_ASSIGN(config.ffn_size, keys.Uint("feed_forward_length"));
  FRUGAL_ASSIGN(config.max_context, keys.Uint("context_length"));
  FRUGAL_ASSIGN(config.num_heads, keys.Uint("attention.head_count"));
  FRUGAL_ASSIGN(config.num_kv_heads, keys.Uint("attention.head_count_kv", config.num_heads));
  if (!keys.Has("attention.key_length") && (config.num_heads == 0 || config.hidden_size % config.num_heads != 0)) {
    return BadModel("{}: hidden_size {} is no multiple of num_heads {}", gguf.name(), config.hidden_size, config.num_heads);
  }
  const uint32_t shared = config.num_heads == 0 ? 0 : config.hidden_size / config.num_heads;
  FRUGAL_ASSIGN(config.head_dim, keys.Uint("attention.key_length", shared));
  FRUGAL_ASSIGN(const uint32_t value_length, keys.Uint("attention.value_length", config.head_dim));
  if (value_length != config.head_dim) {
    return BadModel("{}: {} is {}, expected {} as {}", gguf.name(), keys.Name("attention.value_length"), value_length, config.head_dim,
                    keys.Name("attention.key_length"));
  }
  if (keys.Has("vocab_size")) {
    FRUGAL_ASSIGN(config.vocab_size, keys.Uint("vocab_size"));
    return {};
  }
  const TensorInfo* const embedding = gguf.FindTensor("token_embd.weight");  // older files have no key
  if (embedding == nullptr) return BadModel("{}: tensor token_embd.weight is missing", gguf.name());
  config.vocab_size = static_cast<uint32_t>(std::min<uint64_t>(embedding->rows(), UINT32_MAX));
  return {};
}

Result<RopeScaling> ReadScaling(const GgufReader& gguf, const Keys& keys) {
  RopeScaling scaling;
  FRUGAL_ASSIGN(const std::string type, keys.String("rope.scaling.type", "none"));
  if (!keys.Has("rope.scaling.type") && keys.Has("rope.scale_linear")) {
    scaling.kind = RopeScaling::Kind::kLinear;
    FRUGAL_ASSIGN(scaling.factor, keys.Float("rope.scale_linear"));
    return scaling;
  }
  if (type == "none") return scaling;
  FRUGAL_ASSIGN(scaling.factor, keys.Float("rope.scaling.factor", 1.0f));
  if (type == "linear") {
    scaling.kind = RopeScaling::Kind::kLinear;
    return scaling;
  }
  if (type != "yarn") {
    return BadModel("{}: {} \"{}\" is not supported, expected none, linear or yarn", gguf.name(), keys.Name("rope.scaling.type"),
                    type.substr(0, 40));
  }
  scaling.kind = RopeScaling::Kind::kYarn;
  FRUGAL_ASSIGN(scaling.original_context, keys.Uint("rope.scaling.original_context_length"));
  FRUGAL_ASSIGN(scaling.beta_fast, keys.Float("rope.scaling.yarn_beta_fast", 32.0f));
  FRUGAL_ASSIGN(scaling.beta_slow, keys.Float("rope.scaling.yarn_beta_slow", 1.0f));
  FRUGAL_ASSIGN(const float attention_factor, keys.Float("rope.scaling.attn_factor", 1.0f));
  scaling.amplitude = attention_factor * (scaling.factor > 1.0f ? 0.1f * std::log(scaling.factor) + 1.0f : 1.0f);
  return scaling;
}

Status ReadRope(const GgufReader& gguf, const Keys& keys, const Defaults& defaults, ModelConfig& config) {
  if (config.learned_positions) return {};
  Rope& rope = config.rope;
  FRUGAL_ASSIGN(rope.dims, keys.Uint("rope.dimension_count", config.head_dim));
  FRUGAL_ASSIGN(rope.theta, keys.Float("rope.freq_base", 10000.0f));
  rope.pairs = defaults.pairs;
  if (gguf.Find(kRopePairsKey) != nullptr) {
    FRUGAL_ASSIGN(const std::string pairs, gguf.GetString(kRopePairsKey));
    if (pairs != RopePairsName(RopePairs::kHalves) && pairs != RopePairsName(RopePairs::kNeighbours)) {
      return BadModel("{}: {} is \"{}\", expected halves or neighbours", gguf.name(), kRopePairsKey, pairs.substr(0, 40));
    }
    rope.pairs = pairs == RopePairsName(RopePairs::kHalves) ? RopePairs::kHalves : RopePairs::kNeighbours;
  }
  FRUGAL_ASSIGN(rope.scaling, ReadScaling(gguf, keys));
  config.has_local_rope = config.architecture == Architecture::kGemma3;
  if (!config.has_local_rope) return {};
  config.local_rope = rope;
  config.local_rope.scaling = {};
  FRUGAL_ASSIGN(config.local_rope.theta, keys.Float("rope.freq_base_swa", 10000.0f));
  return {};
}

Status ReadWindows(const GgufReader& gguf, const Keys& keys, ModelConfig& config) {
  if (gguf.Find(kLayerWindowsKey) != nullptr) {
    return gguf.ForEachInt(kLayerWindowsKey, [&](uint64_t layer, int64_t window) -> Status {
      if (layer >= config.num_layers || window < 0 || window > ConfigLimits::kContext) {
        return BadModel("{}: {}[{}] is {}, expected {} entries of 0..{}", gguf.name(), kLayerWindowsKey, layer, window, config.num_layers,
                        uint32_t{ConfigLimits::kContext});
      }
      config.layer_windows.push_back(static_cast<uint32_t>(window));
      return {};
    });
  }
  FRUGAL_ASSIGN(const uint32_t window, keys.Uint("attention.sliding_window", 0));
  // llama.cpp's converter writes the key for Qwen and Phi too, whose windows are off or cover the context.
  const bool applies = config.architecture == Architecture::kGemma3 || config.architecture == Architecture::kLlama;
  if (window == 0 || !applies) return {};
  uint32_t period = config.architecture == Architecture::kGemma3 ? kGemmaWindowPeriod : 0;
  const GgufKeyValue* const pattern = gguf.Find(keys.Name("attention.sliding_window_pattern"));
  if (pattern != nullptr && pattern->type != GgufType::kArray) {
    FRUGAL_ASSIGN(period, keys.Uint("attention.sliding_window_pattern"));
  }
  for (uint32_t layer = 0; layer < config.num_layers; ++layer) {
    config.layer_windows.push_back(period != 0 && (layer + 1) % period == 0 ? 0 : window);
  }
  return {};
}

Status ReadFfn(const GgufReader& gguf, const Defaults& defaults, std::optional<Activation> activation, ModelConfig& config) {
  config.gated = defaults.gated;
  config.activation.kind = defaults.activation;
  if (gguf.Find(kActivationKey) != nullptr) {
    FRUGAL_ASSIGN(const std::string text, gguf.GetString(kActivationKey));
    const std::optional<Activation> parsed = ParseActivation(text);
    if (!parsed) {
      return BadModel("{}: {} is \"{}\", expected relu, relu2, fatrelu:THRESHOLD, drelu, silu, gelu or gelu_tanh", gguf.name(),
                      kActivationKey, text.substr(0, 40));
    }
    config.activation = *parsed;
  }
  if (activation) config.activation = *activation;
  if (gguf.Find(kPackedVersionKey) == nullptr) return {};
  if (gguf.Find(kBundleLayoutKey) == nullptr) {
    config.ffn_layout = FfnLayout::kUpDown;
    return {};
  }
  FRUGAL_ASSIGN(const std::string text, gguf.GetString(kBundleLayoutKey));
  const std::optional<FfnLayout> layout = ParseFfnLayout(text);
  if (!layout) {
    return BadModel("{}: {} is \"{}\", expected up+down, bundle3, gate+bundle2 or matrices", gguf.name(), kBundleLayoutKey,
                    text.substr(0, 40));
  }
  config.ffn_layout = *layout;
  return {};
}

Result<int32_t> ReadTokenId(const GgufReader& gguf, const char* key) {
  if (gguf.Find(key) == nullptr) return -1;
  FRUGAL_ASSIGN(const uint64_t value, gguf.GetUint(key));
  return value > INT32_MAX ? -1 : static_cast<int32_t>(value);
}

// What the norms are and where; which architecture has which is no key.
Status ReadBlock(const GgufReader& gguf, const Keys& keys, const Defaults& defaults, ModelConfig& config) {
  config.norm = defaults.norm;
  const char* const epsilon_key = config.norm == NormKind::kRms ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon";
  FRUGAL_ASSIGN(config.norm_epsilon, keys.Float(epsilon_key));
  FRUGAL_ASSIGN(const bool pre_norm, keys.Bool("pre_norm", true));
  FRUGAL_ASSIGN(config.has_final_norm, keys.Bool("final_norm", true));
  config.norm_placement = pre_norm ? NormPlacement::kPre : NormPlacement::kPost;
  const bool parallel = config.architecture == Architecture::kFalcon || config.architecture == Architecture::kPhi2;
  if (parallel) {
    config.block_order = BlockOrder::kParallel;
    config.has_ffn_norm = gguf.FindTensor("blk.0.attn_norm_2.weight") != nullptr;
  }
  if (gguf.FindTensor("blk.0.attn_q_norm.weight") != nullptr) {
    config.head_norm = config.norm == NormKind::kRms ? HeadNorm::kRms : HeadNorm::kLayer;
  }
  config.has_post_norms = config.architecture == Architecture::kGemma3;
  const bool gemma_27b = config.architecture == Architecture::kGemma3 && config.num_layers == kLayersOfGemma27b;
  const uint32_t scaled_by = gemma_27b && config.num_heads > 0 ? config.hidden_size / config.num_heads : config.head_dim;
  FRUGAL_ASSIGN(config.attention_scale, keys.Float("attention.scale", 1.0f / std::sqrt(static_cast<float>(scaled_by))));
  const bool gemma = config.architecture == Architecture::kGemma3;
  FRUGAL_ASSIGN(config.embedding_scale,
                keys.Float("embedding_scale", gemma ? std::sqrt(static_cast<float>(config.hidden_size)) : 1.0f));
  return {};
}

// llama.cpp's llama-gguf-split writes models in parts; each names its number and how many there are.
Status RefuseParts(const GgufReader& gguf) {
  if (gguf.Find("split.count") == nullptr) return {};
  FRUGAL_ASSIGN(const uint64_t count, gguf.GetUint("split.count"));
  if (count <= 1) return {};
  return BadModel("{}: split.count is {}: it is one of {} parts of a model, which `llama-gguf-split --merge` joins", gguf.name(), count,
                  count);
}

Status RefuseExperts(const GgufReader& gguf, const std::string& architecture) {
  const std::string key = architecture + ".expert_count";
  if (gguf.Find(key) == nullptr) return {};
  FRUGAL_ASSIGN(const uint64_t count, gguf.GetUint(key));
  if (count == 0) return {};
  return BadModel("{}: {} is {}: mixture-of-experts models are not supported yet", gguf.name(), Printable(key), count);
}

}  // namespace

Result<ModelConfig> ReadGgufConfig(const GgufReader& gguf, std::optional<Activation> activation) {
  FRUGAL_TRY(RefuseParts(gguf));
  FRUGAL_ASSIGN(const std::string architecture, gguf.GetString("general.architecture"));
  FRUGAL_TRY(RefuseExperts(gguf, architecture));
  FRUGAL_ASSIGN(const Defaults* defaults, FindDefaults(architecture, gguf.name()));
  const Keys keys(gguf, ArchitectureName(defaults->architecture));
  ModelConfig config;
  config.architecture = defaults->architecture;
  config.learned_positions = config.architecture == Architecture::kOpt;
  config.position_offset = config.learned_positions ? 2 : 0;
  FRUGAL_TRY(ReadSizes(gguf, keys, config));
  FRUGAL_TRY(ReadBlock(gguf, keys, *defaults, config));
  FRUGAL_TRY(ReadRope(gguf, keys, *defaults, config));
  if (config.num_layers <= ConfigLimits::kLayers) FRUGAL_TRY(ReadWindows(gguf, keys, config));
  FRUGAL_TRY(ReadFfn(gguf, *defaults, activation, config));
  config.has_output_matrix = gguf.FindTensor("output.weight") != nullptr;
  FRUGAL_ASSIGN(config.bos_id, ReadTokenId(gguf, "tokenizer.ggml.bos_token_id"));
  FRUGAL_ASSIGN(config.eos_id, ReadTokenId(gguf, "tokenizer.ggml.eos_token_id"));
  FRUGAL_TRY(ValidateConfig(config, gguf.name()));
  return config;
}

}  // namespace frugal
