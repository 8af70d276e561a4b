// Hyper-parameters from Hugging Face's config.json. The defaults are those of transformers' configuration classes, for keys that
// published files leave out; the sizes of a model have none: every published file has them.
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "src/model/config.h"

namespace frugal {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kModelTypes[] = {"opt",     "falcon",      "RefinedWeb",        "RefinedWebModel", "persimmon", "phi",
                                            "llama",   "sparsellama", "llama_sparse_relu", "bamboo",          "mistral",   "nemotron",
                                            "arcee",   "qwen2",       "qwen3",             "gemma3_text"};

// Typed access to the keys of one object; errors name the file and the key.
class Keys {
 public:
  Keys(const Json& json, const std::string& name) : json_(json), name_(name) {}

  const std::string& name() const { return name_; }
  // There, and null.
  bool IsNull(const char* key) const {
    const auto found = json_.find(key);
    return found != json_.end() && found->is_null();
  }
  // nullptr when it is absent or null.
  const Json* Find(const char* key) const {
    const auto found = json_.find(key);
    return found == json_.end() || found->is_null() ? nullptr : &*found;
  }
  Result<uint32_t> Uint(const char* key) const {
    const Json* const found = Find(key);
    if (found == nullptr) return BadModel("{}: key \"{}\" is missing", name_, key);
    if (!found->is_number_integer() || (found->is_number_unsigned() && found->get<uint64_t>() > INT32_MAX) ||
        found->get<int64_t>() < 0) {
      return Wrong(key, *found, "a number from 0 to 2^31-1");
    }
    return static_cast<uint32_t>(found->get<int64_t>());
  }
  Result<uint32_t> Uint(const char* key, uint32_t otherwise) const {
    if (Find(key) == nullptr) return otherwise;
    return Uint(key);
  }
  // Under its present name or an older one.
  Result<uint32_t> UintAs(const char* key, const char* older) const {
    return Find(key) == nullptr && Find(older) != nullptr ? Uint(older) : Uint(key);
  }
  Result<float> Float(const char* key, float otherwise) const {
    const Json* const found = Find(key);
    if (found == nullptr) return otherwise;
    if (!found->is_number()) return Wrong(key, *found, "a number");
    return found->get<float>();
  }
  Result<bool> Bool(const char* key, bool otherwise) const {
    const Json* const found = Find(key);
    if (found == nullptr) return otherwise;
    if (!found->is_boolean()) return Wrong(key, *found, "true or false");
    return found->get<bool>();
  }
  Result<std::string> String(const char* key, const char* otherwise) const {
    const Json* const found = Find(key);
    if (found == nullptr) return std::string(otherwise);
    if (!found->is_string()) return Wrong(key, *found, "a string");
    return found->get<std::string>();
  }
  // A token's id, or the first of several (Llama 3 has three ends).
  Result<int32_t> TokenId(const char* key) const {
    const Json* found = Find(key);
    if (found != nullptr && found->is_array() && !found->empty()) found = &found->front();
    if (found == nullptr) return -1;
    if (!found->is_number_integer() || found->get<int64_t>() < 0 || found->get<int64_t>() > INT32_MAX) return -1;
    return static_cast<int32_t>(found->get<int64_t>());
  }
  Error Wrong(const char* key, const Json& found, const char* expected) const {
    const std::string text = found.dump(-1, ' ', true, Json::error_handler_t::replace);
    return BadModel("{}: key \"{}\": expected {}, found {}", name_, key, expected, text.substr(0, 40));
  }

 private:
  const Json& json_;
  const std::string& name_;
};

// transformers' names of activations.
Result<Activation> NamedActivation(const Keys& keys, const char* key, const char* otherwise) {
  FRUGAL_ASSIGN(const std::string name, keys.String(key, otherwise));
  constexpr struct {
    const char* name;
    ActivationKind kind;
  } kNames[] = {
      {"relu", ActivationKind::kRelu},          {"relu2", ActivationKind::kRelu2},
      {"silu", ActivationKind::kSilu},          {"swish", ActivationKind::kSilu},
      {"gelu", ActivationKind::kGelu},          {"gelu_new", ActivationKind::kGeluTanh},
      {"gelu_fast", ActivationKind::kGeluTanh}, {"gelu_pytorch_tanh", ActivationKind::kGeluTanh},
  };
  for (const auto& known : kNames) {
    if (name == known.name) return Activation{known.kind, 0.0f};
  }
  if (name == "fatrelu") {
    FRUGAL_ASSIGN(const float threshold, keys.Float("hidden_act_param", 0.0f));
    return Activation{ActivationKind::kFatRelu, threshold};
  }
  return BadModel("{}: {} \"{}\" is not supported, expected relu, relu2, fatrelu, silu, gelu, gelu_new or gelu_pytorch_tanh", keys.name(),
                  key, name.substr(0, 40));
}

Status ReadSizes(const Keys& keys, ModelConfig& config) {
  FRUGAL_ASSIGN(config.num_layers, keys.UintAs("num_hidden_layers", "n_layer"));
  FRUGAL_ASSIGN(config.hidden_size, keys.Uint("hidden_size"));
  FRUGAL_ASSIGN(config.num_heads, keys.UintAs("num_attention_heads", "n_head"));
  FRUGAL_ASSIGN(config.vocab_size, keys.Uint("vocab_size"));
  config.embedding_size = config.hidden_size;
  if (config.num_heads == 0) return BadModel("{}: num_heads is 0, expected 1..{}", keys.name(), uint32_t{ConfigLimits::kHeads});
  const uint32_t shared = config.hidden_size / config.num_heads;
  FRUGAL_ASSIGN(config.head_dim, keys.Uint("head_dim", shared));
  if (keys.Find("head_dim") == nullptr && config.hidden_size % config.num_heads != 0) {
    return BadModel("{}: hidden_size {} is no multiple of num_heads {}", keys.name(), config.hidden_size, config.num_heads);
  }
  FRUGAL_ASSIGN(config.num_kv_heads, keys.Uint("num_key_value_heads", config.num_heads));
  FRUGAL_ASSIGN(config.bos_id, keys.TokenId("bos_token_id"));
  FRUGAL_ASSIGN(config.eos_id, keys.TokenId("eos_token_id"));
  return {};
}

Status ReadYarn(const Keys& keys, uint32_t max_context, RopeScaling& scaling) {
  FRUGAL_ASSIGN(const bool truncate, keys.Bool("truncate", true));
  if (!truncate) return BadModel("{}: rope scaling yarn with truncate = false is not supported", keys.name());
  FRUGAL_ASSIGN(scaling.original_context, keys.Uint("original_max_position_embeddings", max_context));
  FRUGAL_ASSIGN(scaling.beta_fast, keys.Float("beta_fast", 32.0f));
  FRUGAL_ASSIGN(scaling.beta_slow, keys.Float("beta_slow", 1.0f));
  // As transformers' _compute_yarn_parameters: DeepSeek's two mscales where both are there, else the paper's.
  FRUGAL_ASSIGN(const float mscale, keys.Float("mscale", 0.0f));
  FRUGAL_ASSIGN(const float mscale_all_dim, keys.Float("mscale_all_dim", 0.0f));
  const auto amplitude = [&](float scale) { return scaling.factor <= 1.0f ? 1.0f : 0.1f * scale * std::log(scaling.factor) + 1.0f; };
  const float usual = mscale != 0.0f && mscale_all_dim != 0.0f ? amplitude(mscale) / amplitude(mscale_all_dim) : amplitude(1.0f);
  FRUGAL_ASSIGN(scaling.amplitude, keys.Float("attention_factor", usual));
  return {};
}

// One description of scaling: rope_scaling of transformers 4, rope_parameters of 5.
Status ReadScaling(const Json& json, const std::string& name, uint32_t max_context, RopeScaling& scaling) {
  if (!json.is_object()) return BadModel("{}: rope scaling: expected an object", name);
  const Keys keys(json, name);
  FRUGAL_ASSIGN(const std::string older, keys.String("type", "default"));
  FRUGAL_ASSIGN(const std::string type, keys.String("rope_type", older.c_str()));
  if (type == "default") return {};
  FRUGAL_ASSIGN(scaling.factor, keys.Float("factor", 1.0f));
  if (type == "linear") {
    scaling.kind = RopeScaling::Kind::kLinear;
    return {};
  }
  if (type == "llama3") {
    scaling.kind = RopeScaling::Kind::kLlama3;
    FRUGAL_ASSIGN(scaling.original_context, keys.Uint("original_max_position_embeddings", max_context));
    FRUGAL_ASSIGN(scaling.low_frequency, keys.Float("low_freq_factor", 1.0f));
    FRUGAL_ASSIGN(scaling.high_frequency, keys.Float("high_freq_factor", 4.0f));
    return {};
  }
  if (type == "yarn") {
    scaling.kind = RopeScaling::Kind::kYarn;
    return ReadYarn(keys, max_context, scaling);
  }
  return BadModel("{}: rope scaling \"{}\" is not supported, expected default, linear, llama3 or yarn", name, type.substr(0, 40));
}

struct RopeDefaults {
  float theta = 10000.0f;
  float rotated_share = 1.0f;
};

Status ReadRope(const Keys& keys, const RopeDefaults& defaults, ModelConfig& config) {
  FRUGAL_ASSIGN(config.rope.theta, keys.Float("rope_theta", defaults.theta));
  FRUGAL_ASSIGN(float share, keys.Float("partial_rotary_factor", defaults.rotated_share));
  const Json* parameters = keys.Find("rope_parameters");
  if (parameters != nullptr) {  // transformers 5; of each kind of layer where there are several
    const Json* const full = Keys(*parameters, keys.name()).Find("full_attention");
    if (full != nullptr) parameters = full;
    if (!parameters->is_object()) return BadModel("{}: key \"rope_parameters\": expected an object", keys.name());
    FRUGAL_ASSIGN(config.rope.theta, Keys(*parameters, keys.name()).Float("rope_theta", config.rope.theta));
    FRUGAL_ASSIGN(share, Keys(*parameters, keys.name()).Float("partial_rotary_factor", share));
  }
  if (!(share > 0.0f && share <= 1.0f)) {
    return BadModel("{}: partial_rotary_factor is {}, expected more than 0 and at most 1", keys.name(), share);
  }
  config.rope.dims = static_cast<uint32_t>(static_cast<float>(config.head_dim) * share);
  const Json* const scaling = parameters != nullptr ? parameters : keys.Find("rope_scaling");
  if (scaling == nullptr) return {};
  return ReadScaling(*scaling, keys.name(), config.max_context, config.rope.scaling);
}

// layer_types where it is there; else all layers from `first` on, but every `period`-th, have the window.
Status ReadWindows(const Keys& keys, uint32_t window, uint32_t first, uint32_t period, ModelConfig& config) {
  if (config.num_layers > ConfigLimits::kLayers) return {};  // ValidateConfig says so
  const Json* const types = keys.Find("layer_types");
  if (types != nullptr && (!types->is_array() || types->size() != config.num_layers)) {
    return BadModel("{}: key \"layer_types\": expected {} strings", keys.name(), config.num_layers);
  }
  for (uint32_t layer = 0; layer < config.num_layers; ++layer) {
    bool has_window = layer >= first && (period == 0 || (layer + 1) % period != 0);
    if (types != nullptr) {
      const Json& type = (*types)[layer];
      if (type != "sliding_attention" && type != "full_attention") {
        return keys.Wrong("layer_types", type, "sliding_attention or full_attention");
      }
      has_window = type == "sliding_attention";
    }
    config.layer_windows.push_back(has_window ? window : 0);
  }
  const bool none = std::all_of(config.layer_windows.begin(), config.layer_windows.end(), [](uint32_t w) { return w == 0; });
  if (none) config.layer_windows.clear();
  return {};
}

Status ParseOpt(const Keys& keys, ModelConfig& config) {
  config.architecture = Architecture::kOpt;
  config.learned_positions = true;
  config.position_offset = 2;
  FRUGAL_ASSIGN(config.activation, NamedActivation(keys, "activation_function", "relu"));
  for (const char* key : {"enable_bias", "layer_norm_elementwise_affine"}) {
    FRUGAL_ASSIGN(const bool enabled, keys.Bool(key, true));
    if (!enabled) return BadModel("{}: {} = false is not supported", keys.name(), key);
  }
  FRUGAL_ASSIGN(config.ffn_size, keys.Uint("ffn_dim"));
  FRUGAL_ASSIGN(config.max_context, keys.Uint("max_position_embeddings"));
  FRUGAL_ASSIGN(config.embedding_size, keys.Uint("word_embed_proj_dim", config.hidden_size));
  FRUGAL_ASSIGN(const bool pre_norm, keys.Bool("do_layer_norm_before", true));
  FRUGAL_ASSIGN(const bool no_final_norm, keys.Bool("_remove_final_layer_norm", false));
  config.norm_placement = pre_norm ? NormPlacement::kPre : NormPlacement::kPost;
  // As transformers' OPTDecoder: post-norm models have no final norm.
  config.has_final_norm = pre_norm && !no_final_norm;
  return {};
}

Status ParseFalcon(const Keys& keys, ModelConfig& config) {
  config.architecture = Architecture::kFalcon;
  FRUGAL_ASSIGN(const bool alibi, keys.Bool("alibi", false));
  FRUGAL_ASSIGN(const bool parallel, keys.Bool("parallel_attn", true));
  FRUGAL_ASSIGN(const bool grouped, keys.Bool("new_decoder_architecture", false));
  FRUGAL_ASSIGN(const bool multi_query, keys.Bool("multi_query", true));
  if (alibi) return BadModel("{}: alibi = true is not supported", keys.name());
  if (!parallel && !grouped) return BadModel("{}: parallel_attn = false is not supported", keys.name());
  config.block_order = BlockOrder::kParallel;
  config.num_kv_heads = multi_query ? 1 : config.num_heads;
  if (grouped) {
    FRUGAL_ASSIGN(const uint32_t older, keys.Uint("n_head_kv", config.num_heads));
    FRUGAL_ASSIGN(config.num_kv_heads, keys.Uint("num_kv_heads", older));
  }
  FRUGAL_ASSIGN(const uint32_t num_norms, keys.Uint("num_ln_in_parallel_attn", grouped ? 2 : 1));
  config.has_ffn_norm = grouped && num_norms == 2;
  FRUGAL_ASSIGN(config.ffn_size, keys.Uint("ffn_hidden_size", 4 * std::min(config.hidden_size, uint32_t{ConfigLimits::kHidden})));
  FRUGAL_ASSIGN(config.activation, NamedActivation(keys, "activation", "gelu"));
  FRUGAL_ASSIGN(config.max_context, keys.Uint("max_position_embeddings", 2048));
  FRUGAL_ASSIGN(config.norm_epsilon, keys.Float("layer_norm_epsilon", 1e-5f));
  return ReadRope(keys, {}, config);
}

Status ParsePersimmon(const Keys& keys, ModelConfig& config) {
  config.architecture = Architecture::kPersimmon;
  config.num_kv_heads = config.num_heads;
  FRUGAL_ASSIGN(config.ffn_size, keys.Uint("intermediate_size"));
  FRUGAL_ASSIGN(config.activation, NamedActivation(keys, "hidden_act", "relu2"));
  FRUGAL_ASSIGN(config.max_context, keys.Uint("max_position_embeddings", 16384));
  FRUGAL_ASSIGN(config.norm_epsilon, keys.Float("layer_norm_eps", 1e-5f));
  FRUGAL_ASSIGN(const bool head_norm, keys.Bool("qk_layernorm", true));
  config.head_norm = head_norm ? HeadNorm::kLayer : HeadNorm::kNone;
  return ReadRope(keys, {.theta = 25000.0f, .rotated_share = 0.5f}, config);
}

Status ParsePhi(const Keys& keys, ModelConfig& config) {
  config.architecture = Architecture::kPhi2;
  config.block_order = BlockOrder::kParallel;
  config.has_ffn_norm = false;
  FRUGAL_ASSIGN(config.ffn_size, keys.Uint("intermediate_size"));
  FRUGAL_ASSIGN(config.activation, NamedActivation(keys, "hidden_act", "gelu_new"));
  FRUGAL_ASSIGN(config.max_context, keys.Uint("max_position_embeddings", 2048));
  FRUGAL_ASSIGN(config.norm_epsilon, keys.Float("layer_norm_eps", 1e-5f));
  FRUGAL_ASSIGN(const bool head_norm, keys.Bool("qk_layernorm", false));
  if (head_norm) return BadModel("{}: qk_layernorm = true is not supported for phi", keys.name());
  return ReadRope(keys, {.rotated_share = 0.5f}, config);
}

Status ParseNemotron(const Keys& keys, ModelConfig& config) {
  config.architecture = Architecture::kNemotron;
  FRUGAL_ASSIGN(config.ffn_size, keys.Uint("intermediate_size"));
  FRUGAL_ASSIGN(config.activation, NamedActivation(keys, "hidden_act", "relu2"));
  FRUGAL_ASSIGN(config.max_context, keys.Uint("max_position_embeddings", 4096));
  FRUGAL_ASSIGN(config.norm_epsilon, keys.Float("norm_eps", 1e-5f));
  return ReadRope(keys, {.rotated_share = 0.5f}, config);
}

// What all gated models with RMSNorm share, Arcee's without gate too.
Status ParseLlamaLike(const Keys& keys, Architecture architecture, const RopeDefaults& rope, uint32_t max_context, const char* activation,
                      ModelConfig& config) {
  config.architecture = architecture;
  config.norm = NormKind::kRms;
  config.gated = architecture != Architecture::kArcee;
  FRUGAL_ASSIGN(config.ffn_size, keys.Uint("intermediate_size"));
  const char* const activation_key = architecture == Architecture::kGemma3 ? "hidden_activation" : "hidden_act";
  FRUGAL_ASSIGN(config.activation, NamedActivation(keys, activation_key, activation));
  FRUGAL_ASSIGN(config.max_context, keys.Uint("max_position_embeddings", max_context));
  FRUGAL_ASSIGN(config.norm_epsilon, keys.Float("rms_norm_eps", architecture == Architecture::kArcee ? 1e-5f : 1e-6f));
  return ReadRope(keys, rope, config);
}

Status ParseLlama(const Keys& keys, const std::string& model_type, ModelConfig& config) {
  FRUGAL_TRY(ParseLlamaLike(keys, Architecture::kLlama, {}, 2048, "silu", config));
  // SparseLM2B says silu, Bamboo relu; their code computes these.
  if (model_type == "llama_sparse_relu") config.activation = {ActivationKind::kRelu, 0.0f};
  if (model_type == "bamboo") config.activation = {ActivationKind::kDRelu, 0.0f};
  if (model_type == "llama" || model_type == "sparsellama" || model_type == "llama_sparse_relu") return {};
  // Mistral, and Bamboo, which is made from it. A file that leaves sliding_window out has transformers' 4096; null says none.
  if (keys.IsNull("sliding_window")) return {};
  FRUGAL_ASSIGN(const uint32_t window, keys.Uint("sliding_window", 4096));
  return ReadWindows(keys, window, 0, 0, config);
}

Status ParseQwen(const Keys& keys, Architecture architecture, ModelConfig& config) {
  if (architecture == Architecture::kQwen3) {
    FRUGAL_ASSIGN(config.head_dim, keys.Uint("head_dim", 128));
    config.head_norm = HeadNorm::kRms;
  }
  FRUGAL_TRY(ParseLlamaLike(keys, architecture, {}, 32768, "silu", config));
  FRUGAL_ASSIGN(const bool uses_window, keys.Bool("use_sliding_window", false));
  if (!uses_window) return {};
  FRUGAL_ASSIGN(const uint32_t window, keys.Uint("sliding_window", 4096));
  FRUGAL_ASSIGN(const uint32_t first, keys.Uint("max_window_layers", 28));
  return ReadWindows(keys, window, first, 0, config);
}

Status ParseGemma3(const Keys& keys, const Json& json, ModelConfig& config) {
  FRUGAL_ASSIGN(config.head_dim, keys.Uint("head_dim", 256));
  FRUGAL_ASSIGN(config.num_kv_heads, keys.Uint("num_key_value_heads", 4));
  FRUGAL_TRY(ParseLlamaLike(keys, Architecture::kGemma3, {.theta = 1e6f}, 131072, "gelu_pytorch_tanh", config));
  config.head_norm = HeadNorm::kRms;
  config.has_post_norms = true;
  config.embedding_scale = std::sqrt(static_cast<float>(config.hidden_size));
  FRUGAL_ASSIGN(const float scalar, keys.Float("query_pre_attn_scalar", 256.0f));
  config.attention_scale = 1.0f / std::sqrt(scalar);
  for (const char* key : {"final_logit_softcapping", "attn_logit_softcapping"}) {
    if (keys.Find(key) != nullptr) return BadModel("{}: {} is not supported, expected null", keys.name(), key);
  }
  FRUGAL_ASSIGN(const bool bidirectional, keys.Bool("use_bidirectional_attention", false));
  if (bidirectional) return BadModel("{}: use_bidirectional_attention = true is not supported", keys.name());
  config.has_local_rope = true;
  config.local_rope = config.rope;
  config.local_rope.scaling = {};
  FRUGAL_ASSIGN(config.local_rope.theta, keys.Float("rope_local_base_freq", 10000.0f));
  const auto parameters = json.find("rope_parameters");
  if (parameters != json.end() && parameters->is_object() && parameters->contains("sliding_attention")) {
    const Json& local = (*parameters)["sliding_attention"];
    if (!local.is_object()) return keys.Wrong("rope_parameters", local, "an object for sliding_attention");
    FRUGAL_ASSIGN(config.local_rope.theta, Keys(local, keys.name()).Float("rope_theta", config.local_rope.theta));
  }
  FRUGAL_ASSIGN(const uint32_t window, keys.Uint("sliding_window", 4096));
  FRUGAL_ASSIGN(const uint32_t later, keys.Uint("_sliding_window_pattern", 6));
  FRUGAL_ASSIGN(const uint32_t period, keys.Uint("sliding_window_pattern", later));
  return ReadWindows(keys, window, 0, period, config);
}

Status ParseModelType(const Keys& keys, const Json& json, const std::string& model_type, ModelConfig& config) {
  if (model_type == "opt") return ParseOpt(keys, config);
  if (model_type == "falcon" || model_type == "RefinedWeb" || model_type == "RefinedWebModel") return ParseFalcon(keys, config);
  if (model_type == "persimmon") return ParsePersimmon(keys, config);
  if (model_type == "phi") return ParsePhi(keys, config);
  if (model_type == "nemotron") return ParseNemotron(keys, config);
  if (model_type == "arcee") return ParseLlamaLike(keys, Architecture::kArcee, {}, 4096, "relu2", config);
  if (model_type == "qwen2") return ParseQwen(keys, Architecture::kQwen2, config);
  if (model_type == "qwen3") return ParseQwen(keys, Architecture::kQwen3, config);
  if (model_type == "gemma3_text") return ParseGemma3(keys, json, config);
  return ParseLlama(keys, model_type, config);
}

// tie_word_embeddings of each class, where the file does not say.
bool TiesByDefault(Architecture architecture) {
  return architecture == Architecture::kOpt || architecture == Architecture::kFalcon || architecture == Architecture::kGemma3;
}

}  // namespace

static Status RefuseExperts(const Json& json, const std::string& name) {
  for (const char* key : {"num_local_experts", "num_experts", "n_routed_experts"}) {
    const auto found = json.find(key);
    if (found == json.end() || !found->is_number_integer() || found->get<int64_t>() <= 0) continue;
    return BadModel("{}: {} is {}: mixture-of-experts models are not supported yet", name, key, found->get<int64_t>());
  }
  return {};
}

Result<ModelConfig> ParseHuggingFaceConfig(const Json& json, const std::string& name) {
  if (!json.is_object()) return BadModel("{}: expected a JSON object", name);
  FRUGAL_TRY(RefuseExperts(json, name));
  const Keys keys(json, name);
  FRUGAL_ASSIGN(const std::string model_type, keys.String("model_type", ""));
  if (std::find(std::begin(kModelTypes), std::end(kModelTypes), model_type) == std::end(kModelTypes)) {
    return BadModel("{}: model_type \"{}\" is not supported, expected one of {}", name, model_type.substr(0, 40),
                    fmt::join(kModelTypes, ", "));
  }
  ModelConfig config;
  FRUGAL_TRY(ReadSizes(keys, config));
  FRUGAL_TRY(ParseModelType(keys, json, model_type, config));
  if (config.attention_scale == 0.0f) config.attention_scale = 1.0f / std::sqrt(static_cast<float>(config.head_dim));
  FRUGAL_ASSIGN(const bool tied, keys.Bool("tie_word_embeddings", TiesByDefault(config.architecture)));
  config.has_output_matrix = !tied;
  FRUGAL_TRY(ValidateConfig(config, name));
  return config;
}

}  // namespace frugal
