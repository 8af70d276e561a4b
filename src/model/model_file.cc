#include "src/model/model_file.h"

#include <algorithm>

#include "src/base/bytes.h"
#include "src/format/byte_source.h"
#include "src/format/packed_format.h"

namespace frugal {
namespace {

struct VectorName {
  const char* part;
  enum { kHidden, kFfn } size;
};

// In the order of LayerVector.
constexpr std::array<VectorName, kNumLayerVectors> kVectorNames = {{
    {"attn_norm.weight", VectorName::kHidden},
    {"attn_norm.bias", VectorName::kHidden},
    {"attn_q.bias", VectorName::kHidden},
    {"attn_k.bias", VectorName::kHidden},
    {"attn_v.bias", VectorName::kHidden},
    {"attn_output.bias", VectorName::kHidden},
    {"ffn_norm.weight", VectorName::kHidden},
    {"ffn_norm.bias", VectorName::kHidden},
    {"ffn_up.bias", VectorName::kFfn},
    {"ffn_down.bias", VectorName::kHidden},
}};

std::string ShapeText(const std::vector<uint64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

bool IsHashed(const TensorInfo& info) {
  return !info.name.ends_with(".ffn_bundle.weight") && !info.name.ends_with(".ffn_bundle.xxh3") &&
         info.name != kTensorHashesName && info.name != kHashOfHashesName;
}

}  // namespace

Result<ModelFile> ModelFile::Open(const std::string& path) {
  FRUGAL_ASSIGN(auto source, OpenFileSource(path));
  FRUGAL_ASSIGN(GgufReader reader, GgufReader::Open(std::move(source)));
  return FromReader(std::move(reader), path);
}

Result<ModelFile> ModelFile::FromReader(GgufReader reader, std::string path) {
  ModelFile file(std::move(reader));
  file.path_ = std::move(path);
  FRUGAL_TRY(file.Load());
  return file;
}

Status ModelFile::Load() {
  if (gguf_.Find(kPackedVersionKey) == nullptr) {
    return BadModel("{}: not a packed model: key {} is missing; `frugal pack` makes one", path_, kPackedVersionKey);
  }
  FRUGAL_ASSIGN(const uint64_t version, gguf_.GetUint(kPackedVersionKey));
  if (version != kPackedVersion) {
    return BadModel("{}: {} is {}, this program reads {}", path_, kPackedVersionKey, version, kPackedVersion);
  }
  FRUGAL_ASSIGN(const uint64_t chunk_bytes, gguf_.GetUint(kHashChunkKey));
  if (chunk_bytes != kHashChunkBytes) return BadModel("{}: {} is {}, expected {}", path_, kHashChunkKey, chunk_bytes, kHashChunkBytes);
  if (gguf_.alignment_bytes() != kPackedAlignmentBytes) {
    return BadModel("{}: general.alignment is {}, expected {}", path_, gguf_.alignment_bytes(), kPackedAlignmentBytes);
  }
  FRUGAL_ASSIGN(config_, ReadGgufConfig(gguf_));
  for (uint32_t layer = 0; layer < config_.num_layers; ++layer) FRUGAL_TRY(LoadLayer(layer));
  FRUGAL_ASSIGN(ids_.token_embedding, AddMatrix("token_embd.weight", config_.vocab_size, config_.embedding_size));
  FRUGAL_ASSIGN(ids_.position_embedding,
                AddMatrix("position_embd.weight", config_.max_context + config_.position_offset, config_.hidden_size));
  ids_.output = ids_.token_embedding;
  if (config_.has_output_matrix) {
    FRUGAL_ASSIGN(ids_.output, AddMatrix("output.weight", config_.vocab_size, config_.embedding_size));
  }
  ids_.project_in = ids_.project_out = kNoMatrix;
  if (config_.has_projections()) {
    FRUGAL_ASSIGN(ids_.project_in, AddMatrix("project_in.weight", config_.hidden_size, config_.embedding_size));
    FRUGAL_ASSIGN(ids_.project_out, AddMatrix("project_out.weight", config_.embedding_size, config_.hidden_size));
  }
  if (config_.has_final_norm) {
    FRUGAL_ASSIGN(final_norm_[0], MakeVector("output_norm.weight", config_.hidden_size));
    FRUGAL_ASSIGN(final_norm_[1], MakeVector("output_norm.bias", config_.hidden_size));
  }
  FRUGAL_ASSIGN(const TensorInfo* hashes, Require(kTensorHashesName));
  uint64_t expected = 0;
  for (const TensorInfo& info : gguf_.tensors()) {
    if (IsHashed(info)) expected += NumHashChunks(info.extent.size_bytes);
  }
  if (hashes->dtype != DType::kI64 || hashes->extent.size_bytes != expected * 8) {
    return BadModel("{}: {}: expected I64 [{}], found {} {}", path_, kTensorHashesName, expected, DTypeName(hashes->dtype),
                    ShapeText(hashes->shape));
  }
  tensor_hashes_ = hashes->extent;
  FRUGAL_ASSIGN(const TensorInfo* hash_of_hashes, Require(kHashOfHashesName));
  if (hash_of_hashes->dtype != DType::kI64 || hash_of_hashes->extent.size_bytes != (config_.num_layers + 2) * 8) {
    return BadModel("{}: {}: expected I64 [{}]", path_, kHashOfHashesName, config_.num_layers + 2);
  }
  hash_of_hashes_ = hash_of_hashes->extent;
  return {};
}

Status ModelFile::LoadLayer(uint32_t layer) {
  for (const char* part : {"attn_q.weight", "attn_k.weight", "attn_v.weight", "attn_output.weight"}) {
    FRUGAL_TRY(AddMatrix(LayerTensorName(layer, part), config_.hidden_size, config_.hidden_size));
  }
  auto& vectors = layer_vectors_.emplace_back();
  for (size_t i = 0; i < kNumLayerVectors; ++i) {
    const uint64_t size = kVectorNames[i].size == VectorName::kFfn ? config_.ffn_size : config_.hidden_size;
    FRUGAL_ASSIGN(vectors[i], MakeVector(LayerTensorName(layer, kVectorNames[i].part), size));
  }
  return LoadBundles(layer);
}

Status ModelFile::LoadBundles(uint32_t layer) {
  BundleInfo bundle;
  bundle.name = BundleTensorName(layer);
  FRUGAL_ASSIGN(const TensorInfo* info, Require(bundle.name));
  FRUGAL_ASSIGN(const std::string types, gguf_.GetString(BundleTypesKey(layer)));
  const size_t comma = types.find(',');
  const auto parse = [this](std::string_view text, DType* type) {
    *type = ParseDType(text).value_or(DType::kI64);
    return IsWeightType(*type) && RowBytes(*type, config_.hidden_size).has_value();
  };
  if (comma == std::string::npos || !parse(types.substr(0, comma), &bundle.up_type) ||
      !parse(types.substr(comma + 1), &bundle.down_type)) {
    return BadModel("{}: {} is \"{}\", expected two types of weights as in \"F16,F16\" for rows of {}", path_,
                    BundleTypesKey(layer), types, config_.hidden_size);
  }
  bundle.down_offset_bytes = *RowBytes(bundle.up_type, config_.hidden_size);
  const uint64_t used = bundle.down_offset_bytes + *RowBytes(bundle.down_type, config_.hidden_size);
  FRUGAL_ASSIGN(bundle.stride_bytes, gguf_.GetUint(kBundleStrideKey));
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
  FRUGAL_ASSIGN(const TensorInfo* hashes, Require(BundleHashesName(layer)));
  if (hashes->dtype != DType::kI64 || hashes->extent.size_bytes != uint64_t{config_.ffn_size} * 8) {
    return BadModel("{}: {}: expected I64 [{}]", path_, hashes->name, config_.ffn_size);
  }
  bundle.hashes = hashes->extent;
  bundles_.push_back(std::move(bundle));
  return {};
}

Result<const TensorInfo*> ModelFile::Require(const std::string& name) const {
  const TensorInfo* info = gguf_.FindTensor(name);
  if (info == nullptr) return BadModel("{}: tensor {} is missing", path_, name);
  if (info->extent.offset_bytes % kPackedAlignmentBytes != 0) {
    return BadModel("{}: {}: offset {} is no multiple of {}", path_, name, info->extent.offset_bytes, kPackedAlignmentBytes);
  }
  return info;
}

uint64_t ModelFile::FirstHash(const TensorInfo& wanted) const {
  uint64_t first = 0;
  for (const TensorInfo& info : gguf_.tensors()) {
    if (&info == &wanted) break;
    if (IsHashed(info)) first += NumHashChunks(info.extent.size_bytes);
  }
  return first;
}

Result<uint32_t> ModelFile::AddMatrix(const std::string& name, uint64_t rows, uint64_t columns) {
  FRUGAL_ASSIGN(const TensorInfo* info, Require(name));
  const std::vector<uint64_t> shape = {rows, columns};
  // A row of quantised blocks that are not whole is no row of the GGUF reader either.
  if (info->shape != shape || !IsWeightType(info->dtype)) {
    return BadModel("{}: {}: expected a float or quantised type of {}, found {} {}", path_, name, ShapeText(shape), DTypeName(info->dtype),
                    ShapeText(info->shape));
  }
  matrices_.push_back({name, info->dtype, rows, columns, info->extent, *RowBytes(info->dtype, columns), FirstHash(*info)});
  return static_cast<uint32_t>(matrices_.size() - 1);
}

Result<VectorInfo> ModelFile::MakeVector(const std::string& name, uint64_t size) const {
  FRUGAL_ASSIGN(const TensorInfo* info, Require(name));
  if (info->shape != std::vector<uint64_t>{size} || !IsFloat(info->dtype)) {
    return BadModel("{}: {}: expected F32, F16 or BF16 [{}], found {} {}", path_, name, size, DTypeName(info->dtype),
                    ShapeText(info->shape));
  }
  return VectorInfo{name, info->dtype, size, info->extent, FirstHash(*info)};
}

uint64_t ModelFile::ffn_bytes() const {
  uint64_t sum = 0;
  for (const BundleInfo& bundle : bundles_) sum += bundle.extent.size_bytes;
  return sum;
}

uint64_t ModelFile::streamable_bytes() const {
  uint64_t sum = ffn_bytes();
  for (uint32_t id = 0; id < matrices_.size(); ++id) {
    const bool rows_only = id == ids_.position_embedding || (id == ids_.token_embedding && ids_.output != id);
    if (!rows_only) sum += matrices_[id].extent.size_bytes;
  }
  return sum;
}

bool ModelFile::has_quantised_rows() const {
  return std::any_of(matrices_.begin(), matrices_.end(), [](const MatrixInfo& matrix) { return IsQuantised(matrix.dtype); }) ||
         std::any_of(bundles_.begin(), bundles_.end(), [](const BundleInfo& bundle) { return IsQuantised(bundle.up_type); });
}

uint64_t ModelFile::vector_floats() const {
  uint64_t sum = 0;
  for (const auto& layer : layer_vectors_) {
    for (const VectorInfo& vector : layer) sum += vector.size;
  }
  for (const VectorInfo& vector : final_norm_) sum += vector.size;
  return sum;
}

Result<uint64_t> ModelFile::ReadContentHash() const {
  FRUGAL_ASSIGN(const auto source, OpenFileSource(path_));
  std::vector<std::byte> hashes(hash_of_hashes_.size_bytes);
  FRUGAL_TRY(source->Read(hash_of_hashes_.offset_bytes, hashes));
  return HashBytes(hashes);
}

}  // namespace frugal
