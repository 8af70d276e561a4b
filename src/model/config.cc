#include "src/model/config.h"

#include <nlohmann/json.hpp>

#include "src/format/gguf_reader.h"

namespace frugal {
namespace {

using Json = nlohmann::json;

Result<uint32_t> JsonUint(const Json& json, const char* key, const std::string& name) {
  const auto found = json.find(key);
  if (found == json.end()) return BadModel("{}: key \"{}\" is missing", name, key);
  if (!found->is_number_integer() || found->get<int64_t>() < 0 || found->get<int64_t>() > INT32_MAX) {
    return BadModel("{}: key \"{}\": expected a number from 0 to 2^31-1, found {}", name, key, found->dump().substr(0, 40));
  }
  return static_cast<uint32_t>(found->get<int64_t>());
}

Result<bool> JsonBool(const Json& json, const char* key, bool otherwise, const std::string& name) {
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) return otherwise;
  if (!found->is_boolean()) return BadModel("{}: key \"{}\": expected true or false", name, key);
  return found->get<bool>();
}

Result<std::string> JsonString(const Json& json, const char* key, const char* otherwise, const std::string& name) {
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) return std::string(otherwise);
  if (!found->is_string()) return BadModel("{}: key \"{}\": expected a string", name, key);
  return found->get<std::string>();
}

Result<int32_t> JsonId(const Json& json, const char* key, const std::string& name) {
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) return -1;
  FRUGAL_ASSIGN(const uint32_t id, JsonUint(json, key, name));
  return static_cast<int32_t>(id);
}

Status CheckRange(const std::string& name, const char* what, uint64_t value, uint64_t low, uint64_t high) {
  if (value >= low && value <= high) return {};
  return BadModel("{}: {} is {}, expected {}..{}", name, what, value, low, high);
}

}  // namespace

Status ValidateConfig(const ModelConfig& config, const std::string& name) {
  FRUGAL_TRY(CheckRange(name, "num_layers", config.num_layers, 1, 1024));
  FRUGAL_TRY(CheckRange(name, "hidden_size", config.hidden_size, 1, 1 << 17));
  FRUGAL_TRY(CheckRange(name, "embedding_size", config.embedding_size, 1, 1 << 17));
  FRUGAL_TRY(CheckRange(name, "ffn_size", config.ffn_size, 1, 1 << 20));
  FRUGAL_TRY(CheckRange(name, "num_heads", config.num_heads, 1, 1 << 12));
  FRUGAL_TRY(CheckRange(name, "vocab_size", config.vocab_size, 1, 1 << 22));
  FRUGAL_TRY(CheckRange(name, "max_context", config.max_context, 1, 1 << 24));
  if (config.hidden_size % config.num_heads != 0) {
    return BadModel("{}: hidden_size {} is no multiple of num_heads {}", name, config.hidden_size, config.num_heads);
  }
  if (!(config.layer_norm_epsilon > 0.0f && config.layer_norm_epsilon < 1.0f)) {
    return BadModel("{}: layer_norm_epsilon is {}, expected a number between 0 and 1", name, config.layer_norm_epsilon);
  }
  return {};
}

Result<ModelConfig> ParseOptConfig(const Json& json, const std::string& name) {
  if (!json.is_object()) return BadModel("{}: expected a JSON object", name);
  FRUGAL_ASSIGN(const std::string model_type, JsonString(json, "model_type", "", name));
  if (model_type != "opt") {
    return BadModel("{}: model_type \"{}\" is not supported, expected \"opt\"", name, model_type);
  }
  FRUGAL_ASSIGN(const std::string activation, JsonString(json, "activation_function", "relu", name));
  if (activation != "relu") {
    return BadModel("{}: activation_function \"{}\" is not supported, expected \"relu\"", name, activation);
  }
  for (const char* key : {"enable_bias", "layer_norm_elementwise_affine"}) {
    FRUGAL_ASSIGN(const bool enabled, JsonBool(json, key, true, name));
    if (!enabled) return BadModel("{}: {} = false is not supported", name, key);
  }
  ModelConfig config;
  FRUGAL_ASSIGN(config.num_layers, JsonUint(json, "num_hidden_layers", name));
  FRUGAL_ASSIGN(config.hidden_size, JsonUint(json, "hidden_size", name));
  FRUGAL_ASSIGN(config.ffn_size, JsonUint(json, "ffn_dim", name));
  FRUGAL_ASSIGN(config.num_heads, JsonUint(json, "num_attention_heads", name));
  FRUGAL_ASSIGN(config.vocab_size, JsonUint(json, "vocab_size", name));
  FRUGAL_ASSIGN(config.max_context, JsonUint(json, "max_position_embeddings", name));
  config.embedding_size = config.hidden_size;
  if (json.contains("word_embed_proj_dim") && !json["word_embed_proj_dim"].is_null()) {
    FRUGAL_ASSIGN(config.embedding_size, JsonUint(json, "word_embed_proj_dim", name));
  }
  FRUGAL_ASSIGN(const bool pre_norm, JsonBool(json, "do_layer_norm_before", true, name));
  FRUGAL_ASSIGN(const bool no_final_norm, JsonBool(json, "_remove_final_layer_norm", false, name));
  FRUGAL_ASSIGN(const bool tied, JsonBool(json, "tie_word_embeddings", true, name));
  config.norm_placement = pre_norm ? NormPlacement::kPre : NormPlacement::kPost;
  // As transformers' OPTDecoder: post-norm models have no final norm.
  config.has_final_norm = pre_norm && !no_final_norm;
  config.has_output_matrix = !tied;
  FRUGAL_ASSIGN(config.bos_id, JsonId(json, "bos_token_id", name));
  FRUGAL_ASSIGN(config.eos_id, JsonId(json, "eos_token_id", name));
  FRUGAL_TRY(ValidateConfig(config, name));
  config.head_dim = config.hidden_size / config.num_heads;
  return config;
}

Result<ModelConfig> ReadGgufConfig(const GgufReader& gguf) {
  const std::string& name = gguf.name();
  FRUGAL_ASSIGN(const std::string architecture, gguf.GetString("general.architecture"));
  if (architecture != "opt") return BadModel("{}: architecture \"{}\" is not supported, expected \"opt\"", name, architecture);
  const auto uint32 = [&gguf, &name](const char* key) -> Result<uint32_t> {
    FRUGAL_ASSIGN(const uint64_t value, gguf.GetUint(key));
    if (value > UINT32_MAX) return BadModel("{}: {} is {}, expected at most 2^32-1", name, key, value);
    return static_cast<uint32_t>(value);
  };
  ModelConfig config;
  FRUGAL_ASSIGN(config.num_layers, uint32("opt.block_count"));
  FRUGAL_ASSIGN(config.hidden_size, uint32("opt.embedding_length"));
  FRUGAL_ASSIGN(config.ffn_size, uint32("opt.feed_forward_length"));
  FRUGAL_ASSIGN(config.num_heads, uint32("opt.attention.head_count"));
  FRUGAL_ASSIGN(config.vocab_size, uint32("opt.vocab_size"));
  FRUGAL_ASSIGN(config.max_context, uint32("opt.context_length"));
  FRUGAL_ASSIGN(config.embedding_size, uint32("opt.word_embedding_length"));
  FRUGAL_ASSIGN(const double epsilon, gguf.GetFloat("opt.attention.layer_norm_epsilon"));
  FRUGAL_ASSIGN(const bool pre_norm, gguf.GetBool("opt.pre_norm"));
  FRUGAL_ASSIGN(config.has_final_norm, gguf.GetBool("opt.final_norm"));
  config.layer_norm_epsilon = static_cast<float>(epsilon);
  config.norm_placement = pre_norm ? NormPlacement::kPre : NormPlacement::kPost;
  config.has_output_matrix = gguf.FindTensor("output.weight") != nullptr;
  const auto id = [&gguf](const char* key) -> Result<int32_t> {
    if (gguf.Find(key) == nullptr) return -1;
    FRUGAL_ASSIGN(const uint64_t value, gguf.GetUint(key));
    return value > INT32_MAX ? -1 : static_cast<int32_t>(value);
  };
  FRUGAL_ASSIGN(config.bos_id, id("tokenizer.ggml.bos_token_id"));
  FRUGAL_ASSIGN(config.eos_id, id("tokenizer.ggml.eos_token_id"));
  FRUGAL_TRY(ValidateConfig(config, name));
  config.head_dim = config.hidden_size / config.num_heads;
  return config;
}

}  // namespace frugal
