#include "src/format/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "src/base/bytes.h"
#include "src/format/safetensors_header.h"
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

Result<std::vector<TensorInfo>> ReadHeaderOfFile(const std::string& path) {
  FRUGAL_ASSIGN(const std::unique_ptr<ByteSource> source, OpenFileSource(path));
  return ReadSafetensorsHeader(*source);
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
  FRUGAL_ASSIGN(ShardSet set, ReadOneFile(path, ReadHeaderOfFile));
  return std::unique_ptr<SafetensorsDirectory>(new SafetensorsDirectory(std::move(set)));
}

Result<std::unique_ptr<SafetensorsDirectory>> SafetensorsDirectory::Open(const std::string& directory) {
  FRUGAL_ASSIGN(ShardSet set, ReadShards(directory, kSafetensorsFileName, ReadHeaderOfFile));
  return std::unique_ptr<SafetensorsDirectory>(new SafetensorsDirectory(std::move(set)));
}

}  // namespace frugal
