#include "src/model/checkpoint_map.h"

#include <array>
#include <utility>

#include "src/format/packed_format.h"

namespace frugal {
namespace {

using Kind = MappedTensor::Kind;
using Part = MappedTensor::Part;

// Whether a tensor is there.
enum class Presence { kAlways, kWhereItIs, kNever };

class Mapper {
 public:
  Mapper(Checkpoint& checkpoint, RotatedRows rotated)
      : checkpoint_(checkpoint),
        config_(checkpoint.config()),
        names_(checkpoint.names()),
        turns_halves_(names_.turns_halves && rotated == RotatedRows::kAsGguf) {}

  Result<std::vector<MappedTensor>> Run() {
    FRUGAL_TRY(AddTopVectors());
    for (uint32_t layer = 0; layer < config_.num_layers; ++layer) FRUGAL_TRY(AddLayerVectors(layer));
    FRUGAL_TRY(AddMatrix(names_.Top(names_.embedding), "token_embd.weight", config_.vocab_size, config_.embedding_size));
    if (config_.learned_positions) {
      FRUGAL_TRY(AddMatrix(names_.Top(names_.positions), "position_embd.weight", uint64_t{config_.max_context} + config_.position_offset,
                           config_.hidden_size));
    }
    if (config_.has_output_matrix) {
      FRUGAL_TRY(AddMatrix(names_.output, "output.weight", config_.vocab_size, config_.embedding_size));
    }
    if (config_.has_projections()) {
      FRUGAL_TRY(AddMatrix(names_.Top("project_in"), "project_in.weight", config_.hidden_size, config_.embedding_size));
    }
    for (uint32_t layer = 0; layer < config_.num_layers; ++layer) FRUGAL_TRY(AddLayerMatrices(layer));
    if (config_.has_projections()) {
      FRUGAL_TRY(AddMatrix(names_.Top("project_out"), "project_out.weight", config_.embedding_size, config_.hidden_size));
    }
    return std::move(tensors_);
  }

 private:
  MappedTensor& Add(Kind kind, std::string name, const TensorInfo& source, std::vector<uint64_t> shape) {
    MappedTensor tensor;
    tensor.kind = kind;
    tensor.name = std::move(name);
    tensor.source = &source;
    tensor.shape = std::move(shape);
    tensors_.push_back(std::move(tensor));
    return tensors_.back();
  }

  // nullptr where it need not be there and is not, or is not to be used.
  Result<const TensorInfo*> FindVector(const std::string& from, uint64_t size, Presence presence) {
    const bool is_absent = presence == Presence::kNever || (presence == Presence::kWhereItIs && !checkpoint_.Has(from));
    if (is_absent) return static_cast<const TensorInfo*>(nullptr);
    return checkpoint_.Require(from, std::array{size});
  }

  Status AddVector(Kind kind, const std::string& from, const std::string& to, uint64_t size, Presence presence) {
    FRUGAL_ASSIGN(const TensorInfo* source, FindVector(from, size, presence));
    if (source != nullptr) Add(kind, to, *source, {size});
    return {};
  }

  // Weight, and bias where the norms have one, of what the source calls `from`.
  Status AddNorm(const std::string& from, const std::string& to, uint64_t size, NormKind norm) {
    const Kind kind = names_.norms_lack_one ? Kind::kPlusOne : Kind::kPlain;
    FRUGAL_TRY(AddVector(kind, from + ".weight", to + ".weight", size, Presence::kAlways));
    if (norm == NormKind::kRms) return {};
    return AddVector(Kind::kPlain, from + ".bias", to + ".bias", size, Presence::kAlways);
  }

  Status AddTopVectors() {
    if (config_.has_final_norm) {
      FRUGAL_TRY(AddNorm(names_.Top(names_.final_norm), "output_norm", config_.hidden_size, config_.norm));
    }
    if (config_.has_output_matrix) {
      const bool is_phi = config_.architecture == Architecture::kPhi2;
      FRUGAL_TRY(AddVector(Kind::kPlain, std::string(names_.output) + ".bias", "output.bias", config_.vocab_size,
                           is_phi ? Presence::kAlways : Presence::kWhereItIs));
    }
    return AddRopeFrequencies();
  }

  // Llama 3's scaling, which GGUF has no keys for.
  Status AddRopeFrequencies() {
    constexpr const char* kName = "rope_freqs.weight";
    const uint64_t size = config_.rope.dims / 2;
    if (checkpoint_.gguf() != nullptr) return AddVector(Kind::kPlain, kName, kName, size, Presence::kWhereItIs);
    if (config_.rope.scaling.kind != RopeScaling::Kind::kLlama3) return {};
    MappedTensor tensor;
    tensor.kind = Kind::kValues;
    tensor.name = kName;
    tensor.shape = {size};
    tensor.values = Llama3Divisors(config_.rope);
    tensors_.push_back(std::move(tensor));
    return {};
  }

  // What config.json says no to is ignored, as transformers does, even where it is there.
  Presence BiasPresence(std::optional<bool> declared) const {
    if (names_.linear_has_biases) return Presence::kAlways;
    if (!declared) return Presence::kWhereItIs;
    return *declared ? Presence::kAlways : Presence::kNever;
  }

  Status AddLayerNorm(uint32_t layer, const char* from, const char* to) {
    return AddNorm(names_.Layer(layer, from), LayerTensorName(layer, to), config_.hidden_size, config_.norm);
  }

  Status AddLayerVectors(uint32_t layer) {
    const LayerNames& from = names_.layer;
    FRUGAL_TRY(AddLayerNorm(layer, from.attn_norm, "attn_norm"));
    if (config_.parallel() && config_.has_ffn_norm) FRUGAL_TRY(AddLayerNorm(layer, from.attn_norm_2, "attn_norm_2"));
    FRUGAL_TRY(AddAttentionBiases(layer));
    if (config_.head_norm != HeadNorm::kNone) {
      const NormKind kind = config_.head_norm == HeadNorm::kRms ? NormKind::kRms : NormKind::kLayer;
      FRUGAL_TRY(AddNorm(names_.Layer(layer, from.q_norm), LayerTensorName(layer, "attn_q_norm"), config_.head_dim, kind));
      FRUGAL_TRY(AddNorm(names_.Layer(layer, from.k_norm), LayerTensorName(layer, "attn_k_norm"), config_.head_dim, kind));
    }
    if (config_.has_post_norms) FRUGAL_TRY(AddLayerNorm(layer, from.post_attention_norm, "post_attention_norm"));
    if (!config_.parallel()) FRUGAL_TRY(AddLayerNorm(layer, from.ffn_norm, "ffn_norm"));
    if (config_.has_post_norms) FRUGAL_TRY(AddLayerNorm(layer, from.post_ffw_norm, "post_ffw_norm"));
    FRUGAL_TRY(AddFfnBias(layer, Part::kDown, from.down, "ffn_down.bias", config_.hidden_size));
    FRUGAL_TRY(AddFfnBias(layer, Part::kUp, from.up, "ffn_up.bias", config_.ffn_size));
    return config_.gated ? AddFfnBias(layer, Part::kGate, from.gate, "ffn_gate.bias", config_.ffn_size) : Status();
  }

  Status AddFfnBias(uint32_t layer, Part part, const char* from, const char* to, uint64_t size) {
    FRUGAL_ASSIGN(const TensorInfo* source,
                  FindVector(names_.Layer(layer, from) + ".bias", size, BiasPresence(checkpoint_.ffn_has_biases())));
    if (source == nullptr) return {};
    MappedTensor& tensor = Add(Kind::kPlain, LayerTensorName(layer, to), *source, {size});
    tensor.layer = layer;
    tensor.part = part;
    return {};
  }

  struct ProjectionPart {
    Projection projection;
    const char* source;
    const char* mapped;
    uint64_t rows;
  };
  std::array<ProjectionPart, 3> Projections() const {
    return {{{Projection::kQuery, names_.layer.q, "attn_q", config_.query_size()},
             {Projection::kKey, names_.layer.k, "attn_k", config_.kv_size()},
             {Projection::kValue, names_.layer.v, "attn_v", config_.kv_size()}}};
  }
  bool is_fused() const { return names_.fused != FusedQkv::kNone; }
  uint64_t fused_rows() const { return uint64_t{config_.query_size()} + 2 * uint64_t{config_.kv_size()}; }

  // A part of the projection that `source` is, or is a part of.
  void AddPart(const ProjectionPart& part, std::string to, const TensorInfo& source, std::vector<uint64_t> shape) {
    const bool is_turned = turns_halves_ && part.projection != Projection::kValue;
    const Kind kind = is_fused() || is_turned ? Kind::kRows : Kind::kPlain;
    MappedTensor& tensor = Add(kind, std::move(to), source, std::move(shape));
    if (kind == Kind::kRows) tensor.rows = MapRows(part.projection, names_.fused, turns_halves_, config_);
  }

  Status AddAttentionBiases(uint32_t layer) {
    Presence presence = BiasPresence(checkpoint_.attention_has_biases());
    if (names_.qkv_has_biases) presence = Presence::kAlways;
    for (const ProjectionPart& part : Projections()) {
      const std::string from = names_.Layer(layer, is_fused() ? names_.layer.qkv : part.source) + ".bias";
      FRUGAL_ASSIGN(const TensorInfo* source, FindVector(from, is_fused() ? fused_rows() : part.rows, presence));
      if (source != nullptr) AddPart(part, LayerTensorName(layer, part.mapped) + ".bias", *source, {part.rows});
    }
    return AddVector(Kind::kPlain, names_.Layer(layer, names_.layer.o) + ".bias", LayerTensorName(layer, "attn_output.bias"),
                     config_.hidden_size, BiasPresence(checkpoint_.attention_has_biases()));
  }

  Status AddMatrix(const std::string& from, const std::string& to, uint64_t rows, uint64_t columns) {
    FRUGAL_ASSIGN(const TensorInfo* source, checkpoint_.Require(from + ".weight", std::array{rows, columns}));
    Add(Kind::kPlain, to, *source, {rows, columns});
    return {};
  }

  Status AddFfnMatrix(uint32_t layer, Part part, const char* from, const char* to, uint64_t rows, uint64_t columns) {
    FRUGAL_TRY(AddMatrix(names_.Layer(layer, from), LayerTensorName(layer, to), rows, columns));
    tensors_.back().layer = layer;
    tensors_.back().part = part;
    return {};
  }

  Status AddLayerMatrices(uint32_t layer) {
    const uint64_t hidden_size = config_.hidden_size, ffn_size = config_.ffn_size;
    for (const ProjectionPart& part : Projections()) {
      const std::string from = names_.Layer(layer, is_fused() ? names_.layer.qkv : part.source) + ".weight";
      const std::array shape = {is_fused() ? fused_rows() : part.rows, hidden_size};
      FRUGAL_ASSIGN(const TensorInfo* source, checkpoint_.Require(from, shape));
      AddPart(part, LayerTensorName(layer, part.mapped) + ".weight", *source, {part.rows, hidden_size});
    }
    const LayerNames& from = names_.layer;
    FRUGAL_TRY(AddMatrix(names_.Layer(layer, from.o), LayerTensorName(layer, "attn_output.weight"), hidden_size, config_.query_size()));
    if (config_.gated) FRUGAL_TRY(AddFfnMatrix(layer, Part::kGate, from.gate, "ffn_gate.weight", ffn_size, hidden_size));
    FRUGAL_TRY(AddFfnMatrix(layer, Part::kUp, from.up, "ffn_up.weight", ffn_size, hidden_size));
    return AddFfnMatrix(layer, Part::kDown, from.down, "ffn_down.weight", hidden_size, ffn_size);
  }

  Checkpoint& checkpoint_;
  const ModelConfig& config_;
  const SourceNames& names_;
  const bool turns_halves_;
  std::vector<MappedTensor> tensors_;
};

}  // namespace

Result<std::vector<MappedTensor>> MapCheckpoint(Checkpoint& checkpoint, RotatedRows rotated) {
  return Mapper(checkpoint, rotated).Run();
}

}  // namespace frugal
