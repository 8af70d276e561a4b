#include "src/format/hashed_gguf_writer.h"

#include <algorithm>
#include <array>
#include <utility>

#include "src/base/check.h"

namespace frugal {

Result<std::unique_ptr<HashedGgufWriter>> HashedGgufWriter::Open(const std::string& path,
                                                                 Overwrite overwrite) {
  auto writer = std::unique_ptr<HashedGgufWriter>(new HashedGgufWriter());
  writer->partial_.reset(XXH3_createState());
  if (writer->partial_ == nullptr) return MakeError(ErrorCode::kOutOfMemory, "{}: no memory to write", path);
  FRUGAL_ASSIGN(writer->writer_, GgufWriter::Open(path, overwrite, kPackedAlignmentBytes));
  writer->writer_->AddUint32(kHashChunkKey, kHashChunkBytes);
  return writer;
}

size_t HashedGgufWriter::Add(Tensor tensor) {
  CHECK(!began_);
  tensor.size_bytes = writer_->tensor_bytes(tensor.index);
  tensors_.push_back(std::move(tensor));
  return tensors_.size() - 1;
}

size_t HashedGgufWriter::AddTensor(std::string_view name, DType dtype, std::span<const uint64_t> shape) {
  Tensor tensor;
  tensor.index = writer_->AddTensor(name, dtype, shape);
  tensor.unit_bytes = kHashChunkBytes;
  return Add(std::move(tensor));
}

size_t HashedGgufWriter::AddBundles(uint32_t layer, uint64_t num_bundles, uint64_t stride_bytes) {
  Tensor tensor;
  tensor.index =
      writer_->AddTensor(BundleTensorName(layer), DType::kI8, std::array{num_bundles, stride_bytes});
  tensor.unit_bytes = stride_bytes;
  tensor.is_bundle = true;
  tensor.layer = layer;
  return Add(std::move(tensor));
}

Status HashedGgufWriter::BeginData(GgufWriter::Space space) {
  CHECK(!began_);
  began_ = true;
  uint64_t num_chunks = 0;
  for (Tensor& tensor : tensors_) {
    const uint64_t num_hashes = (tensor.size_bytes + tensor.unit_bytes - 1) / tensor.unit_bytes;
    tensor.hashes.reserve(num_hashes);
    if (!tensor.is_bundle) {
      num_chunks += num_hashes;
      continue;
    }
    bundle_hashes_.push_back(
        writer_->AddTensor(BundleHashesName(tensor.layer), DType::kI64, std::array{num_hashes}));
  }
  tensor_hashes_ = writer_->AddTensor(kTensorHashesName, DType::kI64, std::array{num_chunks});
  hash_of_hashes_ = writer_->AddTensor(kHashOfHashesName, DType::kI64,
                                       std::array{static_cast<uint64_t>(bundle_hashes_.size() + 2)});
  return writer_->BeginData(space);
}

// Whole units are hashed where they lie; what is begun or left over goes through partial_.
void HashedGgufWriter::Hash(size_t index, std::span<const std::byte> data) {
  Tensor& tensor = tensors_[index];
  uint64_t at = tensor.written_bytes;
  while (!data.empty()) {
    const uint64_t in_unit = at % tensor.unit_bytes;
    const uint64_t unit_end = std::min(at - in_unit + tensor.unit_bytes, tensor.size_bytes);
    const auto piece = data.first(std::min<uint64_t>(data.size(), unit_end - at));
    const bool ends_unit = at + piece.size() == unit_end;
    if (in_unit == 0 && ends_unit) {
      tensor.hashes.push_back(HashBytes(piece));
    } else {
      CHECK(in_unit == 0 || partial_tensor_ == index);
      if (in_unit == 0) XXH3_64bits_reset(partial_.get());
      partial_tensor_ = index;
      XXH3_64bits_update(partial_.get(), piece.data(), piece.size());
      if (ends_unit) tensor.hashes.push_back(XXH3_64bits_digest(partial_.get()));
    }
    at += piece.size();
    data = data.subspan(piece.size());
  }
}

Status HashedGgufWriter::Append(size_t index, std::span<const std::byte> data) {
  CHECK(began_ && index < tensors_.size());
  Tensor& tensor = tensors_[index];
  CHECK(data.size() <= tensor.size_bytes - tensor.written_bytes);
  Hash(index, data);
  FRUGAL_TRY(writer_->WriteTensorPart(tensor.index, tensor.written_bytes, data));
  tensor.written_bytes += data.size();
  return {};
}

void HashedGgufWriter::AppendZeros(size_t index, uint64_t size_bytes) {
  CHECK(began_ && index < tensors_.size());
  Tensor& tensor = tensors_[index];
  CHECK(size_bytes <= tensor.size_bytes - tensor.written_bytes);
  writer_->SkipTensorPart(tensor.index, size_bytes);
  const std::vector<std::byte> zeros(std::min(size_bytes, tensor.unit_bytes));
  while (size_bytes > 0) {
    const auto piece = std::span(zeros).first(std::min<uint64_t>(size_bytes, zeros.size()));
    Hash(index, piece);
    tensor.written_bytes += piece.size();
    size_bytes -= piece.size();
  }
}

Status HashedGgufWriter::WriteTable(size_t index, std::span<const uint64_t> hashes) {
  return writer_->WriteTensorPart(index, 0, std::as_bytes(hashes));
}

Status HashedGgufWriter::WriteHashes() {
  CHECK(began_);
  std::vector<uint64_t> hash_of_hashes;
  std::vector<uint64_t> tensor_hashes;
  for (const Tensor& tensor : tensors_) {
    CHECK(tensor.written_bytes == tensor.size_bytes);
    if (!tensor.is_bundle) {
      tensor_hashes.insert(tensor_hashes.end(), tensor.hashes.begin(), tensor.hashes.end());
      continue;
    }
    FRUGAL_TRY(WriteTable(bundle_hashes_[hash_of_hashes.size()], tensor.hashes));
    hash_of_hashes.push_back(HashBytes(std::as_bytes(std::span<const uint64_t>(tensor.hashes))));
  }
  FRUGAL_TRY(WriteTable(tensor_hashes_, tensor_hashes));
  hash_of_hashes.push_back(HashBytes(std::as_bytes(std::span<const uint64_t>(tensor_hashes))));
  const std::string header = writer_->HeaderBytes();
  hash_of_hashes.push_back(HashBytes(std::as_bytes(std::span(header))));
  FRUGAL_TRY(WriteTable(hash_of_hashes_, hash_of_hashes));
  content_hash_ = HashBytes(std::as_bytes(std::span<const uint64_t>(hash_of_hashes)));
  return {};
}

Status HashedGgufWriter::Finish() {
  FRUGAL_TRY(WriteHashes());
  return writer_->Finish();
}

}  // namespace frugal
