#include "src/model/source_names.h"

#include <fmt/format.h>

#include <charconv>
#include <initializer_list>

namespace frugal {
namespace {

// Llama's, which most others share.
LayerNames LlamaNames() {
  LayerNames names;
  names.attn_norm = "input_layernorm";
  names.q = "self_attn.q_proj";
  names.k = "self_attn.k_proj";
  names.v = "self_attn.v_proj";
  names.o = "self_attn.o_proj";
  names.q_norm = "self_attn.q_norm";
  names.k_norm = "self_attn.k_norm";
  names.ffn_norm = "post_attention_layernorm";
  names.gate = "mlp.gate_proj";
  names.up = "mlp.up_proj";
  names.down = "mlp.down_proj";
  return names;
}

LayerNames OptNames() {
  LayerNames names = LlamaNames();
  names.attn_norm = "self_attn_layer_norm";
  names.o = "self_attn.out_proj";
  names.ffn_norm = "final_layer_norm";
  names.up = "fc1";
  names.down = "fc2";
  return names;
}

LayerNames FalconNames(const ModelConfig& config) {
  LayerNames names;
  // With two norms llama.cpp calls the FFN's attn_norm and attention's attn_norm_2.
  names.attn_norm = config.has_ffn_norm ? "ln_mlp" : "input_layernorm";
  names.attn_norm_2 = config.has_ffn_norm ? "ln_attn" : nullptr;
  names.qkv = "self_attention.query_key_value";
  names.o = "self_attention.dense";
  names.up = "mlp.dense_h_to_4h";
  names.down = "mlp.dense_4h_to_h";
  return names;
}

LayerNames PersimmonNames() {
  LayerNames names = LlamaNames();
  names.q = names.k = names.v = nullptr;
  names.qkv = "self_attn.query_key_value";
  names.o = "self_attn.dense";
  names.q_norm = "self_attn.q_layernorm";
  names.k_norm = "self_attn.k_layernorm";
  names.up = "mlp.dense_h_to_4h";
  names.down = "mlp.dense_4h_to_h";
  return names;
}

LayerNames PhiNames() {
  LayerNames names = LlamaNames();
  names.o = "self_attn.dense";
  names.ffn_norm = nullptr;
  names.up = "mlp.fc1";
  names.down = "mlp.fc2";
  return names;
}

LayerNames GemmaNames() {
  LayerNames names = LlamaNames();
  names.post_attention_norm = "post_attention_layernorm";
  names.ffn_norm = "pre_feedforward_layernorm";
  names.post_ffw_norm = "post_feedforward_layernorm";
  return names;
}

SourceNames HuggingFaceNames(const ModelConfig& config) {
  SourceNames names;
  names.embedding = "embed_tokens";
  names.final_norm = "norm";
  names.output = "lm_head";
  names.layers = "layers";
  names.layer = LlamaNames();
  switch (config.architecture) {
    case Architecture::kOpt:
      names.positions = "embed_positions";
      names.final_norm = "final_layer_norm";
      names.layer = OptNames();
      names.linear_has_biases = true;
      break;
    case Architecture::kFalcon:
      names.embedding = "word_embeddings";
      names.final_norm = "ln_f";
      names.layers = "h";
      names.layer = FalconNames(config);
      names.fused = FusedQkv::kGroups;
      break;
    case Architecture::kPersimmon:
      names.final_norm = "final_layernorm";
      names.layer = PersimmonNames();
      names.fused = FusedQkv::kHeads;
      names.linear_has_biases = true;
      break;
    case Architecture::kPhi2:
      names.final_norm = "final_layernorm";
      names.layer = PhiNames();
      names.linear_has_biases = true;
      break;
    case Architecture::kLlama:
    case Architecture::kArcee:
      names.turns_halves = true;
      break;
    case Architecture::kNemotron:
      names.norms_lack_one = true;
      break;
    case Architecture::kQwen2:
      names.qkv_has_biases = true;
      break;
    case Architecture::kQwen3:
      break;
    case Architecture::kGemma3:
      names.layer = GemmaNames();
      names.norms_lack_one = true;
      break;
  }
  return names;
}

SourceNames GgufNames(const ModelConfig& config, const TensorSource& tensors) {
  SourceNames names;
  names.embedding = "token_embd";
  names.positions = "position_embd";
  names.final_norm = "output_norm";
  names.output = "output";
  names.layers = "blk";
  LayerNames& layer = names.layer;
  layer.attn_norm = "attn_norm";
  layer.attn_norm_2 = "attn_norm_2";
  layer.q = "attn_q";
  layer.k = "attn_k";
  layer.v = "attn_v";
  layer.o = "attn_output";
  layer.q_norm = "attn_q_norm";
  layer.k_norm = "attn_k_norm";
  layer.post_attention_norm = "post_attention_norm";
  layer.ffn_norm = "ffn_norm";
  layer.gate = "ffn_gate";
  layer.up = "ffn_up";
  layer.down = "ffn_down";
  layer.post_ffw_norm = "post_ffw_norm";
  if (tensors.Find("blk.0.attn_qkv.weight") != nullptr) {
    layer.qkv = "attn_qkv";
    names.fused = config.architecture == Architecture::kPersimmon ? FusedQkv::kHeads : FusedQkv::kStacked;
  }
  names.qkv_has_biases = config.architecture == Architecture::kQwen2;
  return names;
}

// Models that were saved without their head lack the outer prefix.
std::initializer_list<const char*> Prefixes(Architecture architecture) {
  static constexpr std::initializer_list<const char*> kOpt = {"model.decoder.", "decoder.", ""};
  static constexpr std::initializer_list<const char*> kFalcon = {"transformer.", ""};
  static constexpr std::initializer_list<const char*> kOthers = {"model.", ""};
  if (architecture == Architecture::kOpt) return kOpt;
  return architecture == Architecture::kFalcon ? kFalcon : kOthers;
}

}  // namespace

std::string SourceNames::Layer(uint32_t number, const char* part) const {
  return fmt::format("{}{}.{}.{}", prefix, layers, number, part);
}

SourceNames FindSourceNames(const ModelConfig& config, SourceKind kind, const TensorSource& tensors) {
  if (kind == SourceKind::kGguf) return GgufNames(config, tensors);
  SourceNames names = HuggingFaceNames(config);
  names.prefix = *Prefixes(config.architecture).begin();  // for messages, where none fits
  for (const char* prefix : Prefixes(config.architecture)) {
    if (tensors.Find(std::string(prefix) + names.embedding + ".weight") == nullptr) continue;
    names.prefix = prefix;
    break;
  }
  return names;
}

bool IsKnownSuperfluous(std::string_view name, const ModelConfig& config, const SourceNames& names) {
  if (!config.has_output_matrix && name == std::string(names.output) + ".weight") return true;
  for (const std::string_view end : {"rotary_emb.inv_freq", "rotary.inv_freq", "attn.masked_bias", "embed_positions._float_tensor",
                                     "decoder.version", ".position_ids"}) {
    if (name.ends_with(end)) return true;
  }
  if (name.find("mlp.predictor.") != std::string_view::npos || name.starts_with("mtp.") || name.starts_with("model.mtp.")) return true;
  const std::string layers = fmt::format("{}{}.", names.prefix, names.layers);
  if (!name.starts_with(layers)) return false;
  uint32_t layer = 0;
  const auto [at, error] = std::from_chars(name.data() + layers.size(), name.data() + name.size(), layer);
  return error == std::errc() && at != name.data() + name.size() && *at == '.' && layer >= config.num_layers &&
         layer - config.num_layers < names.num_extra_layers;
}

}  // namespace frugal
