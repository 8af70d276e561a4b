#include "src/format/shard_set.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "src/format/shard_index.h"
#include "src/format/untrusted_text.h"

namespace frugal {
namespace {

const std::string& NameOf(const TensorInfo& item) { return item.name; }

bool IsDirectory(const std::string& path) {
  struct stat status = {};
  return stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

bool Exists(const std::string& path) {
  struct stat status = {};
  return lstat(path.c_str(), &status) == 0;  // a dangling link exists too; opening it tells what is wrong
}

std::string IndexName(const std::string& file_name) { return file_name + ".index.json"; }

// A download that is not whole: the shard is not there, or is a link to nothing.
Status CheckIsThere(const std::string& path, uint32_t file_index, const ShardIndex& index) {
  struct stat status = {};
  if (stat(path.c_str(), &status) == 0 || errno != ENOENT) return {};  // opening it tells what else is wrong
  const auto entry = std::find_if(index.entries.begin(), index.entries.end(),
                                  [&](const ShardIndex::Entry& candidate) { return candidate.file_index == file_index; });
  return BadModel("{}: is missing; {} places tensor '{}' there", path, index.path, Printable(entry->tensor));
}

// The tensors of one shard must be exactly those that the index places there.
Status CheckShard(const std::string& path, uint32_t file_index, const std::vector<TensorInfo>& tensors,
                  const ShardIndex& index) {
  uint64_t num_listed = 0;
  for (const ShardIndex::Entry& entry : index.entries) {
    if (entry.file_index == file_index) ++num_listed;
  }
  for (const TensorInfo& tensor : tensors) {
    const ShardIndex::Entry* entry = index.Find(tensor.name);
    if (entry == nullptr) {
      return BadModel(
          "{}: tensor '{}' is not in the weight_map of {}: the shard belongs to another model or version",
          path, Printable(tensor.name), index.path);
    }
    if (entry->file_index != file_index) {
      return BadModel("{}: tensor '{}' is here, but {} places it in '{}'", path, Printable(tensor.name),
                      index.path, index.files[entry->file_index]);
    }
  }
  if (num_listed == tensors.size()) return {};
  // Names are unique on both sides, so that one of the listed is missing.
  const std::vector<uint32_t> order = OrderByName(tensors, NameOf);
  for (const ShardIndex::Entry& entry : index.entries) {
    if (entry.file_index == file_index && FindByName(tensors, order, entry.tensor, NameOf) == nullptr) {
      return BadModel("{}: tensor '{}' is absent, but {} places it here", path, Printable(entry.tensor),
                      index.path);
    }
  }
  return {};
}

}  // namespace

Result<ShardSet> ReadOneFile(const std::string& path, ReadShardHeader read_header) {
  ShardSet set;
  FRUGAL_ASSIGN(set.tensors, read_header(path));
  set.file_paths.push_back(path);
  return set;
}

bool HasShards(const std::string& directory, const std::string& file_name) {
  return Exists(directory + "/" + file_name) || Exists(directory + "/" + IndexName(file_name));
}

Result<ShardSet> ReadShards(const std::string& directory, const std::string& file_name, ReadShardHeader read_header) {
  const std::string single_path = directory + "/" + file_name;
  const std::string index_path = directory + "/" + IndexName(file_name);
  if (!Exists(directory)) {
    return MakeError(ErrorCode::kIo, "{}: cannot be opened: {}", directory, std::strerror(ENOENT));
  }
  if (!IsDirectory(directory)) {
    return BadModel("{}: expected a directory that holds {} or {}", directory, file_name, IndexName(file_name));
  }
  // transformers takes the single file first too, so that both programs run the same weights.
  if (Exists(single_path)) return ReadOneFile(single_path, read_header);
  if (!Exists(index_path)) return BadModel("{}: holds neither {} nor {}", directory, file_name, IndexName(file_name));
  FRUGAL_ASSIGN(const ShardIndex index, ReadShardIndex(index_path));
  ShardSet set;
  for (uint32_t i = 0; i < index.files.size(); ++i) {
    const std::string path = directory + "/" + index.files[i];
    FRUGAL_TRY(CheckIsThere(path, i, index));
    FRUGAL_ASSIGN(std::vector<TensorInfo> shard, read_header(path));
    FRUGAL_TRY(CheckShard(path, i, shard, index));
    for (TensorInfo& tensor : shard) {
      tensor.file_index = i;
      set.tensors.push_back(std::move(tensor));
    }
    set.file_paths.push_back(path);
  }
  return set;
}

StoredTensors::StoredTensors(ShardSet set) : set_(std::move(set)), order_(OrderByName(set_.tensors, NameOf)) {}

const TensorInfo* StoredTensors::Find(std::string_view name) const {
  return FindByName(set_.tensors, order_, name, NameOf);
}

}  // namespace frugal
