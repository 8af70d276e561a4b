// Writes a GGUF file in which every byte of every tensor has a hash, as packed models and predictor files
// have them: packed_format.h names the rules. It collects the hashes while tensors are written, and appends
// blk.N.ffn_bundle.xxh3 of each layer that has bundles, frugal.tensor_hashes and frugal.hash_of_hashes by
// itself.
//
// Use: Open, keys().Add*, AddTensor and AddBundles in the order of the file, BeginData, then Append each
// tensor from its first byte to its last, Finish. Holds 8 bytes for each hash until the end. One thread.
#pragma once

#include <xxhash.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "src/format/gguf_writer.h"
#include "src/format/packed_format.h"
#include "src/tensor/dtype.h"

namespace frugal {

class HashedGgufWriter {
 public:
  // As GgufWriter::Open; the alignment is kPackedAlignmentBytes.
  static Result<std::unique_ptr<HashedGgufWriter>> Open(const std::string& path, Overwrite overwrite);

  // For Add* of keys before BeginData, and the test seam. frugal.hash_chunk_bytes is there already.
  GgufWriter& keys() { return *writer_; }

  // A tensor with a hash for each kHashChunkBytes; shape outermost first. Returns its index.
  size_t AddTensor(std::string_view name, DType dtype, std::span<const uint64_t> shape);
  // blk.LAYER.ffn_bundle.weight, I8 [num_bundles, stride_bytes], with a hash for each bundle. Layers come in
  // order.
  size_t AddBundles(uint32_t layer, uint64_t num_bundles, uint64_t stride_bytes);

  // As GgufWriter::BeginData.
  Status BeginData(GgufWriter::Space space = GgufWriter::Space::kReserved);
  // Valid after BeginData.
  uint64_t file_bytes() const { return writer_->file_bytes(); }
  // The next bytes of the tensor. Tensors may be written in any order, but each is completed before the next.
  Status Append(size_t tensor, std::span<const std::byte> data);
  // The next bytes of the tensor are zeros, hashed but not written.
  void AppendZeros(size_t tensor, uint64_t size_bytes);
  // Writes the hashes: from now on the file can be read as keys().temporary_path(). After values of keys were replaced, again. Programmer's
  // mistake before all tensors are complete.
  Status WriteHashes();
  // WriteHashes, then as GgufWriter::Finish.
  Status Finish();
  // XXH3 of frugal.hash_of_hashes; after WriteHashes or Finish.
  uint64_t content_hash() const { return content_hash_; }

  // What it holds for that many hashes, for a memory plan.
  static uint64_t MemoryBytes(uint64_t num_hashes) { return 2 * num_hashes * sizeof(uint64_t); }

 private:
  struct Tensor {
    size_t index = 0;  // in writer_
    uint64_t size_bytes = 0;
    uint64_t unit_bytes = 0;  // that one hash covers
    uint64_t written_bytes = 0;
    bool is_bundle = false;
    uint32_t layer = 0;            // of bundles
    std::vector<uint64_t> hashes;  // [ceil(size_bytes / unit_bytes)]
  };
  struct StateDeleter {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
  };

  HashedGgufWriter() = default;
  size_t Add(Tensor tensor);
  void Hash(size_t index, std::span<const std::byte> data);
  Status WriteTable(size_t index, std::span<const uint64_t> hashes);

  std::unique_ptr<GgufWriter> writer_;
  std::unique_ptr<XXH3_state_t, StateDeleter> partial_;  // of the unit that the last Append ended within
  size_t partial_tensor_ = 0;
  std::vector<Tensor> tensors_;
  std::vector<size_t> bundle_hashes_;  // indices in writer_ of the xxh3 tensors // [layers with bundles]
  size_t tensor_hashes_ = 0, hash_of_hashes_ = 0;  // indices in writer_
  uint64_t content_hash_ = 0;
  bool began_ = false;
};

}  // namespace frugal
