#include "src/format/safetensors.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "src/base/bytes.h"
#include "src/format/safetensors_header.h"
#include "src/format/safetensors_index.h"
#include "src/format/untrusted_text.h"

namespace frugal {
namespace {

constexpr uint64_t kLengthFieldBytes = 8;

const std::string& NameOf(const TensorInfo& item) { return item.name; }

// The length of the JSON header, checked against cap and file.
Result<uint64_t> ReadHeaderLength(ByteSource& source) {
  std::array<std::byte, kForeignPrefixBytes> first = {};
  const uint64_t first_bytes = std::min<uint64_t>(first.size(), source.size_bytes());
  FRUGAL_TRY(source.Read(0, std::span(first).first(first_bytes)));
  if (first_bytes == 0) return BadModel("{}: is empty, expected a safetensors file", source.name());
  const bool has_brace = first_bytes > kLengthFieldBytes && first[kLengthFieldBytes] == std::byte{'{'};
  if (!has_brace) {
    if (const auto kind = FindForeignKind(std::span(first).first(first_bytes))) {
      return BadModel("{}: is {}, expected a safetensors file", source.name(), *kind);
    }
    if (first_bytes >= 4 && std::memcmp(first.data(), "GGUF", 4) == 0) {
      return BadModel("{}: is a GGUF file, expected a safetensors file", source.name());
    }
  }
  if (first_bytes < kLengthFieldBytes) {
    return BadModel("{}: file ends at offset {}, expected the 8 bytes of the header length at offset 0",
                    source.name(), first_bytes);
  }
  const uint64_t length = LoadUnaligned<uint64_t>(first.data());
  if (length > kMaxSafetensorsHeaderBytes) {
    return BadModel("{}: header length at offset 0: is {}, expected at most {}", source.name(), length,
                    kMaxSafetensorsHeaderBytes);
  }
  if (length > source.size_bytes() - kLengthFieldBytes) {
    return BadModel("{}: header length at offset 0: is {}, but the file ends after {} bytes", source.name(),
                    length, source.size_bytes());
  }
  if (length < 2 || !has_brace) {
    return BadModel("{}: offset {}: expected a JSON object as header, beginning with '{{'", source.name(),
                    kLengthFieldBytes);
  }
  return length;
}

// Puts the tensors in the order of their data and checks that they cover the data section exactly, as the
// format demands: a hole or trailing bytes may hide another file.
Status CheckCoverage(const ByteSource& source, uint64_t data_offset_bytes, std::vector<TensorInfo>& tensors) {
  std::stable_sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return a.extent.offset_bytes < b.extent.offset_bytes;
  });
  uint64_t expected = data_offset_bytes;
  for (const TensorInfo& tensor : tensors) {
    const std::string what = fmt::format("{}: tensor '{}'", source.name(), Printable(tensor.name));
    if (tensor.extent.offset_bytes != expected) {
      return BadModel("{}: its data at offset {} {} the tensor before it, expected offset {}", what,
                      tensor.extent.offset_bytes,
                      tensor.extent.offset_bytes < expected ? "overlap" : "leave a hole behind", expected);
    }
    expected = tensor.extent.end_bytes();
    if (expected > source.size_bytes()) {
      return BadModel("{}: its {} bytes at offset {} reach beyond the end of the file at {}", what,
                      tensor.extent.size_bytes, tensor.extent.offset_bytes, source.size_bytes());
    }
  }
  if (expected != source.size_bytes()) {
    return BadModel("{}: {} bytes follow the last tensor at offset {}, expected the end of the file",
                    source.name(), source.size_bytes() - expected, expected);
  }
  return {};
}

bool IsDirectory(const std::string& path) {
  struct stat status = {};
  return stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

bool Exists(const std::string& path) {
  struct stat status = {};
  return lstat(path.c_str(), &status) == 0;  // a dangling link exists too; opening it tells what is wrong
}

Result<std::vector<TensorInfo>> ReadHeaderOfFile(const std::string& path) {
  FRUGAL_ASSIGN(const std::unique_ptr<ByteSource> source, OpenFileSource(path));
  return ReadSafetensorsHeader(*source);
}

// The tensors of one shard must be exactly those that the index places there.
Status CheckShard(const std::string& path, uint32_t file_index, const std::vector<TensorInfo>& tensors,
                  const SafetensorsIndex& index) {
  uint64_t num_listed = 0;
  for (const SafetensorsIndex::Entry& entry : index.entries) {
    if (entry.file_index == file_index) ++num_listed;
  }
  for (const TensorInfo& tensor : tensors) {
    const SafetensorsIndex::Entry* entry = index.Find(tensor.name);
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
  for (const SafetensorsIndex::Entry& entry : index.entries) {
    if (entry.file_index == file_index && FindByName(tensors, order, entry.tensor, NameOf) == nullptr) {
      return BadModel("{}: tensor '{}' is absent, but {} places it here", path, Printable(entry.tensor),
                      index.path);
    }
  }
  return {};
}

}  // namespace

Result<std::vector<TensorInfo>> ReadSafetensorsHeader(ByteSource& source) {
  FRUGAL_ASSIGN(const uint64_t length, ReadHeaderLength(source));
  FRUGAL_ASSIGN(std::vector<TensorInfo> tensors, ParseSafetensorsHeader(source, {kLengthFieldBytes, length}));
  const std::vector<uint32_t> order = OrderByName(tensors, NameOf);
  if (const TensorInfo* again = FindDuplicate(tensors, order, NameOf)) {
    return BadModel("{}: tensor '{}': is there twice, the second time at offset {}; expected unique names",
                    source.name(), Printable(again->name), again->extent.offset_bytes);
  }
  FRUGAL_TRY(CheckCoverage(source, kLengthFieldBytes + length, tensors));
  return tensors;
}

Result<std::unique_ptr<SafetensorsDirectory>> SafetensorsDirectory::OpenFile(const std::string& path) {
  auto made = std::unique_ptr<SafetensorsDirectory>(new SafetensorsDirectory());
  FRUGAL_ASSIGN(made->tensors_, ReadHeaderOfFile(path));
  made->file_paths_.push_back(path);
  made->order_ = OrderByName(made->tensors_, NameOf);
  return made;
}

Result<std::unique_ptr<SafetensorsDirectory>> SafetensorsDirectory::Open(const std::string& directory) {
  const std::string single_path = directory + "/model.safetensors";
  const std::string index_path = directory + "/model.safetensors.index.json";
  if (!Exists(directory))
    return MakeError(ErrorCode::kIo, "{}: cannot be opened: {}", directory, std::strerror(ENOENT));
  if (!IsDirectory(directory)) {
    return BadModel("{}: expected a directory that holds model.safetensors or model.safetensors.index.json",
                    directory);
  }
  // transformers takes the single file first too, so that both programs run the same weights.
  if (Exists(single_path)) return OpenFile(single_path);
  if (!Exists(index_path)) {
    return BadModel("{}: holds neither model.safetensors nor model.safetensors.index.json", directory);
  }
  FRUGAL_ASSIGN(const SafetensorsIndex index, ReadSafetensorsIndex(index_path));
  auto made = std::unique_ptr<SafetensorsDirectory>(new SafetensorsDirectory());
  for (uint32_t i = 0; i < index.files.size(); ++i) {
    const std::string path = directory + "/" + index.files[i];
    FRUGAL_ASSIGN(std::vector<TensorInfo> shard, ReadHeaderOfFile(path));
    FRUGAL_TRY(CheckShard(path, i, shard, index));
    for (TensorInfo& tensor : shard) {
      tensor.file_index = i;
      made->tensors_.push_back(std::move(tensor));
    }
    made->file_paths_.push_back(path);
  }
  made->order_ = OrderByName(made->tensors_, NameOf);
  return made;
}

const TensorInfo* SafetensorsDirectory::Find(std::string_view name) const {
  return FindByName(tensors_, order_, name, NameOf);
}

}  // namespace frugal
