#include "src/format/shard_index.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "src/format/json_file.h"
#include "src/format/untrusted_text.h"

namespace frugal {
namespace {

// N and M of "model-N-of-M.safetensors" or ".bin"; nothing when the name is no such name.
struct ShardNumber {
  uint64_t number = 0;
  uint64_t total = 0;
};

std::optional<uint64_t> ParseDigits(std::string_view text) {
  uint64_t value = 0;
  const auto [rest, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || failure != std::errc() || rest != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<ShardNumber> ParseShardNumber(std::string_view name) {
  constexpr std::string_view kOf = "-of-";
  const size_t dot = name.rfind('.');
  if (dot == std::string_view::npos) return std::nullopt;
  name = name.substr(0, dot);
  const size_t of = name.rfind(kOf);
  if (of == std::string_view::npos) return std::nullopt;
  const size_t dash = name.rfind('-', of == 0 ? 0 : of - 1);
  if (dash == std::string_view::npos || dash >= of) return std::nullopt;
  const auto number = ParseDigits(name.substr(dash + 1, of - dash - 1));
  const auto total = ParseDigits(name.substr(of + kOf.size()));
  if (!number || !total) return std::nullopt;
  return ShardNumber{*number, *total};
}

const char* WhyBadFileName(std::string_view name) {
  if (const char* reason = WhyBadName(name)) return reason;
  if (name.find('/') != std::string_view::npos || name == ".." || name == ".") return "leaves the directory";
  if (name.size() > 255) return "is longer than 255 bytes";
  return nullptr;
}

Status CheckFiles(const ShardIndex& index) {
  std::optional<uint64_t> total;
  for (const std::string& name : index.files) {
    if (const char* reason = WhyBadFileName(name)) {
      return BadModel(
          "{}: weight_map: the file name '{}' {}, expected the name of a file in the same directory",
          index.path, Printable(name), reason);
    }
    const std::optional<ShardNumber> shard = ParseShardNumber(name);
    if (!shard) continue;
    // Counting from 0 and from 1 are both in use.
    if (shard->total == 0 || shard->number > shard->total) {
      return BadModel("{}: weight_map: '{}' is shard {} of {}, expected a number up to {}", index.path,
                      Printable(name), shard->number, shard->total, shard->total);
    }
    if (total && *total != shard->total) {
      return BadModel(
          "{}: weight_map: '{}' is of a set of {} shards and another one of a set of {}: expected one set",
          index.path, Printable(name), shard->total, *total);
    }
    total = shard->total;
  }
  return {};
}

const std::string& TensorOf(const ShardIndex::Entry& entry) { return entry.tensor; }

}  // namespace

const ShardIndex::Entry* ShardIndex::Find(std::string_view tensor) const {
  const auto found =
      std::lower_bound(entries.begin(), entries.end(), tensor,
                       [](const Entry& entry, std::string_view wanted) { return entry.tensor < wanted; });
  return found == entries.end() || TensorOf(*found) != tensor ? nullptr : &*found;
}

Result<ShardIndex> ParseShardIndex(std::string_view text, const std::string& path) {
  FRUGAL_ASSIGN(const nlohmann::json root, ParseJson(text, path));
  const auto map = root.is_object() ? root.find("weight_map") : root.end();
  if (map == root.end() || !map->is_object()) return BadModel("{}: expected an object 'weight_map'", path);
  if (map->empty()) return BadModel("{}: weight_map: is empty, expected tensors", path);
  ShardIndex index;
  index.path = path;
  std::map<std::string, uint32_t> numbers;  // of the files
  for (const auto& item : map->items()) {
    if (const char* reason = WhyBadName(item.key())) {
      return BadModel("{}: weight_map: the tensor name '{}' {}", path, Printable(item.key()), reason);
    }
    if (!item.value().is_string()) {
      return BadModel("{}: weight_map: tensor '{}' has a {}, expected the name of a file", path,
                      Printable(item.key()), item.value().type_name());
    }
    numbers.emplace(item.value().get_ref<const std::string&>(), 0);
    if (numbers.size() > ShardIndex::kMaxFiles) {
      return BadModel("{}: weight_map: names more than {} files", path, ShardIndex::kMaxFiles);
    }
  }
  for (auto& [name, number] : numbers) {
    number = static_cast<uint32_t>(index.files.size());
    index.files.push_back(name);
  }
  FRUGAL_TRY(CheckFiles(index));
  for (const auto& item : map->items()) {  // sorted, since the library's objects are std::map
    index.entries.push_back({item.key(), numbers.at(item.value().get_ref<const std::string&>())});
  }
  return index;
}

Result<ShardIndex> ReadShardIndex(const std::string& path) {
  FRUGAL_ASSIGN(const std::string text, ReadTextFile(path, kMaxJsonFileBytes));
  return ParseShardIndex(text, path);
}

}  // namespace frugal
