#include "src/pack/pack_plan.h"

#include <algorithm>
#include <utility>

#include "src/base/bytes.h"
#include "src/format/hashed_gguf_writer.h"
#include "src/format/packed_format.h"
#include "src/model/checkpoint_map.h"

namespace frugal {
namespace {

using Kind = PlannedTensor::Kind;

class Planner {
 public:
  Planner(Checkpoint& checkpoint, const PackPlanOptions& options)
      : checkpoint_(checkpoint), config_(checkpoint.config()), options_(options) {
    plan_.layout = LayoutOf(config_, options.layout);
  }

  Result<PackPlan> Run() {
    FRUGAL_TRY(CheckBlocks());
    FRUGAL_ASSIGN(const std::vector<MappedTensor> mapped, MapCheckpoint(checkpoint_, RotatedRows::kAsGguf));
    for (const MappedTensor& tensor : mapped) FRUGAL_TRY(AddMapped(tensor));
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

  static Kind KindOf(MappedTensor::Kind kind) {
    switch (kind) {
      case MappedTensor::Kind::kPlain:
        return Kind::kPlain;
      case MappedTensor::Kind::kRows:
        return Kind::kRows;
      case MappedTensor::Kind::kPlusOne:
        return Kind::kPlusOne;
      case MappedTensor::Kind::kValues:
        break;
    }
    return Kind::kValues;
  }

  // As written. Vectors keep theirs, but for the sums of kPlusOne; so do position embeddings that would be quantised.
  DType TypeOf(const MappedTensor& tensor) const {
    if (tensor.kind == MappedTensor::Kind::kPlusOne) return DType::kF32;
    if (tensor.shape.size() < 2) return tensor.source->dtype;
    if (tensor.part == MappedTensor::Part::kDown && options_.down_type) return *options_.down_type;
    const DType dtype = MatrixType(*tensor.source);
    return tensor.name == "position_embd.weight" && IsQuantised(dtype) ? tensor.source->dtype : dtype;
  }

  Status AddMapped(const MappedTensor& mapped) {
    if (mapped.kind == MappedTensor::Kind::kValues) {
      AddValues(mapped);
      return {};
    }
    if (has_bundles() && mapped.part != MappedTensor::Part::kOther) return AddBundled(mapped);
    PlannedTensor& tensor = Add(KindOf(mapped.kind), mapped.name, *mapped.source, TypeOf(mapped), mapped.shape);
    tensor.rows = mapped.rows;
    return {};
  }

  void AddValues(const MappedTensor& mapped) {
    PlannedTensor tensor;
    tensor.kind = Kind::kValues;
    tensor.name = mapped.name;
    tensor.shape = mapped.shape;
    tensor.values = mapped.values;
    plan_.num_hashes += NumHashChunks(mapped.values.size() * sizeof(float));
    plan_.tensors.push_back(std::move(tensor));
  }

  // A part of an FFN of bundles. The matrices of a layer come in the order gate, up, down.
  Status AddBundled(const MappedTensor& mapped) {
    const bool is_down = mapped.part == MappedTensor::Part::kDown;
    if (mapped.shape.size() == 1) {
      Add(is_down ? Kind::kPlain : Kind::kPositions, mapped.name, *mapped.source, TypeOf(mapped), mapped.shape).layer = mapped.layer;
      return {};
    }
    if (mapped.part == MappedTensor::Part::kGate && plan_.layout == FfnLayout::kGateAndBundle2) {
      Add(Kind::kPositions, mapped.name, *mapped.source, TypeOf(mapped), mapped.shape).layer = mapped.layer;
      return {};
    }
    if (mapped.part == MappedTensor::Part::kGate) gate_ = mapped.source;
    if (mapped.part == MappedTensor::Part::kUp) up_ = mapped.source;
    if (!is_down) return {};
    return AddBundles(mapped.layer, std::exchange(gate_, nullptr), *std::exchange(up_, nullptr), *mapped.source);
  }

  // Rows are quantised in whole blocks.
  Status CheckBlocks() const {
    // The rows of a down projection that is a matrix.
    const uint32_t down_columns = has_bundles() ? 0 : config_.ffn_size;
    if (options_.down_type) FRUGAL_TRY(CheckWholeBlocks("type of down", *options_.down_type, "ffn_size", down_columns));
    if (!options_.type) return {};
    for (const auto& [name, size] : {std::pair{"hidden_size", config_.hidden_size},
                                     std::pair{"word_embed_proj_dim", config_.embedding_size},
                                     std::pair{"num_heads * head_dim", config_.query_size()},
                                     std::pair{"ffn_size", options_.down_type ? 0 : down_columns}}) {
      FRUGAL_TRY(CheckWholeBlocks("type of the weights", *options_.type, name, size));
    }
    return {};
  }

  static Status CheckWholeBlocks(const char* what, DType type, const char* name, uint32_t size) {
    if (!IsQuantised(type) || size % kQuantisedBlock == 0) return {};
    return MakeError(ErrorCode::kUsage, "{}: {} has quantised blocks of {}, but the model's {} is {}, no multiple of it", what,
                     DTypeName(type), kQuantisedBlock, name, size);
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

  // `gate`: nullptr where the bundles have none.
  Status AddBundles(uint32_t layer, const TensorInfo* gate, const TensorInfo& up, const TensorInfo& down) {
    const uint64_t hidden_size = config_.hidden_size, ffn_size = config_.ffn_size;
    FRUGAL_TRY(CheckBundleTypes(layer, gate, up, down));
    PlannedTensor bundles;
    bundles.kind = Kind::kBundles;
    bundles.name = BundleTensorName(layer);
    bundles.source = &up;
    bundles.gate = gate;
    bundles.down = &down;
    bundles.dtype = plan_.up_type;
    bundles.shape = {ffn_size, plan_.stride_bytes};
    bundles.layer = layer;
    plan_.num_parameters += (gate != nullptr ? 3 : 2) * hidden_size * ffn_size;
    plan_.source_bytes += up.extent.size_bytes + down.extent.size_bytes + (gate != nullptr ? gate->extent.size_bytes : 0);
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
  const PackPlanOptions& options_;
  PackPlan plan_;
  const TensorInfo *gate_ = nullptr, *up_ = nullptr;  // of the layer that is mapped
};

}  // namespace

Result<PackPlan> PlanPack(Checkpoint& checkpoint, const PackPlanOptions& options) { return Planner(checkpoint, options).Run(); }

}  // namespace frugal
