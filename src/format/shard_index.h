// model.safetensors.index.json, pytorch_model.bin.index.json: which tensor lies in which shard.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"

namespace frugal {

struct ShardIndex {
  static constexpr size_t kMaxFiles = 4096;

  struct Entry {
    std::string tensor;
    uint32_t file_index = 0;
  };

  std::string path;                // of the index itself, for messages
  std::vector<std::string> files;  // sorted; names without a folder
  std::vector<Entry> entries;      // sorted by tensor, unique

  const Entry* Find(std::string_view tensor) const;  // nullptr when absent
};

// kBadModel when the JSON has no usable weight_map: names of files that would leave the directory, shards of
// sets of different sizes ("-of-00003" beside "-of-00004"), a shard's number above its set's.
Result<ShardIndex> ParseShardIndex(std::string_view text, const std::string& path);
Result<ShardIndex> ReadShardIndex(const std::string& path);

}  // namespace frugal
