// What a model computes, in the words of design.md, as features: the forward pass asks for these and never for an architecture's name.
// Read from a GGUF's keys (config_gguf.cc) or from Hugging Face's config.json (config_huggingface.cc). Plain data.
// Which biases exist is not here: those whose tensors are there (model_file.h).
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"

namespace frugal {

class GgufReader;

// Whose names and keys a file has: GGUF's general.architecture. Llama stands for Mistral and Bamboo too.
enum class Architecture { kOpt, kFalcon, kPersimmon, kPhi2, kLlama, kNemotron, kArcee, kQwen2, kQwen3, kGemma3 };
const char* ArchitectureName(Architecture architecture);  // "opt", "falcon", ...

enum class NormPlacement { kPre, kPost };  // OPT-350m normalises after the residual sum, all others before the block
enum class NormKind { kLayer, kRms };
enum class HeadNorm { kNone, kLayer, kRms };  // of each head's query and key, before the positions

enum class BlockOrder {
  kSerial,    // the FFN sees what attention added
  kParallel,  // attention and FFN see the same residual, and both are added to it (Falcon, Phi-2)
};

enum class ActivationKind {
  kRelu,
  kRelu2,     // max(x, 0)^2
  kFatRelu,   // x above the threshold, else 0
  kDRelu,     // gated: max(gate, 0) * max(up, 0)
  kSilu,
  kGelu,      // by erf
  kGeluTanh,  // its approximation by tanh
};
struct Activation {
  ActivationKind kind = ActivationKind::kRelu;
  float threshold = 0.0f;  // of kFatRelu
  // Whether most neurons are exactly 0, so that they need not be read.
  bool is_sparse() const { return kind <= ActivationKind::kDRelu; }
  bool operator==(const Activation&) const = default;
};
// "relu", "relu2", "fatrelu:0.3", "drelu", "silu", "gelu", "gelu_tanh": the flag --activation and the key frugal.activation.
std::string ActivationName(const Activation& activation);
std::optional<Activation> ParseActivation(std::string_view text);

enum class RopePairs {
  kHalves,      // elements i and i + dims / 2 turn together
  kNeighbours,  // 2 i and 2 i + 1: as llama.cpp's converter orders the rows of Llama and Arcee
};
const char* RopePairsName(RopePairs pairs);  // "halves", "neighbours": the key frugal.rope_pairs

struct RopeScaling {
  enum class Kind { kNone, kLinear, kLlama3, kYarn };
  Kind kind = Kind::kNone;
  float factor = 1.0f;
  uint32_t original_context = 0;                       // kLlama3, kYarn
  float low_frequency = 1.0f, high_frequency = 4.0f;   // kLlama3
  float beta_fast = 32.0f, beta_slow = 1.0f;           // kYarn
  float amplitude = 1.0f;                              // kYarn: of sines and cosines
};

struct Rope {
  uint32_t dims = 0;  // of each head, from its first element on; 0: none (OPT learns its positions)
  float theta = 10000.0f;
  RopePairs pairs = RopePairs::kHalves;
  RopeScaling scaling;
};
// What each pair's angle grows by from one position to the next. // [dims / 2]
std::vector<float> RopeFrequencies(const Rope& rope);
// By what kLlama3 divides each frequency: what llama.cpp's converter writes as rope_freqs.weight. // [dims / 2]
std::vector<float> Llama3Divisors(const Rope& rope);

// How a file lays out the FFN; the values of the key frugal.ffn_layout. Not told by a config.json.
enum class FfnLayout {
  kMatrices,        // no bundles: ffn_gate (if gated), ffn_up, ffn_down, as an ordinary GGUF has them
  kUpDown,          // "up+down": bundles of a model without gate
  kBundle3,         // "bundle3": gate, up, down in a bundle
  kGateAndBundle2,  // "gate+bundle2": ffn_gate a matrix; up and down in a bundle
};
const char* FfnLayoutName(FfnLayout layout);  // "matrices" for kMatrices
std::optional<FfnLayout> ParseFfnLayout(std::string_view text);

struct ModelConfig {
  Architecture architecture = Architecture::kOpt;
  uint32_t num_layers = 0;
  uint32_t hidden_size = 0;
  uint32_t embedding_size = 0;  // of token embeddings; != hidden_size where project_in/project_out exist (OPT-350m)
  uint32_t ffn_size = 0;
  uint32_t num_heads = 0;
  uint32_t num_kv_heads = 0;
  uint32_t head_dim = 0;
  uint32_t vocab_size = 0;
  uint32_t max_context = 0;

  bool learned_positions = false;  // a table of positions is added to the embeddings (OPT)
  uint32_t position_offset = 0;    // its first rows that are not used: OPT's starts two rows late
  Rope rope;
  Rope local_rope;                 // of layers with a window, where has_local_rope (Gemma 3)
  bool has_local_rope = false;

  NormKind norm = NormKind::kLayer;
  float norm_epsilon = 1e-5f;
  NormPlacement norm_placement = NormPlacement::kPre;
  HeadNorm head_norm = HeadNorm::kNone;
  bool has_ffn_norm = true;    // kParallel: false where attention's norm is the FFN's too
  bool has_post_norms = false;  // attention's and the FFN's results are normalised before they are added (Gemma 3)
  bool has_final_norm = true;

  BlockOrder block_order = BlockOrder::kSerial;
  Activation activation;
  bool gated = false;
  float attention_scale = 0.0f;  // of query . key
  float embedding_scale = 1.0f;
  // [num_layers]: so many positions, its own among them, does a token of the layer see; 0: all. Empty: all layers see all.
  std::vector<uint32_t> layer_windows;

  bool has_output_matrix = false;  // lm_head of its own; else the token embedding
  int32_t bos_id = -1, eos_id = -1;
  FfnLayout ffn_layout = FfnLayout::kMatrices;

  bool has_projections() const { return embedding_size != hidden_size; }
  bool parallel() const { return block_order == BlockOrder::kParallel; }
  uint32_t query_size() const { return num_heads * head_dim; }
  uint32_t kv_size() const { return num_kv_heads * head_dim; }
  // Whose keys and values a head of queries sees.
  uint32_t kv_head(uint32_t head) const { return head / (num_heads / num_kv_heads); }
  uint32_t window(uint32_t layer) const { return layer_windows.empty() ? 0 : layer_windows[layer]; }
  const Rope& layer_rope(uint32_t layer) const { return has_local_rope && window(layer) != 0 ? local_rope : rope; }
};

// Longest row of a matrix (hidden_size, ffn_size, all heads) and the other limits of ValidateConfig.
struct ConfigLimits {
  static constexpr uint32_t kLayers = 1024, kHidden = 1 << 17, kFfn = 1 << 20, kHeads = 1 << 12, kHeadDim = 1 << 12, kVocab = 1 << 22,
                            kContext = 1 << 24;
};

// kBadModel naming the field: sizes that are 0 or absurd, heads that do not divide, more rotated elements than a head has, and so on.
// `name` is the file.
Status ValidateConfig(const ModelConfig& config, const std::string& name);

// From Hugging Face's config.json, as transformers 4 and 5 write it; keys that published files leave out have transformers' defaults.
// What frugal does not run is kBadModel and named. Not told by the file: ffn_layout.
Result<ModelConfig> ParseHuggingFaceConfig(const nlohmann::json& json, const std::string& name);
// From the keys of a GGUF, packed by frugal or written by llama.cpp's converter. `activation` replaces what the file says.
Result<ModelConfig> ReadGgufConfig(const GgufReader& gguf, std::optional<Activation> activation = std::nullopt);

}  // namespace frugal
