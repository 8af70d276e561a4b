// What the tensors of a checkpoint are called, for each architecture as it is published, and how they differ from what a
// packed model holds (docs/packed-model.md): fused projections, rows in another order, norms that lack their 1.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "src/format/tensor_source.h"
#include "src/model/config.h"

namespace frugal {

enum class SourceKind { kHuggingFace, kGguf };

enum class FusedQkv {
  kNone,
  kGroups,   // of each key-value head: its query heads, its key, its value (Falcon)
  kHeads,    // of each head: query, key, value (Persimmon)
  kStacked,  // all queries, all keys, all values (GGUF)
};

// Parts of a layer, without ".weight" and ".bias"; nullptr where the architecture has none.
struct LayerNames {
  const char* attn_norm = nullptr;
  const char* attn_norm_2 = nullptr;
  const char* q = nullptr;
  const char* k = nullptr;
  const char* v = nullptr;
  const char* qkv = nullptr;  // instead of q, k, v
  const char* o = nullptr;
  const char* q_norm = nullptr;
  const char* k_norm = nullptr;
  const char* post_attention_norm = nullptr;
  const char* ffn_norm = nullptr;
  const char* gate = nullptr;
  const char* up = nullptr;
  const char* down = nullptr;
  const char* post_ffw_norm = nullptr;
};

struct SourceNames {
  std::string prefix;  // of all names but `output`: "model.", "transformer.", ...
  const char* embedding = nullptr;
  const char* positions = nullptr;
  const char* final_norm = nullptr;
  const char* output = nullptr;
  const char* layers = nullptr;  // "layers"
  LayerNames layer;
  FusedQkv fused = FusedQkv::kNone;
  bool norms_lack_one = false;        // norms are stored as w and mean 1 + w
  bool turns_halves = false;          // rows of q and k are for RoPE on halves, the packed model's for neighbours
  bool qkv_has_biases = false;        // q, k and v have biases always
  uint32_t num_extra_layers = 0;      // behind the last one, which predict further tokens
  bool linear_has_biases = false;     // all projections have biases always; else where they are there

  std::string Top(const char* name) const { return prefix + name; }
  std::string Layer(uint32_t number, const char* part) const;
};

// `tensors`: which of several prefixes, and whether the projections are fused, is seen from them.
SourceNames FindSourceNames(const ModelConfig& config, SourceKind kind, const TensorSource& tensors);

// Tensors that checkpoints bring and no forward pass uses: inverse frequencies, masks, others' predictors, layers that
// predict several tokens, an output matrix that is the embedding.
bool IsKnownSuperfluous(std::string_view name, const ModelConfig& config, const SourceNames& names);

}  // namespace frugal
