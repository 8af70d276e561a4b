// safetensors: 8 bytes header length, JSON header, data. https://github.com/huggingface/safetensors (README,
// "Format").
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "src/format/byte_source.h"
#include "src/format/tensor_source.h"

namespace frugal {

constexpr uint64_t kMaxSafetensorsHeaderBytes = 100'000'000;  // the format's own cap

// Tensor infos of one file in the order of their data, file_index 0. Everything is validated: header length
// against cap and file, JSON (duplicate keys, depth), dtype, shape x dtype = size, offsets inside, not
// overlapping, no holes, unique names. kBadModel names file, tensor and what was expected; Git LFS pointers,
// HTML pages, zip and pickle files are named as such. Integer tensors (I64, I32, U8, BOOL ...) that are no
// weights are accepted where DType knows them; a dtype that DType does not know is an error that names the
// tensor (kBadModel).
Result<std::vector<TensorInfo>> ReadSafetensorsHeader(ByteSource& source);

// A Hugging Face directory: model.safetensors, or model.safetensors.index.json and its shards.
class SafetensorsDirectory : public TensorSource {
 public:
  // Shards are checked against the index: missing file, tensor absent from its shard, tensor in two shards,
  // names that leave the directory ("../"): kBadModel.
  static Result<std::unique_ptr<SafetensorsDirectory>> Open(const std::string& directory);
  // One file by itself.
  static Result<std::unique_ptr<SafetensorsDirectory>> OpenFile(const std::string& path);

  const std::vector<std::string>& file_paths() const override { return file_paths_; }
  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  const TensorInfo* Find(std::string_view name) const override;

 private:
  std::vector<std::string> file_paths_;
  std::vector<TensorInfo> tensors_;
  std::vector<uint32_t> order_;  // indices of tensors_ by name // [num_tensors]
};

}  // namespace frugal
