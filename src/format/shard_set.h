// The tensors of one file, or of the shards that an index lists, as one TensorSource: what safetensors and PyTorch
// checkpoints share.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/base/result.h"
#include "src/format/tensor_source.h"

namespace frugal {

struct ShardSet {
  std::vector<std::string> file_paths;
  std::vector<TensorInfo> tensors;
};

// The tensors of one file, under unique names, file_index 0.
using ReadShardHeader = Result<std::vector<TensorInfo>> (*)(const std::string& path);

Result<ShardSet> ReadOneFile(const std::string& path, ReadShardHeader read_header);

// DIRECTORY/FILE_NAME, or DIRECTORY/FILE_NAME.index.json and its shards, which are checked against the index: missing
// file, tensor absent from its shard, tensor in two shards, names that leave the directory ("../"): kBadModel.
Result<ShardSet> ReadShards(const std::string& directory, const std::string& file_name, ReadShardHeader read_header);
// Whether ReadShards would find the file or its index.
bool HasShards(const std::string& directory, const std::string& file_name);

class StoredTensors : public TensorSource {
 public:
  const std::vector<std::string>& file_paths() const override { return set_.file_paths; }
  const std::vector<TensorInfo>& tensors() const override { return set_.tensors; }
  const TensorInfo* Find(std::string_view name) const override;

 protected:
  explicit StoredTensors(ShardSet set);

 private:
  ShardSet set_;
  std::vector<uint32_t> order_;  // indices of the tensors by name // [num_tensors]
};

}  // namespace frugal
