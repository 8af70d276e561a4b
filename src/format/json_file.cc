#include "src/format/json_file.h"

#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "src/base/bytes.h"
#include "src/format/byte_source.h"
#include "src/format/json_stream.h"
#include "src/format/regular_file.h"
#include "src/format/untrusted_text.h"

namespace frugal {
namespace {

using nlohmann::json;

// Builds the tree. The library's own builder keeps the last of two equal keys silently and has no limits.
class TreeBuilder : public JsonHandler {
 public:
  explicit TreeBuilder(JsonStream& stream) : JsonHandler(stream) {}

  json TakeRoot() { return std::move(root_); }

  bool null() override { return Add(json()) != nullptr; }
  bool boolean(bool value) override { return Add(value) != nullptr; }
  bool number_integer(number_integer_t value) override { return Add(value) != nullptr; }
  bool number_unsigned(number_unsigned_t value) override { return Add(value) != nullptr; }
  bool number_float(number_float_t value, const string_t&) override { return Add(value) != nullptr; }
  bool string(string_t& value) override { return Add(std::move(value)) != nullptr; }
  bool binary(binary_t&) override { return Refuse("binary value"); }
  bool start_object(std::size_t) override { return Open(json::object()); }
  bool start_array(std::size_t) override { return Open(json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }

  bool key(string_t& name) override {
    const auto [place, added] = open_.back()->emplace(name, nullptr);
    if (!added) return Refuse(fmt::format("key '{}' is there twice in one object", Printable(name)));
    slot_ = &*place;
    return true;
  }

 private:
  // Where the value went; nullptr after a refusal.
  json* Add(json value) {
    if (++num_values_ > kMaxJsonValues) {
      Refuse(fmt::format("more than {} values", kMaxJsonValues));
      return nullptr;
    }
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    if (open_.back()->is_array()) {
      open_.back()->push_back(std::move(value));
      return &open_.back()->back();
    }
    *slot_ = std::move(value);
    return slot_;
  }

  bool Open(json container) {
    if (open_.size() == kMaxJsonDepth) return Refuse(fmt::format("nested deeper than {}", kMaxJsonDepth));
    json* place = Add(std::move(container));
    if (place == nullptr) return false;
    open_.push_back(place);  // stays where it is: its parent gets no further element until it is closed
    return true;
  }

  bool Close() {
    open_.pop_back();
    return true;
  }

  json root_;
  std::vector<json*> open_;  // from the root to the innermost open container
  json* slot_ = nullptr;     // of the key that was read last
  uint64_t num_values_ = 0;
};

}  // namespace

Result<json> ParseJson(std::string_view text, const std::string& name) {
  const std::span<const std::byte> bytes = std::as_bytes(std::span(text));
  if (const auto kind = FindForeignKind(bytes.first(std::min(bytes.size(), kForeignPrefixBytes)))) {
    return BadModel("{}: is {}, expected JSON", name, *kind);
  }
  const std::unique_ptr<ByteSource> source = MakeMemorySource(name, bytes);
  JsonStream stream(*source, {0, bytes.size()});
  TreeBuilder builder(stream);
  FRUGAL_TRY(builder.Walk());
  return builder.TakeRoot();
}

Result<json> ReadJsonFile(const std::string& path) {
  FRUGAL_ASSIGN(const std::string text, ReadTextFile(path, kMaxJsonFileBytes));
  return ParseJson(text, path);
}

Result<std::string> ReadTextFile(const std::string& path, uint64_t max_bytes) {
  FRUGAL_ASSIGN(const RegularFile file, OpenRegularFile(path));
  if (file.size_bytes > max_bytes) {
    return BadModel("{}: has {} bytes, expected at most {}", path, file.size_bytes, max_bytes);
  }
  std::string text(file.size_bytes, '\0');
  FRUGAL_TRY(ReadFully(file.fd.get(), path, 0, std::as_writable_bytes(std::span(text))));
  return text;
}

}  // namespace frugal
