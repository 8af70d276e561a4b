#include "src/pack/pack_plan.h"

#include <algorithm>
#include <array>
#include <utility>

#include "src/base/bytes.h"
#include "src/format/hashed_gguf_writer.h"
#include "src/format/packed_format.h"

namespace frugal {
namespace {

using Kind = PlannedTensor::Kind;

// Whether a tensor is there.
enum class Presence { kAlways, kWhereItIs, kNever };

class Planner {
 public:
  Planner(Checkpoint& checkpoint, const PackPlanOptions& options)
      : checkpoint_(checkpoint), config_(checkpoint.config()), names_(checkpoint.names()), options_(options) {
    plan_.layout = LayoutOf(config_, options.layout);
  }

  // Vectors come first: an engine reads all of them when it opens. Then what a token needs, in the order in
  // which it needs it, so that a pass over the file is sequential.
  Result<PackPlan> Run() {
    FRUGAL_TRY(CheckBlocks());
    FRUGAL_TRY(AddTopVectors());
    for (uint32_t layer = 0; layer < config_.num_layers; ++layer) FRUGAL_TRY(AddLayerVectors(layer));
    FRUGAL_TRY(AddMatrix(names_.Top(names_.embedding), "token_embd.weight", config_.vocab_size, config_.embedding_size));
    if (config_.learned_positions) FRUGAL_TRY(AddPositionTable());
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
    for (uint32_t layer = 0; has_bundles() && layer < config_.num_layers; ++layer) AddOrder(layer);
    AddLargestDifference();
    return std::move(plan_);
  }

 private:
  static FfnLayout LayoutOf(const ModelConfig& config, std::optional<FfnLayout> asked) {
    if (config.gated && asked == FfnLayout::kGateAndBundle2) return *asked;
    if (!config.activation.is_sparse()) return FfnLayout::kMatrices;
    return config.gated ? asked.value_or(FfnLayout::kGateAndBundle2) : FfnLayout::kUpDown;
  }
  bool has_bundles() const { return plan_.layout != FfnLayout::kMatrices; }
  DType MatrixType(const TensorInfo& source) const { return options_.type.value_or(source.dtype); }

  PlannedTensor& Add(Kind kind, std::string name, const TensorInfo& source, DType dtype, std::vector<uint64_t> shape) {
    PlannedTensor tensor;
    tensor.kind = kind;
    tensor.name = std::move(name);
    tensor.source = &source;
    tensor.dtype = dtype;
    const uint64_t columns = shape.back();
    const uint64_t rows = shape.size() == 2 ? shape[0] : 1;
    tensor.shape = std::move(shape);
    plan_.num_parameters += rows * columns;
    plan_.source_bytes += rows * *RowBytes(source.dtype, columns);
    plan_.num_hashes += NumHashChunks(rows * *RowBytes(dtype, columns));
    if (tensor.shape.size() == 2 || kind == Kind::kPlusOne) plan_.largest_row = std::max(plan_.largest_row, columns);
    plan_.tensors.push_back(std::move(tensor));
    return plan_.tensors.back();
  }

  // nullptr where it need not be there and is not, or is not to be used.
  Result<const TensorInfo*> FindVector(const std::string& from, uint64_t size, Presence presence) {
    const bool is_absent = presence == Presence::kNever || (presence == Presence::kWhereItIs && !checkpoint_.Has(from));
    if (is_absent) return static_cast<const TensorInfo*>(nullptr);
    return checkpoint_.Require(from, std::array{size});
  }

  Status AddVector(Kind kind, const std::string& from, const std::string& to, uint64_t size, Presence presence, uint32_t layer = 0) {
    FRUGAL_ASSIGN(const TensorInfo* source, FindVector(from, size, presence));
    if (source != nullptr) Add(kind, to, *source, kind == Kind::kPlusOne ? DType::kF32 : source->dtype, {size}).layer = layer;
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
    PlannedTensor tensor;
    tensor.kind = Kind::kValues;
    tensor.name = kName;
    tensor.shape = {size};
    tensor.values = Llama3Divisors(config_.rope);
    plan_.num_hashes += NumHashChunks(size * sizeof(float));
    plan_.tensors.push_back(std::move(tensor));
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
    const Presence presence = BiasPresence(checkpoint_.ffn_has_biases());
    const Kind in_positions = has_bundles() ? Kind::kPositions : Kind::kPlain;
    const auto add = [&](Kind kind, const char* part, const char* to, uint64_t size) {
      return AddVector(kind, names_.Layer(layer, part) + ".bias", LayerTensorName(layer, to), size, presence, layer);
    };
    FRUGAL_TRY(add(Kind::kPlain, from.down, "ffn_down.bias", config_.hidden_size));
    FRUGAL_TRY(add(in_positions, from.up, "ffn_up.bias", config_.ffn_size));
    return config_.gated ? add(in_positions, from.gate, "ffn_gate.bias", config_.ffn_size) : Status();
  }

  struct ProjectionPart {
    Projection projection;
    const char* source;
    const char* packed;
    uint64_t rows;
  };
  std::array<ProjectionPart, 3> Projections() const {
    return {{{Projection::kQuery, names_.layer.q, "attn_q", config_.query_size()},
             {Projection::kKey, names_.layer.k, "attn_k", config_.kv_size()},
             {Projection::kValue, names_.layer.v, "attn_v", config_.kv_size()}}};
  }
  uint64_t fused_rows() const { return uint64_t{config_.query_size()} + 2 * uint64_t{config_.kv_size()}; }

  // A part of the projection that `source` is, or is a part of.
  void AddPart(const ProjectionPart& part, const std::string& to, const TensorInfo& source, DType dtype, std::vector<uint64_t> shape) {
    const bool is_turned = names_.turns_halves && part.projection != Projection::kValue;
    if (names_.fused == FusedQkv::kNone && !is_turned) {
      Add(Kind::kPlain, to, source, dtype, std::move(shape));
      return;
    }
    Add(Kind::kRows, to, source, dtype, std::move(shape)).rows = MapRows(part.projection, names_.fused, names_.turns_halves, config_);
  }

  Status AddAttentionBiases(uint32_t layer) {
    Presence presence = BiasPresence(checkpoint_.attention_has_biases());
    if (names_.qkv_has_biases) presence = Presence::kAlways;
    for (const ProjectionPart& part : Projections()) {
      const bool fused = names_.fused != FusedQkv::kNone;
      const std::string from = names_.Layer(layer, fused ? names_.layer.qkv : part.source) + ".bias";
      FRUGAL_ASSIGN(const TensorInfo* source, FindVector(from, fused ? fused_rows() : part.rows, presence));
      if (source == nullptr) continue;
      AddPart(part, LayerTensorName(layer, part.packed) + ".bias", *source, source->dtype, {part.rows});
    }
    return AddVector(Kind::kPlain, names_.Layer(layer, names_.layer.o) + ".bias", LayerTensorName(layer, "attn_output.bias"),
                     config_.hidden_size, BiasPresence(checkpoint_.attention_has_biases()));
  }

  Status AddMatrix(const std::string& from, const std::string& to, uint64_t rows, uint64_t columns) {
    FRUGAL_ASSIGN(const TensorInfo* source, checkpoint_.Require(from + ".weight", std::array{rows, columns}));
    Add(Kind::kPlain, to, *source, MatrixType(*source), {rows, columns});
    return {};
  }

  Status AddLayerMatrices(uint32_t layer) {
    for (const ProjectionPart& part : Projections()) {
      const bool fused = names_.fused != FusedQkv::kNone;
      const std::string from = names_.Layer(layer, fused ? names_.layer.qkv : part.source) + ".weight";
      const std::array shape = {fused ? fused_rows() : part.rows, uint64_t{config_.hidden_size}};
      FRUGAL_ASSIGN(const TensorInfo* source, checkpoint_.Require(from, shape));
      AddPart(part, LayerTensorName(layer, part.packed) + ".weight", *source, MatrixType(*source), {part.rows, config_.hidden_size});
    }
    FRUGAL_TRY(AddMatrix(names_.Layer(layer, names_.layer.o), LayerTensorName(layer, "attn_output.weight"), config_.hidden_size,
                         config_.query_size()));
    return has_bundles() ? AddBundles(layer) : AddFfnMatrices(layer);
  }

  Status AddFfnMatrices(uint32_t layer) {
    const LayerNames& from = names_.layer;
    if (config_.gated) {
      FRUGAL_TRY(AddMatrix(names_.Layer(layer, from.gate), LayerTensorName(layer, "ffn_gate.weight"), config_.ffn_size,
                           config_.hidden_size));
    }
    FRUGAL_TRY(AddMatrix(names_.Layer(layer, from.up), LayerTensorName(layer, "ffn_up.weight"), config_.ffn_size, config_.hidden_size));
    return AddMatrix(names_.Layer(layer, from.down), LayerTensorName(layer, "ffn_down.weight"), config_.hidden_size, config_.ffn_size);
  }

  // Rows are quantised in whole blocks.
  Status CheckBlocks() const {
    if (!options_.type || !IsQuantised(*options_.type)) return {};
    for (const auto& [name, size] : {std::pair{"hidden_size", config_.hidden_size},
                                     std::pair{"word_embed_proj_dim", config_.embedding_size},
                                     std::pair{"num_heads * head_dim", config_.query_size()},
                                     std::pair{"ffn_size", has_bundles() ? 0 : config_.ffn_size}}) {
      if (size % kQuantisedBlock == 0) continue;
      return MakeError(ErrorCode::kUsage,
                       "type of the weights: {} has quantised blocks of {}, but the model's {} is {}, no multiple of it",
                       DTypeName(*options_.type), kQuantisedBlock, name, size);
    }
    return {};
  }

  Status AddPositionTable() {
    const std::array shape = {uint64_t{config_.max_context} + config_.position_offset, uint64_t{config_.hidden_size}};
    FRUGAL_ASSIGN(const TensorInfo* source, checkpoint_.Require(names_.Top(names_.positions) + ".weight", shape));
    const DType dtype = MatrixType(*source);
    Add(Kind::kPlain, "position_embd.weight", *source, IsQuantised(dtype) ? source->dtype : dtype, source->shape);
    return {};
  }

  // The down column of a neuron; blocks of the source lie across the neurons, so that no bundle can keep them.
  Result<DType> DownType(const TensorInfo& down) const {
    if (options_.down_type) return *options_.down_type;
    if (!IsQuantised(down.dtype)) return MatrixType(down);
    return MakeError(ErrorCode::kUsage,
                     "{}: tensor {} is {}, whose quantised blocks run across the neurons: it cannot be kept in bundles; choose --down-type "
                     "f32 (exact), f16 (rounded to half precision) or q8_0, q4_0 (lossy)",
                     checkpoint_.PathOf(down), down.name, DTypeName(down.dtype));
  }

  Status AddBundles(uint32_t layer) {
    const LayerNames& from = names_.layer;
    const uint64_t hidden_size = config_.hidden_size, ffn_size = config_.ffn_size;
    const std::array rows = {ffn_size, hidden_size};
    const TensorInfo* gate = nullptr;
    if (config_.gated) {
      FRUGAL_ASSIGN(gate, checkpoint_.Require(names_.Layer(layer, from.gate) + ".weight", rows));
    }
    FRUGAL_ASSIGN(const TensorInfo* up, checkpoint_.Require(names_.Layer(layer, from.up) + ".weight", rows));
    FRUGAL_ASSIGN(const TensorInfo* down,
                  checkpoint_.Require(names_.Layer(layer, from.down) + ".weight", std::array{hidden_size, ffn_size}));
    if (plan_.layout == FfnLayout::kGateAndBundle2) {
      Add(Kind::kPositions, LayerTensorName(layer, "ffn_gate.weight"), *gate, MatrixType(*gate), gate->shape).layer = layer;
      gate = nullptr;
    }
    FRUGAL_TRY(CheckBundleTypes(layer, gate, *up, *down));
    PlannedTensor bundles;
    bundles.kind = Kind::kBundles;
    bundles.name = BundleTensorName(layer);
    bundles.source = up;
    bundles.gate = gate;
    bundles.down = down;
    bundles.dtype = plan_.up_type;
    bundles.shape = {ffn_size, plan_.stride_bytes};
    bundles.layer = layer;
    plan_.num_parameters += (gate != nullptr ? 3 : 2) * hidden_size * ffn_size;
    plan_.source_bytes += up->extent.size_bytes + down->extent.size_bytes + (gate != nullptr ? gate->extent.size_bytes : 0);
    plan_.num_hashes += ffn_size;
    plan_.largest_row = std::max({plan_.largest_row, hidden_size, ffn_size});
    plan_.tensors.push_back(std::move(bundles));
    return {};
  }

  // Layer 0 decides; the others must be like it, since a file has one stride.
  Status CheckBundleTypes(uint32_t layer, const TensorInfo* gate, const TensorInfo& up, const TensorInfo& down) {
    const std::optional<DType> gate_type = gate != nullptr ? std::optional(MatrixType(*gate)) : std::nullopt;
    FRUGAL_ASSIGN(const DType down_type, DownType(down));
    if (layer > 0) {
      if (MatrixType(up) == plan_.up_type && down_type == plan_.down_type && gate_type == plan_.gate_type) return {};
      return BadModel("{}: {} and {} are {} and {}, those of layer 0 {} and {}: one type has to be chosen for all",
                      checkpoint_.PathOf(up), up.name, down.name, DTypeName(up.dtype), DTypeName(down.dtype),
                      DTypeName(plan_.up_type), DTypeName(plan_.down_type));
    }
    const uint64_t hidden_size = config_.hidden_size;
    plan_.gate_type = gate_type;
    plan_.up_type = MatrixType(up);
    plan_.down_type = down_type;
    for (const DType dtype : {gate_type.value_or(plan_.up_type), plan_.up_type, plan_.down_type}) {
      if (RowBytes(dtype, hidden_size)) continue;
      return MakeError(ErrorCode::kUsage, "{}: rows of {} are no whole quantised blocks of {}", checkpoint_.PathOf(up), hidden_size,
                       DTypeName(dtype));
    }
    plan_.up_offset_bytes = gate_type ? *RowBytes(*gate_type, hidden_size) : 0;
    plan_.down_offset_bytes = plan_.up_offset_bytes + *RowBytes(plan_.up_type, hidden_size);
    if (IsQuantised(plan_.down_type) || IsQuantised(down.dtype)) plan_.wide_down_bytes = hidden_size * sizeof(float);
    plan_.stride_bytes =
        BundleStrideBytes(plan_.down_offset_bytes + *RowBytes(plan_.down_type, hidden_size), options_.align_bytes);
    return {};
  }

  void AddOrder(uint32_t layer) {
    PlannedTensor order;
    order.kind = Kind::kOrder;
    order.name = BundleOrderName(layer);
    order.dtype = DType::kI32;
    order.shape = {config_.ffn_size};
    order.layer = layer;
    plan_.num_hashes += NumHashChunks(uint64_t{config_.ffn_size} * sizeof(int32_t));
    plan_.tensors.push_back(std::move(order));
  }

  // Known when all else is written.
  void AddLargestDifference() {
    if (!options_.type && !options_.down_type) return;
    PlannedTensor tensor;
    tensor.kind = Kind::kLargestDifference;
    tensor.name = kLargestDifferenceName;
    tensor.shape = {1};
    plan_.num_hashes += 1;
    plan_.tensors.push_back(std::move(tensor));
  }

  Checkpoint& checkpoint_;
  const ModelConfig& config_;
  const SourceNames& names_;
  const PackPlanOptions& options_;
  PackPlan plan_;
};

}  // namespace

Result<PackPlan> PlanPack(Checkpoint& checkpoint, const PackPlanOptions& options) { return Planner(checkpoint, options).Run(); }

}  // namespace frugal
