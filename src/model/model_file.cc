#include "src/model/model_file.h"

#include <algorithm>

#include "src/base/bytes.h"
#include "src/format/byte_source.h"
#include "src/format/hugging_face.h"
#include "src/format/packed_format.h"

namespace frugal {
namespace {

enum class Size { kHidden, kFfn, kQuery, kKv, kHead };
// kBias: there or not; layer 0 says which, except where the architecture has it always.
enum class Need { kNorm, kNormBias, kHeadNorm, kHeadNormBias, kFfnNorm, kFfnNormBias, kPostNorm, kBias };
struct VectorName {
  const char* part;
  Size size;
  Need need;
};

// In the order of LayerVector.
constexpr std::array<VectorName, kNumLayerVectors> kVectorNames = {{
    {"attn_norm.weight", Size::kHidden, Need::kNorm},
    {"attn_norm.bias", Size::kHidden, Need::kNormBias},
    {"attn_q.bias", Size::kQuery, Need::kBias},
    {"attn_k.bias", Size::kKv, Need::kBias},
    {"attn_v.bias", Size::kKv, Need::kBias},
    {"attn_output.bias", Size::kHidden, Need::kBias},
    {"attn_q_norm.weight", Size::kHead, Need::kHeadNorm},
    {"attn_q_norm.bias", Size::kHead, Need::kHeadNormBias},
    {"attn_k_norm.weight", Size::kHead, Need::kHeadNorm},
    {"attn_k_norm.bias", Size::kHead, Need::kHeadNormBias},
    {"post_attention_norm.weight", Size::kHidden, Need::kPostNorm},
    {"ffn_norm.weight", Size::kHidden, Need::kFfnNorm},
    {"ffn_norm.bias", Size::kHidden, Need::kFfnNormBias},
    {"ffn_gate.bias", Size::kFfn, Need::kBias},
    {"ffn_up.bias", Size::kFfn, Need::kBias},
    {"ffn_down.bias", Size::kHidden, Need::kBias},
    {"post_ffw_norm.weight", Size::kHidden, Need::kPostNorm},
}};

uint64_t SizeOf(const ModelConfig& config, Size size) {
  switch (size) {
    case Size::kHidden:
      return config.hidden_size;
    case Size::kFfn:
      return config.ffn_size;
    case Size::kQuery:
      return config.query_size();
    case Size::kKv:
      return config.kv_size();
    case Size::kHead:
      break;
  }
  return config.head_dim;
}

bool IsNeeded(const ModelConfig& config, Need need) {
  const bool layer_norm = config.norm == NormKind::kLayer;
  switch (need) {
    case Need::kNorm:
      return true;
    case Need::kNormBias:
      return layer_norm;
    case Need::kHeadNorm:
      return config.head_norm != HeadNorm::kNone;
    case Need::kHeadNormBias:
      return config.head_norm == HeadNorm::kLayer;
    case Need::kFfnNorm:
      return config.has_ffn_norm;
    case Need::kFfnNormBias:
      return config.has_ffn_norm && layer_norm;
    case Need::kPostNorm:
      return config.has_post_norms;
    case Need::kBias:
      break;
  }
  return false;
}

// Where a missing bias is an error, not a model without it.
bool AlwaysHasBias(const ModelConfig& config, LayerVector which) {
  if (which == LayerVector::kGateBias) return false;
  const bool of_qkv = which == LayerVector::kQBias || which == LayerVector::kKBias || which == LayerVector::kVBias;
  switch (config.architecture) {
    case Architecture::kOpt:
    case Architecture::kPersimmon:
    case Architecture::kPhi2:
      return true;
    case Architecture::kQwen2:
      return of_qkv;
    default:
      return false;
  }
}

// llama.cpp's name, except that a second norm (Falcon 40B) is attention's and the first the FFN's.
std::string VectorTensorName(const ModelConfig& config, uint32_t layer, LayerVector which) {
  const char* part = kVectorNames[static_cast<size_t>(which)].part;
  if (config.parallel() && config.has_ffn_norm) {
    if (which == LayerVector::kAttnNormWeight) part = "attn_norm_2.weight";
    if (which == LayerVector::kAttnNormBias) part = "attn_norm_2.bias";
    if (which == LayerVector::kFfnNormWeight) part = "attn_norm.weight";
    if (which == LayerVector::kFfnNormBias) part = "attn_norm.bias";
  }
  return LayerTensorName(layer, part);
}

std::string ShapeText(const std::vector<uint64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

// "F16,F16": up, down; before them the gate where the bundle has one.
bool ParseBundleTypes(std::string_view text, bool has_gate, uint64_t columns, BundleInfo& bundle) {
  std::vector<DType*> expected = {&bundle.up_type, &bundle.down_type};
  if (has_gate) expected.insert(expected.begin(), &bundle.gate_type);
  for (DType* const type : expected) {
    const bool is_last = type == expected.back();
    const size_t comma = text.find(',');
    if ((comma == std::string_view::npos) != is_last) return false;
    const std::optional<DType> parsed = ParseDType(text.substr(0, comma));
    if (!parsed || !IsWeightType(*parsed) || !RowBytes(*parsed, columns)) return false;
    *type = *parsed;
    if (!is_last) text.remove_prefix(comma + 1);
  }
  return true;
}

bool IsHashed(const TensorInfo& info) {
  return !info.name.ends_with(".ffn_bundle.weight") && !info.name.ends_with(".ffn_bundle.xxh3") &&
         info.name != kTensorHashesName && info.name != kHashOfHashesName;
}

}  // namespace

Result<ModelFile> ModelFile::Open(const std::string& path, std::optional<Activation> activation) {
  if (IsCheckpointPath(path)) return OpenCheckpoint(path, activation);
  FRUGAL_ASSIGN(auto source, OpenFileSource(path));
  FRUGAL_ASSIGN(GgufReader reader, GgufReader::Open(std::move(source)));
  return FromReader(std::move(reader), path, activation);
}

Result<ModelFile> ModelFile::FromReader(GgufReader reader, std::string path, std::optional<Activation> activation) {
  ModelFile file;
  file.gguf_.emplace(std::move(reader));
  file.path_ = std::move(path);
  file.file_paths_ = {file.path_};
  FRUGAL_TRY(file.LoadGguf(activation));
  return file;
}

Result<ModelFile> ModelFile::OpenCheckpoint(const std::string& path, std::optional<Activation> activation) {
  FRUGAL_ASSIGN(const std::unique_ptr<Checkpoint> checkpoint, Checkpoint::Open(path, activation));
  ModelFile file;
  file.path_ = path;
  file.checkpoint_directory_ = checkpoint->path();
  file.file_paths_ = checkpoint->file_paths();
  file.config_ = checkpoint->config();
  FRUGAL_ASSIGN(file.places_, TensorPlaces::FromCheckpoint(*checkpoint));
  FRUGAL_TRY(file.LoadTensors());
  for (const TensorInfo* tensor : checkpoint->UnusedTensors()) file.unused_tensors_.push_back(tensor->name);
  return file;
}

Status ModelFile::LoadGguf(std::optional<Activation> activation) {
  is_packed_ = gguf_->Find(kPackedVersionKey) != nullptr;
  if (is_packed_) FRUGAL_TRY(CheckPackedKeys());
  FRUGAL_ASSIGN(config_, ReadGgufConfig(*gguf_, activation));
  FRUGAL_ASSIGN(places_, TensorPlaces::FromGguf(*gguf_, config_));
  FRUGAL_TRY(LoadTensors());
  if (!is_packed_) ListUnused();
  return is_packed_ ? LoadHashes() : Status();
}

Status ModelFile::LoadTensors() {
  layers_.resize(config_.num_layers);
  for (uint32_t layer = 0; layer < config_.num_layers; ++layer) {
    FRUGAL_TRY(LoadAttention(layer));
    FRUGAL_TRY(LoadFfnMatrices(layer));
    FRUGAL_TRY(LoadLayerVectors(layer));
    if (config_.ffn_layout != FfnLayout::kMatrices) FRUGAL_TRY(LoadBundles(layer));
  }
  FRUGAL_TRY(LoadGlobals());
  places_ = {};
  return {};
}

void ModelFile::ListUnused() {
  std::vector<uint64_t> used;  // offsets; a tensor of which rows are used begins where its first rows do
  for (const MatrixInfo& matrix : matrices_) used.push_back(matrix.extent.offset_bytes);
  const auto note = [&](const VectorInfo& vector) {
    if (vector.size > 0) used.push_back(vector.extent.offset_bytes);
  };
  for (const auto& vectors : layer_vectors_) std::for_each(vectors.begin(), vectors.end(), note);
  std::for_each(global_vectors_.begin(), global_vectors_.end(), note);
  std::sort(used.begin(), used.end());
  for (const TensorInfo& info : gguf_->tensors()) {
    if (std::binary_search(used.begin(), used.end(), info.extent.offset_bytes)) continue;
    if (info.name.ends_with("attn_rot_embd") || info.name.ends_with("rope_freqs.weight")) continue;  // known and superfluous
    unused_tensors_.push_back(info.name);
  }
}

Status ModelFile::CheckPackedKeys() const {
  FRUGAL_ASSIGN(const uint64_t version, gguf_->GetUint(kPackedVersionKey));
  if (version != kPackedVersion) {
    return BadModel("{}: {} is {}, this program reads {}", path_, kPackedVersionKey, version, kPackedVersion);
  }
  FRUGAL_ASSIGN(const uint64_t chunk_bytes, gguf_->GetUint(kHashChunkKey));
  if (chunk_bytes != kHashChunkBytes) return BadModel("{}: {} is {}, expected {}", path_, kHashChunkKey, chunk_bytes, kHashChunkBytes);
  if (gguf_->alignment_bytes() != kPackedAlignmentBytes) {
    return BadModel("{}: general.alignment is {}, expected {}", path_, gguf_->alignment_bytes(), kPackedAlignmentBytes);
  }
  return {};
}

Status ModelFile::LoadAttention(uint32_t layer) {
  LayerMatrices& matrices = layers_[layer];
  const uint64_t hidden = config_.hidden_size, query = config_.query_size(), kv = config_.kv_size();
  const uint32_t first = static_cast<uint32_t>(matrices_.size());
  FRUGAL_ASSIGN(matrices.q, AddMatrix(LayerTensorName(layer, "attn_q.weight"), query, hidden));
  FRUGAL_ASSIGN(matrices.k, AddMatrix(LayerTensorName(layer, "attn_k.weight"), kv, hidden));
  FRUGAL_ASSIGN(matrices.v, AddMatrix(LayerTensorName(layer, "attn_v.weight"), kv, hidden));
  FRUGAL_ASSIGN(matrices.o, AddMatrix(LayerTensorName(layer, "attn_output.weight"), hidden, query));
  for (size_t i = first; i < matrices_.size(); ++i) matrices_[i].of_attention = true;
  return {};
}

Status ModelFile::LoadFfnMatrices(uint32_t layer) {
  LayerMatrices& matrices = layers_[layer];
  const bool all = config_.ffn_layout == FfnLayout::kMatrices;
  if ((all && config_.gated) || config_.ffn_layout == FfnLayout::kGateAndBundle2) {
    FRUGAL_ASSIGN(matrices.gate, AddMatrix(LayerTensorName(layer, "ffn_gate.weight"), config_.ffn_size, config_.hidden_size));
  }
  if (!all) return {};
  FRUGAL_ASSIGN(matrices.up, AddMatrix(LayerTensorName(layer, "ffn_up.weight"), config_.ffn_size, config_.hidden_size));
  FRUGAL_ASSIGN(matrices.down, AddMatrix(LayerTensorName(layer, "ffn_down.weight"), config_.hidden_size, config_.ffn_size));
  return {};
}

Status ModelFile::LoadLayerVectors(uint32_t layer) {
  auto& vectors = layer_vectors_.emplace_back();
  for (size_t i = 0; i < kNumLayerVectors; ++i) {
    const LayerVector which = static_cast<LayerVector>(i);
    const uint64_t size = SizeOf(config_, kVectorNames[i].size);
    const std::string name = VectorTensorName(config_, layer, which);
    const bool is_there = places_.Find(name) != nullptr;
    bool needed = IsNeeded(config_, kVectorNames[i].need);
    if (kVectorNames[i].need == Need::kBias) {
      needed = AlwaysHasBias(config_, which) || (layer == 0 ? is_there : layer_vectors_[0][i].size > 0);
      if (is_there && !needed) return BadModel("{}: tensor {} is there, which layer 0 has not", path_, name);
    }
    if (!needed) continue;
    FRUGAL_ASSIGN(vectors[i], MakeVector(name, size));
  }
  return {};
}

Status ModelFile::LoadGlobals() {
  FRUGAL_ASSIGN(ids_.token_embedding, AddMatrix("token_embd.weight", config_.vocab_size, config_.embedding_size));
  if (config_.learned_positions) {
    FRUGAL_ASSIGN(ids_.position_embedding,
                  AddMatrix("position_embd.weight", uint64_t{config_.max_context} + config_.position_offset, config_.hidden_size));
  }
  ids_.output = ids_.token_embedding;
  if (config_.has_output_matrix) {
    FRUGAL_ASSIGN(ids_.output, AddMatrix("output.weight", config_.vocab_size, config_.embedding_size));
  }
  if (config_.has_projections()) {
    FRUGAL_ASSIGN(ids_.project_in, AddMatrix("project_in.weight", config_.hidden_size, config_.embedding_size));
    FRUGAL_ASSIGN(ids_.project_out, AddMatrix("project_out.weight", config_.embedding_size, config_.hidden_size));
  }
  const auto load = [this](GlobalVector which, const char* name, uint64_t size) -> Status {
    FRUGAL_ASSIGN(global_vectors_[static_cast<size_t>(which)], MakeVector(name, size));
    return {};
  };
  if (config_.has_final_norm) {
    FRUGAL_TRY(load(GlobalVector::kFinalNormWeight, "output_norm.weight", config_.hidden_size));
    if (config_.norm == NormKind::kLayer) FRUGAL_TRY(load(GlobalVector::kFinalNormBias, "output_norm.bias", config_.hidden_size));
  }
  if (config_.architecture == Architecture::kPhi2 || places_.Find("output.bias") != nullptr) {
    FRUGAL_TRY(load(GlobalVector::kOutputBias, "output.bias", config_.vocab_size));
  }
  if (config_.rope.dims > 0 && places_.Find("rope_freqs.weight") != nullptr) {
    FRUGAL_TRY(load(GlobalVector::kRopeDivisors, "rope_freqs.weight", config_.rope.dims / 2));
  }
  return {};
}

Status ModelFile::LoadHashes() {
  FRUGAL_ASSIGN(const TensorInfo* hashes, RequirePacked(kTensorHashesName));
  uint64_t expected = 0;
  for (const TensorInfo& info : gguf_->tensors()) {
    if (IsHashed(info)) expected += NumHashChunks(info.extent.size_bytes);
  }
  if (hashes->dtype != DType::kI64 || hashes->extent.size_bytes != expected * 8) {
    return BadModel("{}: {}: expected I64 [{}], found {} {}", path_, kTensorHashesName, expected, DTypeName(hashes->dtype),
                    ShapeText(hashes->shape));
  }
  tensor_hashes_ = hashes->extent;
  FRUGAL_ASSIGN(const TensorInfo* hash_of_hashes, RequirePacked(kHashOfHashesName));
  if (hash_of_hashes->dtype != DType::kI64 || hash_of_hashes->extent.size_bytes != (bundles_.size() + 2) * 8) {
    return BadModel("{}: {}: expected I64 [{}]", path_, kHashOfHashesName, bundles_.size() + 2);
  }
  hash_of_hashes_ = hash_of_hashes->extent;
  return {};
}

Status ModelFile::LoadBundles(uint32_t layer) {
  BundleInfo bundle;
  bundle.name = BundleTensorName(layer);
  FRUGAL_ASSIGN(const TensorInfo* info, RequirePacked(bundle.name));
  FRUGAL_ASSIGN(const std::string types, gguf_->GetString(BundleTypesKey(layer)));
  const bool has_gate = config_.ffn_layout == FfnLayout::kBundle3;
  if (!ParseBundleTypes(types, has_gate, config_.hidden_size, bundle)) {
    return BadModel("{}: {} is \"{}\", expected {} types of weights as in \"F16,F16\" for rows of {}", path_,
                    BundleTypesKey(layer), types.substr(0, 40), has_gate ? "three" : "two", config_.hidden_size);
  }
  bundle.up_offset_bytes = has_gate ? *RowBytes(bundle.gate_type, config_.hidden_size) : 0;
  bundle.down_offset_bytes = bundle.up_offset_bytes + *RowBytes(bundle.up_type, config_.hidden_size);
  const uint64_t used = bundle.down_offset_bytes + *RowBytes(bundle.down_type, config_.hidden_size);
  FRUGAL_ASSIGN(bundle.stride_bytes, gguf_->GetUint(kBundleStrideKey));
  if (bundle.stride_bytes % kSectorBytes != 0 || bundle.stride_bytes < used || bundle.stride_bytes > used + 8192) {
    return BadModel("{}: {} is {}, expected a multiple of {} that holds {} bytes", path_, kBundleStrideKey, bundle.stride_bytes,
                    kSectorBytes, used);
  }
  const std::vector<uint64_t> shape = {config_.ffn_size, bundle.stride_bytes};
  if (info->dtype != DType::kI8 || info->shape != shape) {
    return BadModel("{}: {}: expected I8 {}, found {} {}", path_, bundle.name, ShapeText(shape), DTypeName(info->dtype),
                    ShapeText(info->shape));
  }
  bundle.extent = info->extent;
  FRUGAL_ASSIGN(const TensorInfo* hashes, RequirePacked(BundleHashesName(layer)));
  if (hashes->dtype != DType::kI64 || hashes->extent.size_bytes != uint64_t{config_.ffn_size} * 8) {
    return BadModel("{}: {}: expected I64 [{}]", path_, hashes->name, config_.ffn_size);
  }
  bundle.hashes = hashes->extent;
  bundles_.push_back(std::move(bundle));
  return {};
}

Result<const TensorInfo*> ModelFile::RequirePacked(const std::string& name) const {
  const TensorInfo* info = gguf_->FindTensor(name);
  if (info == nullptr) return BadModel("{}: tensor {} is missing", path_, name);
  if (info->extent.offset_bytes % kPackedAlignmentBytes != 0) {
    return BadModel("{}: {}: offset {} is no multiple of {}", path_, name, info->extent.offset_bytes, kPackedAlignmentBytes);
  }
  return info;
}

Result<const TensorPlace*> ModelFile::Require(const std::string& name) const {
  if (is_packed_) FRUGAL_TRY(RequirePacked(name));
  const TensorPlace* place = places_.Find(name);
  if (place == nullptr) return BadModel("{}: tensor {} is missing", path_, name);
  return place;
}

uint64_t ModelFile::FirstHash(const std::string& name) const {
  uint64_t first = 0;
  if (!is_packed_) return first;
  for (const TensorInfo& info : gguf_->tensors()) {
    if (info.name == name) break;
    if (IsHashed(info)) first += NumHashChunks(info.extent.size_bytes);
  }
  return first;
}

Result<uint32_t> ModelFile::AddMatrix(const std::string& name, uint64_t rows, uint64_t columns) {
  FRUGAL_ASSIGN(const TensorPlace* place, Require(name));
  const std::vector<uint64_t> shape = {rows, columns};
  // A row of quantised blocks that are not whole is no row of the GGUF reader either.
  if (place->shape != shape || !IsWeightType(place->dtype)) {
    return BadModel("{}: {}: expected a float or quantised type of {}, found {} {}", path_, name, ShapeText(shape), DTypeName(place->dtype),
                    ShapeText(place->shape));
  }
  MatrixInfo matrix;
  matrix.name = place->name;
  matrix.dtype = place->dtype;
  matrix.rows = rows;
  matrix.columns = columns;
  matrix.file_index = place->file_index;
  matrix.row_bytes = *RowBytes(place->dtype, columns);
  matrix.extent = {place->offset_bytes, rows * matrix.row_bytes};
  matrix.runs = place->runs;
  matrix.first_hash = FirstHash(name);
  matrices_.push_back(std::move(matrix));
  return static_cast<uint32_t>(matrices_.size() - 1);
}

Result<VectorInfo> ModelFile::MakeVector(const std::string& name, uint64_t size) const {
  FRUGAL_ASSIGN(const TensorPlace* place, Require(name));
  if (place->shape != std::vector<uint64_t>{size} || !IsFloat(place->dtype)) {
    return BadModel("{}: {}: expected F32, F16 or BF16 [{}], found {} {}", path_, name, size, DTypeName(place->dtype),
                    ShapeText(place->shape));
  }
  VectorInfo vector;
  vector.name = place->name;
  vector.dtype = place->dtype;
  vector.size = size;
  vector.file_index = place->file_index;
  const uint64_t element_bytes = TraitsOf(place->dtype).block_bytes;
  vector.extent = {place->offset_bytes, size == 0 ? 0 : place->runs.OffsetBytes(size - 1, element_bytes) + element_bytes};
  vector.runs = place->runs;
  vector.first_hash = FirstHash(name);
  vector.lacks_one = place->lacks_one;
  return vector;
}

Status ModelFile::RequireBundles() const {
  if (has_bundles()) return {};
  if (is_checkpoint()) return BadModel("{}: is a checkpoint, no packed model", path_);
  if (is_packed_) return BadModel("{}: has no bundles: its layout is \"{}\"", path_, FfnLayoutName(config_.ffn_layout));
  return BadModel("{}: not a packed model: key {} is missing; `frugal pack` makes one", path_, kPackedVersionKey);
}

uint64_t ModelFile::ffn_bytes() const {
  uint64_t sum = 0;
  for (const BundleInfo& bundle : bundles_) sum += bundle.extent.size_bytes;
  for (const LayerMatrices& layer : layers_) {
    for (const uint32_t id : {layer.gate, layer.up, layer.down}) sum += id == kNoMatrix ? 0 : matrices_[id].extent.size_bytes;
  }
  return sum;
}

uint64_t ModelFile::streamable_bytes() const {
  uint64_t sum = 0;
  for (const BundleInfo& bundle : bundles_) sum += bundle.extent.size_bytes;
  for (uint32_t id = 0; id < matrices_.size(); ++id) {
    if (!gives_rows_only(id)) sum += matrices_[id].extent.size_bytes;
  }
  return sum;
}

bool ModelFile::gives_rows_only(uint32_t matrix) const {
  return matrix == ids_.position_embedding || (matrix == ids_.token_embedding && ids_.output != matrix);
}

bool ModelFile::has_quantised_rows() const {
  return std::any_of(matrices_.begin(), matrices_.end(), [](const MatrixInfo& matrix) { return IsQuantised(matrix.dtype); }) ||
         std::any_of(bundles_.begin(), bundles_.end(),
                     [](const BundleInfo& bundle) { return IsQuantised(bundle.up_type) || IsQuantised(bundle.gate_type); });
}

bool ModelFile::has_float_rows() const {
  for (uint32_t id = 0; id < matrices_.size(); ++id) {
    if (!gives_rows_only(id) && !IsQuantised(matrices_[id].dtype)) return true;
  }
  return std::any_of(bundles_.begin(), bundles_.end(), [&](const BundleInfo& bundle) {
    return !IsQuantised(bundle.up_type) || (config_.ffn_layout == FfnLayout::kBundle3 && !IsQuantised(bundle.gate_type));
  });
}

uint64_t ModelFile::vector_floats() const {
  uint64_t sum = 0;
  for (const auto& layer : layer_vectors_) {
    for (const VectorInfo& vector : layer) sum += vector.size;
  }
  for (const VectorInfo& vector : global_vectors_) sum += vector.size;
  return sum;
}

uint64_t ModelFile::longest_vector_bytes() const {
  uint64_t most = 0;
  for (const auto& layer : layer_vectors_) {
    for (const VectorInfo& vector : layer) most = std::max(most, vector.extent.size_bytes);
  }
  for (const VectorInfo& vector : global_vectors_) most = std::max(most, vector.extent.size_bytes);
  return most;
}

Result<uint64_t> ModelFile::ReadContentHash() const {
  if (!is_packed_) FRUGAL_TRY(RequireBundles());
  FRUGAL_ASSIGN(const auto source, OpenFileSource(path_));
  std::vector<std::byte> hashes(hash_of_hashes_.size_bytes);
  FRUGAL_TRY(source->Read(hash_of_hashes_.offset_bytes, hashes));
  return HashBytes(hashes);
}

}  // namespace frugal
