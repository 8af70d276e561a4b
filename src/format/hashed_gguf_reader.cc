#include "src/format/hashed_gguf_reader.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <utility>

#include "src/base/bytes.h"
#include "src/base/check.h"

namespace frugal {
namespace {

constexpr uint64_t kHeaderPieceBytes = 256 * kKiB;
// Smaller reads stay in the page cache: their neighbours follow.
constexpr uint64_t kMinForgottenBytes = 256 * kKiB;

struct StateDeleter {
  void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};

bool IsHashTable(const TensorInfo& info) {
  return info.name == kTensorHashesName || info.name == kHashOfHashesName ||
         info.name.ends_with(".ffn_bundle.xxh3");
}

}  // namespace

Result<std::unique_ptr<HashedGgufReader>> HashedGgufReader::Open(const std::string& path) {
  FRUGAL_ASSIGN(std::unique_ptr<ByteSource> source, OpenFileSource(path));
  FRUGAL_ASSIGN(GgufReader gguf, GgufReader::Open(std::move(source)));
  auto reader = std::unique_ptr<HashedGgufReader>(new HashedGgufReader(std::move(gguf)));
  reader->path_ = path;
  FRUGAL_ASSIGN(reader->file_, OpenRegularFile(path));
  FRUGAL_TRY(reader->Load());
  return reader;
}

const HashedGgufReader::Tensor* HashedGgufReader::Find(std::string_view name) const {
  const auto found = std::find_if(tensors_.begin(), tensors_.end(),
                                  [name](const Tensor& tensor) { return tensor.info->name == name; });
  return found == tensors_.end() ? nullptr : &*found;
}

Status HashedGgufReader::ListTensors() {
  FRUGAL_ASSIGN(const uint64_t chunk_bytes, gguf_.GetUint(kHashChunkKey));
  if (chunk_bytes != kHashChunkBytes) {
    return BadModel("{}: {} is {}, expected {}", path_, kHashChunkKey, chunk_bytes, kHashChunkBytes);
  }
  uint32_t num_bundles = 0;
  for (const TensorInfo& info : gguf_.tensors()) {
    if (IsHashTable(info)) continue;
    Tensor tensor;
    tensor.info = &info;
    tensor.unit_bytes = kHashChunkBytes;
    tensor.is_bundle = info.name.ends_with(".ffn_bundle.weight");
    if (tensor.is_bundle) {
      if (info.name != BundleTensorName(num_bundles) || info.dtype != DType::kI8 || info.shape.size() != 2) {
        return BadModel("{}: {}: expected {}, I8 with two dimensions", path_, info.name,
                        BundleTensorName(num_bundles));
      }
      ++num_bundles;
      tensor.unit_bytes = info.columns();
    }
    tensors_.push_back(std::move(tensor));
  }
  return {};
}

Result<std::vector<uint64_t>> HashedGgufReader::ReadTable(const std::string& name, uint64_t count) {
  const TensorInfo* info = gguf_.FindTensor(name);
  if (info == nullptr) return BadModel("{}: tensor {} is missing", path_, name);
  if (info->dtype != DType::kI64 || info->shape != std::vector<uint64_t>{count}) {
    return BadModel("{}: {}: expected I64 [{}], found {} [{}]", path_, name, count, DTypeName(info->dtype),
                    fmt::join(info->shape, ", "));
  }
  std::vector<uint64_t> table(count);
  FRUGAL_TRY(
      ReadFully(file_.fd.get(), path_, info->extent.offset_bytes, std::as_writable_bytes(std::span(table))));
  return table;
}

Result<uint64_t> HashedGgufReader::HashHeader() {
  const std::unique_ptr<XXH3_state_t, StateDeleter> state(XXH3_createState());
  if (state == nullptr) return MakeError(ErrorCode::kOutOfMemory, "{}: no memory to hash", path_);
  XXH3_64bits_reset(state.get());
  std::vector<std::byte> piece;
  for (uint64_t at = 0; at < gguf_.data_offset_bytes(); at += piece.size()) {
    piece.resize(std::min(kHeaderPieceBytes, gguf_.data_offset_bytes() - at));
    FRUGAL_TRY(ReadFully(file_.fd.get(), path_, at, piece));
    XXH3_64bits_update(state.get(), piece.data(), piece.size());
  }
  return XXH3_64bits_digest(state.get());
}

Status HashedGgufReader::Load() {
  FRUGAL_TRY(ListTensors());
  uint32_t num_bundles = 0;
  uint64_t num_chunks = 0;
  for (const Tensor& tensor : tensors_) {
    if (tensor.is_bundle) {
      ++num_bundles;
    } else {
      num_chunks += NumHashChunks(tensor.info->extent.size_bytes);
    }
  }
  FRUGAL_ASSIGN(const std::vector<uint64_t> expected, ReadTable(kHashOfHashesName, num_bundles + 2));
  content_hash_ = HashBytes(std::as_bytes(std::span<const uint64_t>(expected)));
  const auto check = [&](std::span<const uint64_t> hashes, size_t index, const std::string& name) -> Status {
    num_hashes_ += hashes.size();
    if (HashBytes(std::as_bytes(hashes)) == expected[index]) return {};
    return BadModel("{}: {}: the hashes do not match their own hash: the file is damaged", path_, name);
  };
  FRUGAL_ASSIGN(const std::vector<uint64_t> chunks, ReadTable(kTensorHashesName, num_chunks));
  FRUGAL_TRY(check(chunks, num_bundles, kTensorHashesName));
  auto next = chunks.begin();
  uint32_t layer = 0;
  for (Tensor& tensor : tensors_) {
    if (tensor.is_bundle) {
      FRUGAL_ASSIGN(tensor.hashes, ReadTable(BundleHashesName(layer), tensor.info->rows()));
      FRUGAL_TRY(check(tensor.hashes, layer, BundleHashesName(layer)));
      ++layer;
      continue;
    }
    const auto count = static_cast<std::ptrdiff_t>(NumHashChunks(tensor.info->extent.size_bytes));
    tensor.hashes.assign(next, next + count);
    next += count;
  }
  FRUGAL_ASSIGN(const uint64_t header_hash, HashHeader());
  if (header_hash == expected.back()) return {};
  return BadModel("{}: the header at offset 0 does not match its hash: the file is damaged", path_);
}

Status HashedGgufReader::Read(const Tensor& tensor, uint64_t offset_bytes, std::span<std::byte> out) {
  const Extent& extent = tensor.info->extent;
  CHECK(offset_bytes % tensor.unit_bytes == 0 && out.size() <= extent.size_bytes - offset_bytes);
  CHECK(out.size() % tensor.unit_bytes == 0 || offset_bytes + out.size() == extent.size_bytes);
  Status read = ReadFully(file_.fd.get(), path_, extent.offset_bytes + offset_bytes, out);
  if (!read) return WithContext(std::move(read).error(), tensor.info->name);
  bytes_read_ += out.size();
  if (out.size() >= kMinForgottenBytes) {
    const uint64_t begin = RoundDown(extent.offset_bytes + offset_bytes, 4096);
    posix_fadvise(file_.fd.get(), static_cast<off_t>(begin),
                  static_cast<off_t>(extent.offset_bytes + offset_bytes + out.size() - begin),
                  POSIX_FADV_DONTNEED);
  }
  for (uint64_t at = 0; at < out.size(); at += tensor.unit_bytes) {
    const auto unit = out.subspan(at, std::min<uint64_t>(tensor.unit_bytes, out.size() - at));
    if (HashBytes(unit) == tensor.hashes[(offset_bytes + at) / tensor.unit_bytes]) continue;
    return BadModel("{}: {}: the bytes at offset {} do not match their hash: the file is damaged", path_,
                    tensor.info->name, extent.offset_bytes + offset_bytes + at);
  }
  return {};
}

Result<std::vector<std::byte>> HashedGgufReader::ReadAll(const Tensor& tensor) {
  std::vector<std::byte> bytes(tensor.info->extent.size_bytes);
  FRUGAL_TRY(Read(tensor, 0, bytes));
  return bytes;
}

}  // namespace frugal
