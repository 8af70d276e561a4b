// A Hugging Face OPT checkpoint, opened for packing: its config, its tensors under the names without prefix,
// and reads that check every number. One thread. What is read leaves the page cache again.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "src/format/regular_file.h"
#include "src/format/safetensors.h"
#include "src/model/config.h"
#include "src/tensor/tensor_info.h"

namespace frugal {

class Checkpoint {
 public:
  // config.json and the headers of the safetensors files; errors as theirs.
  static Result<std::unique_ptr<Checkpoint>> Open(const std::string& directory);

  const std::string& directory() const { return directory_; }
  const ModelConfig& config() const { return config_; }

  // The tensor "model.decoder.NAME" (or "decoder.NAME"), of one of the float types. kBadModel when it is
  // missing or of another shape or type. RequireTop: "lm_head.weight" and the like, which have no prefix.
  Result<const TensorInfo*> Require(std::string_view name, std::span<const uint64_t> shape);
  Result<const TensorInfo*> RequireTop(std::string_view name, std::span<const uint64_t> shape);

  // A line for each tensor that nobody has required and that is not known to be superfluous.
  std::vector<std::string> UnusedTensors() const;

  // Elements of the tensor, in row-major order; `out` holds a whole number of them. kBadModel names file,
  // tensor, row, column and offset of the first NaN or infinity; kIo and kBadModel when they cannot be read.
  Status Read(const TensorInfo& tensor, uint64_t first_element, std::span<std::byte> out);
  // The tensor's pages may leave the page cache: it will not be read soon.
  void Forget(const TensorInfo& tensor);
  // kIo when a file has another size or modification time than at Open.
  Status CheckUnchanged() const;

  // Whether the path is one of the checkpoint's files, under whatever name.
  bool HasFile(const std::string& path) const;
  const std::string& PathOf(const TensorInfo& tensor) const { return files_[tensor.file_index].path; }
  // "FILE: TENSOR: row R, column C at offset O": the beginning of a message.
  std::string Place(const TensorInfo& tensor, uint64_t element) const;
  uint64_t bytes_read() const { return bytes_read_; }

 private:
  struct SourceFile {
    std::string path;
    RegularFile file;
    int64_t mtime_ns = 0;
  };

  Checkpoint() = default;
  Status OpenFiles();
  Result<const TensorInfo*> RequireFull(const std::string& name, std::span<const uint64_t> shape);

  std::string directory_;
  std::string prefix_;
  ModelConfig config_;
  std::unique_ptr<SafetensorsDirectory> tensors_;
  std::vector<SourceFile> files_;
  std::set<std::string, std::less<>> required_;
  uint64_t bytes_read_ = 0;
};

}  // namespace frugal
