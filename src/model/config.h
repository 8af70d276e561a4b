// Hyper-parameters of a model, in the words of design.md, as a packed file's keys or a config.json give them. Plain data.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "src/base/result.h"

namespace frugal {

class GgufReader;

enum class NormPlacement { kPre, kPost };  // OPT-350m normalises after the residual sum, all others before the block
enum class Architecture { kOpt };

struct ModelConfig {
  Architecture architecture = Architecture::kOpt;
  uint32_t num_layers = 0;
  uint32_t hidden_size = 0;
  uint32_t embedding_size = 0;  // of token embeddings; != hidden_size where project_in/project_out exist (OPT-350m)
  uint32_t ffn_size = 0;
  uint32_t num_heads = 0;
  uint32_t head_dim = 0;
  uint32_t vocab_size = 0;
  uint32_t max_context = 0;
  uint32_t position_offset = 2;  // OPT's position table starts two rows late
  float layer_norm_epsilon = 1e-5f;
  NormPlacement norm_placement = NormPlacement::kPre;
  bool has_final_norm = true;
  bool has_output_matrix = false;  // lm_head of its own; else the token embedding
  int32_t bos_id = -1, eos_id = -1;

  bool has_projections() const { return embedding_size != hidden_size; }
};

// kBadModel naming the key: sizes that are 0 or absurd, hidden_size no multiple of num_heads, and so on. `name` is the file.
Status ValidateConfig(const ModelConfig& config, const std::string& name);

// From Hugging Face's config.json of an OPT model. Kinds that frugal does not run (GELU, no biases ...) are kBadModel.
Result<ModelConfig> ParseOptConfig(const nlohmann::json& json, const std::string& name);
// From the keys of a packed GGUF.
Result<ModelConfig> ReadGgufConfig(const GgufReader& gguf);

}  // namespace frugal
