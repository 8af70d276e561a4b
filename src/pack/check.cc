#include "src/pack/check.h"

#include <fcntl.h>
#include <xxhash.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <utility>

#include "src/base/aligned_buffer.h"
#include "src/base/bytes.h"
#include "src/base/clock.h"
#include "src/format/byte_source.h"
#include "src/format/gguf_reader.h"
#include "src/format/packed_format.h"
#include "src/format/regular_file.h"
#include "src/format/untrusted_text.h"
#include "src/kernels/elements.h"
#include "src/model/config.h"
#include "src/pack/bundle_types.h"

namespace frugal {
namespace {

constexpr uint64_t kPieceBytes = 4 * kMiB;

// Of one tensor: a multiple of a hash's chunk and of the type's block, so that pieces cut neither. The block's odd factor is at most
// 105 (210 bytes of Q6_K), so that one such multiple fits.
uint64_t PieceBytes(DType dtype) {
  const uint64_t whole_bytes = std::lcm(uint64_t{kHashChunkBytes}, uint64_t{TraitsOf(dtype).block_bytes});
  CHECK(whole_bytes <= kPieceBytes);
  return RoundDown(kPieceBytes, whole_bytes);
}

bool IsBundle(const TensorInfo& tensor) { return tensor.name.ends_with(".ffn_bundle.weight"); }
bool IsBundleHashes(const TensorInfo& tensor) { return tensor.name.ends_with(".ffn_bundle.xxh3"); }
bool IsTopTable(const TensorInfo& tensor) {
  return tensor.name == kTensorHashesName || tensor.name == kHashOfHashesName;
}

// The tensors whose hashes lie in frugal.tensor_hashes. Predictor files have no bundles.
bool IsHashedByChunks(const TensorInfo& tensor, CheckedKind kind) {
  if (kind == CheckedKind::kPackedModel && (IsBundle(tensor) || IsBundleHashes(tensor))) return false;
  return !IsTopTable(tensor);
}

struct StateDeleter {
  void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};

// Hashes of a table in the file, one after the other, through a small window.
class HashCursor {
 public:
  HashCursor(int fd, const std::string& path, const Extent& extent) : fd_(fd), path_(path), extent_(extent) {}

  Result<uint64_t> Next() {
    if (at_ == window_.size()) {
      CHECK(read_bytes_ < extent_.size_bytes);
      window_.resize(std::min<uint64_t>(kWindow, (extent_.size_bytes - read_bytes_) / sizeof(uint64_t)));
      FRUGAL_TRY(ReadFully(fd_, path_, extent_.offset_bytes + read_bytes_,
                           std::as_writable_bytes(std::span(window_))));
      read_bytes_ += window_.size() * sizeof(uint64_t);
      at_ = 0;
    }
    return window_[at_++];
  }

 private:
  static constexpr uint64_t kWindow = 8192;
  const int fd_;
  const std::string& path_;
  const Extent extent_;
  uint64_t read_bytes_ = 0;
  std::vector<uint64_t> window_;
  size_t at_ = 0;
};

class Checker {
 public:
  Checker(std::string path, FunctionRef<void(double, std::string_view)> progress)
      : path_(std::move(path)), progress_(progress) {}

  Result<CheckReport> Run() {
    const uint64_t start_ns = NowNs();
    FRUGAL_ASSIGN(std::unique_ptr<ByteSource> source, OpenFileSource(path_));
    FRUGAL_ASSIGN(GgufReader reader, GgufReader::Open(std::move(source)));
    gguf_.emplace(std::move(reader));
    FRUGAL_ASSIGN(file_, OpenRegularFile(path_));
    FRUGAL_ASSIGN(buffer_, AlignedBuffer::Allocate(kPieceBytes));
    report_.file_bytes = file_.size_bytes;
    report_.num_tensors = gguf_->tensors().size();
    FRUGAL_TRY(FindKind());
    if (report_.kind != CheckedKind::kPlain) FRUGAL_TRY(CheckTables());
    FRUGAL_TRY(CheckTensors());
    progress_(1.0, "");
    report_.elapsed_ns = NowNs() - start_ns;
    return std::move(report_);
  }

 private:
  Status FindKind();
  Status CheckTables();
  Status CheckTensors();
  Status CheckPlain(const TensorInfo& tensor, HashCursor* hashes);
  Status CheckBundles(const TensorInfo& tensor, uint32_t layer);
  Status CheckPadding(const Extent& padding);
  uint32_t num_bundle_layers() const {
    return config_ && config_->ffn_layout != FfnLayout::kMatrices ? config_->num_layers : 0;
  }
  Result<uint64_t> HashExtent(const Extent& extent, std::string_view what);
  void FindNonFiniteRows(const TensorInfo& tensor, std::span<const std::byte> bytes, uint64_t first_byte);
  Result<std::span<const std::byte>> ReadPiece(uint64_t offset_bytes, uint64_t size_bytes);
  Result<const TensorInfo*> RequireTable(const std::string& name, uint64_t num_hashes) const;
  void AddProblem(std::string_view tensor, uint64_t row, uint64_t offset_bytes, std::string_view what);

  const std::string path_;
  const FunctionRef<void(double, std::string_view)> progress_;
  std::optional<GgufReader> gguf_;
  RegularFile file_;
  AlignedBuffer buffer_;               // [kPieceBytes]
  std::optional<ModelConfig> config_;  // of packed models
  uint64_t done_bytes_ = 0;
  std::string_view what_;
  CheckReport report_;
};

void Checker::AddProblem(std::string_view tensor, uint64_t row, uint64_t offset_bytes,
                         std::string_view what) {
  if (++report_.num_problems > kMaxCheckProblems) return;
  CheckProblem problem;
  problem.tensor = tensor;
  problem.row = row;
  problem.offset_bytes = offset_bytes;
  problem.message =
      fmt::format("{}: {}: row {} at offset {}: {}", path_, Printable(tensor), row, offset_bytes, what);
  report_.problems.push_back(std::move(problem));
}

// Valid until the next call. What is read leaves the page cache: it is as large as the model.
Result<std::span<const std::byte>> Checker::ReadPiece(uint64_t offset_bytes, uint64_t size_bytes) {
  CHECK(size_bytes <= buffer_.size_bytes());
  const std::span<std::byte> piece = buffer_.bytes().first(size_bytes);
  FRUGAL_TRY(ReadFully(file_.fd.get(), path_, offset_bytes, piece));
  const int fd = file_.fd.get();
  const off_t begin = static_cast<off_t>(RoundDown(offset_bytes, 4096));
  const off_t end = static_cast<off_t>(offset_bytes + size_bytes);
  posix_fadvise(fd, begin, end - begin, POSIX_FADV_DONTNEED);
  posix_fadvise(fd, end, static_cast<off_t>(kPieceBytes), POSIX_FADV_WILLNEED);
  done_bytes_ += size_bytes;
  const double total_bytes = static_cast<double>(std::max<uint64_t>(1, file_.size_bytes));
  progress_(std::min(1.0, static_cast<double>(done_bytes_) / total_bytes), what_);
  return std::span<const std::byte>(piece);
}

Status Checker::FindKind() {
  const GgufKeyValue* architecture = gguf_->Find("general.architecture");
  const auto* name = architecture == nullptr ? nullptr : std::get_if<std::string>(&architecture->value);
  if (name != nullptr && *name == kPredictorArchitecture) {
    report_.kind = CheckedKind::kPredictor;
  } else if (gguf_->Find(kPackedVersionKey) != nullptr) {
    report_.kind = CheckedKind::kPackedModel;
    FRUGAL_ASSIGN(const uint64_t version, gguf_->GetUint(kPackedVersionKey));
    if (version != kPackedVersion) {
      return BadModel("{}: {} is {}, this program reads {}", path_, kPackedVersionKey, version,
                      kPackedVersion);
    }
    FRUGAL_ASSIGN(config_, ReadGgufConfig(*gguf_));
  } else {
    return {};
  }
  FRUGAL_ASSIGN(const uint64_t chunk_bytes, gguf_->GetUint(kHashChunkKey));
  if (chunk_bytes != kHashChunkBytes) {
    return BadModel("{}: {} is {}, expected {}", path_, kHashChunkKey, chunk_bytes, kHashChunkBytes);
  }
  return {};
}

Result<const TensorInfo*> Checker::RequireTable(const std::string& name, uint64_t num_hashes) const {
  const TensorInfo* table = gguf_->FindTensor(name);
  if (table == nullptr) return BadModel("{}: tensor {} is missing", path_, name);
  if (table->dtype != DType::kI64 || table->shape != std::vector<uint64_t>{num_hashes}) {
    return BadModel("{}: {}: expected I64 [{}], found {} [{}]", path_, name, num_hashes,
                    DTypeName(table->dtype), fmt::join(table->shape, ", "));
  }
  return table;
}

Result<uint64_t> Checker::HashExtent(const Extent& extent, std::string_view what) {
  what_ = what;
  const std::unique_ptr<XXH3_state_t, StateDeleter> state(XXH3_createState());
  if (state == nullptr) return MakeError(ErrorCode::kOutOfMemory, "{}: no memory to hash", path_);
  XXH3_64bits_reset(state.get());
  for (uint64_t at = 0; at < extent.size_bytes; at += kPieceBytes) {
    FRUGAL_ASSIGN(const std::span<const std::byte> piece,
                  ReadPiece(extent.offset_bytes + at, std::min(kPieceBytes, extent.size_bytes - at)));
    XXH3_64bits_update(state.get(), piece.data(), piece.size());
  }
  return XXH3_64bits_digest(state.get());
}

// The tables of hashes, by their own hashes, and the header.
Status Checker::CheckTables() {
  std::vector<const TensorInfo*> tables;
  uint64_t num_chunks = 0;
  for (const TensorInfo& tensor : gguf_->tensors()) {
    if (IsHashedByChunks(tensor, report_.kind)) {
      num_chunks += NumHashChunks(tensor.extent.size_bytes);
    }
  }
  const uint32_t num_layers = num_bundle_layers();
  for (uint32_t layer = 0; layer < num_layers; ++layer) {
    FRUGAL_ASSIGN(const TensorInfo* table, RequireTable(BundleHashesName(layer), config_->ffn_size));
    tables.push_back(table);
  }
  FRUGAL_ASSIGN(const TensorInfo* chunk_hashes, RequireTable(kTensorHashesName, num_chunks));
  tables.push_back(chunk_hashes);
  FRUGAL_ASSIGN(const TensorInfo* top, RequireTable(kHashOfHashesName, num_layers + 2));
  if (top != &gguf_->tensors().back()) {
    return BadModel("{}: {} is not the last tensor", path_, kHashOfHashesName);
  }

  std::vector<uint64_t> expected(num_layers + 2);
  FRUGAL_TRY(ReadFully(file_.fd.get(), path_, top->extent.offset_bytes,
                       std::as_writable_bytes(std::span(expected))));
  report_.content_hash = HashBytes(std::as_bytes(std::span<const uint64_t>(expected)));
  for (size_t i = 0; i < tables.size(); ++i) {
    FRUGAL_ASSIGN(const uint64_t hash, HashExtent(tables[i]->extent, tables[i]->name));
    ++report_.num_hashes;
    if (hash == expected[i]) continue;
    AddProblem(tables[i]->name, 0, tables[i]->extent.offset_bytes,
               fmt::format("these hashes do not match their own hash in {}", kHashOfHashesName));
  }
  FRUGAL_ASSIGN(const uint64_t header_hash, HashExtent({0, gguf_->data_offset_bytes()}, "header"));
  ++report_.num_hashes;
  if (header_hash != expected.back()) {
    AddProblem("header", 0, 0, fmt::format("its bytes do not match their hash in {}", kHashOfHashesName));
  }
  return {};
}

Status Checker::CheckTensors() {
  std::optional<HashCursor> chunk_hashes;
  if (report_.kind != CheckedKind::kPlain) {
    chunk_hashes.emplace(file_.fd.get(), path_, gguf_->FindTensor(kTensorHashesName)->extent);
  }
  uint64_t end_bytes = gguf_->data_offset_bytes();
  uint32_t num_bundles = 0;
  for (const TensorInfo& tensor : gguf_->tensors()) {
    what_ = tensor.name;
    FRUGAL_TRY(CheckPadding({end_bytes, tensor.extent.offset_bytes - end_bytes}));
    end_bytes = tensor.extent.end_bytes();
    if (IsHashedByChunks(tensor, report_.kind)) {
      FRUGAL_TRY(CheckPlain(tensor, chunk_hashes ? &*chunk_hashes : nullptr));
    } else if (IsBundle(tensor)) {
      FRUGAL_TRY(CheckBundles(tensor, num_bundles++));
    }
  }
  if (num_bundles != num_bundle_layers()) {
    return BadModel("{}: the bundles of {} layers, expected {}", path_, num_bundles, num_bundle_layers());
  }
  return CheckPadding({end_bytes, file_.size_bytes - end_bytes});
}

// Nobody reads what lies between tensors, but zeros are what was written there.
Status Checker::CheckPadding(const Extent& padding) {
  if (padding.size_bytes == 0 || padding.size_bytes > kPieceBytes) return {};
  FRUGAL_ASSIGN(const std::span<const std::byte> bytes, ReadPiece(padding.offset_bytes, padding.size_bytes));
  const auto found = std::find_if(bytes.begin(), bytes.end(), [](std::byte b) { return b != std::byte{0}; });
  if (found == bytes.end()) return {};
  AddProblem("padding", 0, padding.offset_bytes + static_cast<uint64_t>(found - bytes.begin()),
             "expected zeros between the tensors");
  return {};
}

// One problem for each row that has a NaN or an infinity. `bytes` begin at byte `first_byte` of the tensor.
void Checker::FindNonFiniteRows(const TensorInfo& tensor, std::span<const std::byte> bytes,
                                uint64_t first_byte) {
  const DTypeTraits traits = TraitsOf(tensor.dtype);
  const uint64_t row_bytes = *RowBytes(tensor.dtype, tensor.columns());
  while (!bytes.empty()) {
    const auto element = FindNonFinite(tensor.dtype, bytes);
    if (!element) return;
    const uint64_t at = *element / traits.block_elements * traits.block_bytes;
    const uint64_t row = (first_byte + at) / row_bytes;
    const uint64_t column = (first_byte + at) % row_bytes / traits.block_bytes * traits.block_elements;
    AddProblem(tensor.name, row, tensor.extent.offset_bytes + first_byte + at,
               fmt::format("column {} is {}, expected a finite number", column,
                           NonFiniteText(tensor.dtype, bytes, *element)));
    const uint64_t next = std::min<uint64_t>((row + 1) * row_bytes - first_byte, bytes.size());
    bytes = bytes.subspan(next);
    first_byte += next;
  }
}

Status Checker::CheckPlain(const TensorInfo& tensor, HashCursor* hashes) {
  const uint64_t row_bytes = *RowBytes(tensor.dtype, tensor.columns());
  const uint64_t piece_bytes = PieceBytes(tensor.dtype);
  for (uint64_t at = 0; at < tensor.extent.size_bytes; at += piece_bytes) {
    FRUGAL_ASSIGN(
        const std::span<const std::byte> piece,
        ReadPiece(tensor.extent.offset_bytes + at, std::min(piece_bytes, tensor.extent.size_bytes - at)));
    for (uint64_t begin = 0; hashes != nullptr && begin < piece.size(); begin += kHashChunkBytes) {
      const uint64_t size = std::min<uint64_t>(kHashChunkBytes, piece.size() - begin);
      FRUGAL_ASSIGN(const uint64_t expected, hashes->Next());
      ++report_.num_hashes;
      if (HashBytes(piece.subspan(begin, size)) == expected) continue;
      const uint64_t first_row = (at + begin) / row_bytes;
      const uint64_t last_row = (at + begin + size - 1) / row_bytes;
      AddProblem(tensor.name, first_row, tensor.extent.offset_bytes + at + begin,
                 fmt::format("the {} bytes up to row {} do not match their hash", size, last_row));
    }
    FindNonFiniteRows(tensor, piece, at);
  }
  return {};
}

Status Checker::CheckBundles(const TensorInfo& tensor, uint32_t layer) {
  if (layer >= num_bundle_layers()) {
    return BadModel("{}: {}: the model has bundles of {} layers", path_, tensor.name, num_bundle_layers());
  }
  const uint64_t stride_bytes = tensor.columns();
  FRUGAL_ASSIGN(const std::vector<BundlePart> parts, ReadBundleParts(*gguf_, layer, *config_));
  if (tensor.name != BundleTensorName(layer) || tensor.dtype != DType::kI8 || tensor.shape.size() != 2 ||
      tensor.shape[0] != config_->ffn_size || stride_bytes < BundleBytes(parts) ||
      stride_bytes > kPieceBytes) {
    return BadModel("{}: {}: expected {}, I8 [{}, {} or somewhat more]", path_, tensor.name,
                    BundleTensorName(layer), config_->ffn_size, BundleBytes(parts));
  }
  HashCursor hashes(file_.fd.get(), path_, gguf_->FindTensor(BundleHashesName(layer))->extent);
  const uint64_t rows_at_once = kPieceBytes / stride_bytes;
  for (uint64_t first = 0; first < tensor.shape[0]; first += rows_at_once) {
    const uint64_t num_rows = std::min(rows_at_once, tensor.shape[0] - first);
    const uint64_t offset_bytes = tensor.extent.offset_bytes + first * stride_bytes;
    FRUGAL_ASSIGN(const std::span<const std::byte> piece, ReadPiece(offset_bytes, num_rows * stride_bytes));
    for (uint64_t i = 0; i < num_rows; ++i) {
      const std::span<const std::byte> bundle = piece.subspan(i * stride_bytes, stride_bytes);
      FRUGAL_ASSIGN(const uint64_t expected, hashes.Next());
      ++report_.num_hashes;
      const uint64_t at = offset_bytes + i * stride_bytes;
      if (HashBytes(bundle) != expected) {
        AddProblem(tensor.name, first + i, at, "its bytes do not match their hash");
      }
      for (const BundlePart& part : parts) {
        const auto values = bundle.subspan(part.offset_bytes, part.size_bytes);
        const auto element = FindNonFinite(part.dtype, values);
        if (!element) continue;
        const DTypeTraits traits = TraitsOf(part.dtype);
        AddProblem(tensor.name, first + i,
                   at + part.offset_bytes + *element / traits.block_elements * traits.block_bytes,
                   fmt::format("element {} of the {} row is {}, expected a finite number", *element, part.name,
                               NonFiniteText(part.dtype, values, *element)));
      }
    }
  }
  return {};
}

}  // namespace

Result<CheckReport> CheckModel(const std::string& path,
                               FunctionRef<void(double share, std::string_view what)> progress) {
  return Checker(path, progress).Run();
}

}  // namespace frugal
