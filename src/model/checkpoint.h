// A model as people publish it, to be packed or run in place: a Hugging Face checkpoint (safetensors or PyTorch) or a GGUF file that is not
// packed. Its config, its tensors, and reads that check every number. One thread. What is read leaves the page cache again.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "src/format/gguf_reader.h"
#include "src/format/regular_file.h"
#include "src/format/tensor_source.h"
#include "src/model/config.h"
#include "src/model/source_names.h"
#include "src/tensor/tensor_info.h"

namespace frugal {

class Checkpoint {
 public:
  // A directory (hugging_face.h says which), one file of weights with a config.json beside it, or a GGUF file. `activation` replaces what
  // the source says of itself. Errors as those of config.json, of the readers of the tensors, and of ResolveCheckpointDirectory.
  static Result<std::unique_ptr<Checkpoint>> Open(const std::string& path, std::optional<Activation> activation);

  // For messages: the directory of config.json, or the GGUF file.
  const std::string& path() const { return path_; }
  // What people call the model.
  const std::string& model_name() const { return model_name_; }
  const GgufReader* gguf() const { return gguf_; }  // nullptr for directories
  const ModelConfig& config() const { return config_; }
  const SourceNames& names() const { return names_; }
  // What config.json says of the biases of attention and FFN; absent where it says nothing.
  std::optional<bool> attention_has_biases() const { return attention_has_biases_; }
  std::optional<bool> ffn_has_biases() const { return ffn_has_biases_; }

  bool Has(const std::string& name) const { return tensors_->Find(name) != nullptr; }
  // The tensor of that name, of a float type, or of quantised blocks where it is a matrix. kBadModel when it is missing or
  // of another shape or type.
  Result<const TensorInfo*> Require(const std::string& name, std::span<const uint64_t> shape);

  // Each tensor that nobody has required and that is not known to be superfluous.
  std::vector<const TensorInfo*> UnusedTensors() const;

  // Elements of the tensor, in row-major order; `out` holds a whole number of them, or of quantised blocks. kBadModel names
  // file, tensor, row, column and offset of the first NaN or infinity; kIo and kBadModel when they cannot be read.
  Status Read(const TensorInfo& tensor, uint64_t first_element, std::span<std::byte> out);
  // The tensor's pages may leave the page cache: it will not be read soon.
  void Forget(const TensorInfo& tensor);
  // kIo when a file has another size or modification time than at Open.
  Status CheckUnchanged() const;

  // Whether the path is one of the checkpoint's files, under whatever name.
  bool HasFile(const std::string& path) const;
  const std::vector<std::string>& file_paths() const { return tensors_->file_paths(); }
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
  Status OpenDirectory(const std::string& path, std::optional<Activation> activation);
  Status OpenGguf(const std::string& path, std::optional<Activation> activation);
  Status OpenFiles();

  std::string path_, model_name_;
  ModelConfig config_;
  SourceNames names_;
  std::optional<bool> attention_has_biases_, ffn_has_biases_;
  uint32_t num_extra_layers_ = 0;
  std::unique_ptr<TensorSource> tensors_;
  const GgufReader* gguf_ = nullptr;  // of tensors_
  std::vector<SourceFile> files_;
  std::set<std::string, std::less<>> required_;
  uint64_t bytes_read_ = 0;
};

}  // namespace frugal
