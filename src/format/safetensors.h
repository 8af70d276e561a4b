// safetensors: 8 bytes header length, JSON header, data. https://github.com/huggingface/safetensors (README,
// "Format").
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "src/base/result.h"
#include "src/format/byte_source.h"
#include "src/format/shard_set.h"

namespace frugal {

constexpr uint64_t kMaxSafetensorsHeaderBytes = 100'000'000;  // the format's own cap

// Tensor infos of one file in the order of their data, file_index 0. Everything is validated: header length
// against cap and file, JSON (duplicate keys, depth), dtype, shape x dtype = size, offsets inside, not
// overlapping, no holes, unique names. kBadModel names file, tensor and what was expected; Git LFS pointers,
// HTML pages, zip and pickle files are named as such. Integer tensors (I64, I32, U8, BOOL ...) that are no
// weights are accepted where DType knows them; a dtype that DType does not know is an error that names the
// tensor (kBadModel).
Result<std::vector<TensorInfo>> ReadSafetensorsHeader(ByteSource& source);

constexpr const char* kSafetensorsFileName = "model.safetensors";

// A Hugging Face directory: model.safetensors, or model.safetensors.index.json and its shards.
class SafetensorsDirectory : public StoredTensors {
 public:
  // Errors as ReadShards.
  static Result<std::unique_ptr<SafetensorsDirectory>> Open(const std::string& directory);
  // One file by itself.
  static Result<std::unique_ptr<SafetensorsDirectory>> OpenFile(const std::string& path);

 private:
  using StoredTensors::StoredTensors;
};

}  // namespace frugal
