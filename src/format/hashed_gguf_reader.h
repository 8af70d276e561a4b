// Reads the tensors of a file that HashedGgufWriter wrote, every byte checked against its hash before it is
// handed out. For programs that copy such files; the engine has its own way (model/weights.h). Holds 8 bytes
// for each hash. One thread. What is read leaves the page cache again.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "src/base/result.h"
#include "src/format/gguf_reader.h"
#include "src/format/packed_format.h"
#include "src/format/regular_file.h"

namespace frugal {

class HashedGgufReader {
 public:
  // Reads the hashes and checks them and the header by frugal.hash_of_hashes. kBadModel names the tensor that
  // is missing, of a wrong shape or damaged.
  static Result<std::unique_ptr<HashedGgufReader>> Open(const std::string& path);

  const std::string& path() const { return path_; }
  const GgufReader& gguf() const { return gguf_; }
  // XXH3 of frugal.hash_of_hashes.
  uint64_t content_hash() const { return content_hash_; }
  uint64_t num_hashes() const { return num_hashes_; }
  uint64_t bytes_read() const { return bytes_read_; }

  // Tensors that hold data: all but the hashes, in the order of the file.
  struct Tensor {
    const TensorInfo* info = nullptr;
    uint64_t unit_bytes = 0;  // that one hash covers: a bundle, or a chunk
    bool is_bundle = false;
    std::vector<uint64_t> hashes;  // [ceil(size / unit_bytes)]
  };
  const std::vector<Tensor>& tensors() const { return tensors_; }
  // nullptr when there is none.
  const Tensor* Find(std::string_view name) const;

  // Whole units from the one at `offset_bytes` of the tensor on; the last may be shorter. kBadModel names the
  // tensor and the offset in the file of a unit that is not what was written.
  Status Read(const Tensor& tensor, uint64_t offset_bytes, std::span<std::byte> out);
  // All of it.
  Result<std::vector<std::byte>> ReadAll(const Tensor& tensor);

 private:
  explicit HashedGgufReader(GgufReader gguf) : gguf_(std::move(gguf)) {}
  Status Load();
  Status ListTensors();
  Result<std::vector<uint64_t>> ReadTable(const std::string& name, uint64_t count);
  Result<uint64_t> HashHeader();

  std::string path_;
  GgufReader gguf_;
  RegularFile file_;
  std::vector<Tensor> tensors_;
  uint64_t content_hash_ = 0;
  uint64_t num_hashes_ = 0;
  uint64_t bytes_read_ = 0;
};

}  // namespace frugal
