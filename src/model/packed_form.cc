#include "src/model/packed_form.h"

#include <algorithm>

#include "src/base/bytes.h"
#include "src/format/packed_format.h"
#include "src/model/model_file.h"

namespace frugal {
namespace {

// Gives tensors their places, one behind the other, as a writer does.
class Places {
 public:
  Extent Next(uint64_t size_bytes) {
    const Extent extent{offset_bytes_, size_bytes};
    offset_bytes_ += RoundUp(size_bytes, kPackedAlignmentBytes);
    return extent;
  }
  // Index of the first of its hashes.
  uint64_t NextHashes(uint64_t size_bytes) {
    const uint64_t first = num_hashes_;
    num_hashes_ += NumHashChunks(size_bytes);
    return first;
  }
  uint64_t num_hashes() const { return num_hashes_; }

 private:
  uint64_t offset_bytes_ = 0, num_hashes_ = 0;
};

Error NoWholeBlocks(const std::string& path, const std::string& name, DType type, uint64_t columns) {
  return MakeError(ErrorCode::kUsage, "{}: {}: rows of {} are no whole quantised blocks of {}", path, name, columns, DTypeName(type));
}

Status Place(const std::string& path, const PackedForm& form, Places& places, MatrixInfo& matrix) {
  const bool keeps_type = matrix.name == "position_embd.weight" && form.type && IsQuantised(*form.type);
  if (form.type && !keeps_type) matrix.dtype = *form.type;
  const std::optional<uint64_t> row_bytes = RowBytes(matrix.dtype, matrix.columns);
  if (!row_bytes) return NoWholeBlocks(path, matrix.name, matrix.dtype, matrix.columns);
  matrix.row_bytes = *row_bytes;
  const uint64_t size_bytes = matrix.rows * matrix.row_bytes;
  matrix.file_index = 0;
  matrix.runs = {matrix.rows, 0};
  matrix.extent = places.Next(size_bytes);
  matrix.first_hash = places.NextHashes(size_bytes);
  return {};
}

}  // namespace

Result<ModelFile> ModelFile::OpenAsIfPacked(const std::string& path, std::optional<Activation> activation, const PackedForm& form) {
  FRUGAL_ASSIGN(ModelFile model, Open(path, activation));
  FRUGAL_TRY(model.TakeForm(form));
  return model;
}

// The types of the three parts, wherever they lie.
Result<BundleInfo> ModelFile::BundleOf(uint32_t layer, const PackedForm& form) const {
  const uint64_t columns = config_.hidden_size;
  BundleInfo bundle;
  bundle.name = BundleTensorName(layer);
  if (has_bundles()) {
    bundle.gate_type = bundles_[layer].gate_type;
    bundle.up_type = bundles_[layer].up_type;
    bundle.down_type = bundles_[layer].down_type;
  } else {
    bundle.up_type = matrices_[layers_[layer].up].dtype;
    bundle.down_type = matrices_[layers_[layer].down].dtype;
    // Its quantised blocks run across the neurons.
    if (IsQuantised(bundle.down_type)) bundle.down_type = DType::kF16;
  }
  if (layers_[layer].gate != kNoMatrix) bundle.gate_type = matrices_[layers_[layer].gate].dtype;
  bundle.gate_type = form.type.value_or(bundle.gate_type);
  bundle.up_type = form.type.value_or(bundle.up_type);
  bundle.down_type = form.down_type.value_or(form.type.value_or(bundle.down_type));
  for (const DType type : {bundle.gate_type, bundle.up_type, bundle.down_type}) {
    if (!RowBytes(type, columns)) return NoWholeBlocks(path_, bundle.name, type, columns);
  }
  bundle.up_offset_bytes = form.layout == FfnLayout::kBundle3 ? *RowBytes(bundle.gate_type, columns) : 0;
  bundle.down_offset_bytes = bundle.up_offset_bytes + *RowBytes(bundle.up_type, columns);
  bundle.stride_bytes = BundleStrideBytes(bundle.down_offset_bytes + *RowBytes(bundle.down_type, columns), form.align_bytes);
  return bundle;
}

Status ModelFile::TakeForm(const PackedForm& form) {
  std::vector<BundleInfo> bundles;
  for (uint32_t layer = 0; layer < config_.num_layers; ++layer) {
    FRUGAL_ASSIGN(BundleInfo bundle, BundleOf(layer, form));
    bundles.push_back(std::move(bundle));
  }
  config_.ffn_layout = form.layout;
  FRUGAL_TRY(ValidateConfig(config_, path_));
  const std::vector<MatrixInfo> before = std::move(matrices_);
  matrices_.clear();
  Places places;
  for (const auto& vectors : layer_vectors_) {
    for (const VectorInfo& vector : vectors) static_cast<void>(places.NextHashes(vector.extent.size_bytes));
  }
  for (const VectorInfo& vector : global_vectors_) static_cast<void>(places.NextHashes(vector.extent.size_bytes));
  const auto keep = [&](uint32_t& id) -> Status {
    if (id == kNoMatrix) return {};
    MatrixInfo matrix = before[id];
    FRUGAL_TRY(Place(path_, form, places, matrix));
    id = static_cast<uint32_t>(matrices_.size());
    matrices_.push_back(std::move(matrix));
    return {};
  };
  const bool is_tied = ids_.output == ids_.token_embedding;
  for (uint32_t* const id : {&ids_.token_embedding, &ids_.position_embedding, &ids_.project_in}) FRUGAL_TRY(keep(*id));
  if (!is_tied) FRUGAL_TRY(keep(ids_.output));
  if (is_tied) ids_.output = ids_.token_embedding;
  for (uint32_t layer = 0; layer < config_.num_layers; ++layer) {
    LayerMatrices& ids = layers_[layer];
    for (uint32_t* const id : {&ids.q, &ids.k, &ids.v, &ids.o}) FRUGAL_TRY(keep(*id));
    ids.gate = ids.up = ids.down = kNoMatrix;
    if (form.layout == FfnLayout::kGateAndBundle2) {
      MatrixInfo gate;
      gate.name = LayerTensorName(layer, "ffn_gate.weight");
      gate.dtype = bundles[layer].gate_type;
      gate.rows = config_.ffn_size;
      gate.columns = config_.hidden_size;
      FRUGAL_TRY(Place(path_, form, places, gate));
      ids.gate = static_cast<uint32_t>(matrices_.size());
      matrices_.push_back(std::move(gate));
    }
    bundles[layer].extent = places.Next(config_.ffn_size * bundles[layer].stride_bytes);
  }
  FRUGAL_TRY(keep(ids_.project_out));
  for (BundleInfo& bundle : bundles) {
    static_cast<void>(places.NextHashes(config_.ffn_size * sizeof(int32_t)));  // its order
    bundle.hashes = places.Next(config_.ffn_size * sizeof(uint64_t));
  }
  if (form.type || form.down_type) static_cast<void>(places.NextHashes(sizeof(float)));  // the largest difference
  bundles_ = std::move(bundles);
  tensor_hashes_ = places.Next(places.num_hashes() * sizeof(uint64_t));
  hash_of_hashes_ = places.Next((config_.num_layers + 2) * sizeof(uint64_t));
  is_packed_ = true;
  unused_tensors_.clear();
  return {};
}

}  // namespace frugal
