// JSON read through nlohmann-json's event interface straight from a ByteSource: a header of 100 MB is never
// in memory as a whole, and every refusal knows its offset. The limits that the library does not have are
// here.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "src/base/result.h"
#include "src/format/byte_source.h"
#include "src/tensor/tensor_info.h"

namespace frugal {

// The characters of one extent of a source, in order, once.
class JsonStream {
 public:
  // The library gathers every token (and run of blanks) in memory, so that its length needs a limit.
  static constexpr uint64_t kMaxTokenBytes = 8 << 20;

  JsonStream(ByteSource& source, Extent extent)
      : source_(source), next_bytes_(extent.offset_bytes), end_bytes_(extent.end_bytes()) {
    Refill();
  }

  bool at_end() const { return position_ == filled_; }
  char current() const { return static_cast<char>(buffer_[position_]); }
  void Advance();
  // Of the character that was taken last, in the source: where a refusal points to.
  uint64_t offset_bytes() const;
  // Why the characters ended early, if they did.
  const std::optional<Error>& error() const { return error_; }
  const std::string& name() const { return source_.name(); }

 private:
  void Refill();
  void Check(char c);

  ByteSource& source_;
  uint64_t next_bytes_;  // in the source, of the byte behind the buffer
  uint64_t end_bytes_;
  std::array<std::byte, 4096> buffer_;
  size_t position_ = 0;
  size_t filled_ = 0;
  uint64_t token_bytes_ = 0;
  bool in_string_ = false;
  bool escaped_ = false;
  std::optional<Error> error_;
};

// What the library walks. All copies share the stream.
class JsonStreamIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = char;

  JsonStreamIterator() = default;  // the end
  explicit JsonStreamIterator(JsonStream& stream) : stream_(&stream) {}
  char operator*() const { return stream_->current(); }
  JsonStreamIterator& operator++() {
    stream_->Advance();
    return *this;
  }
  JsonStreamIterator operator++(int) {
    JsonStreamIterator before = *this;
    stream_->Advance();
    return before;
  }
  // Only ever asked about the end.
  bool operator==(const JsonStreamIterator&) const { return stream_ == nullptr || stream_->at_end(); }

 private:
  JsonStream* stream_ = nullptr;
};

// Base of the handlers: keeps the first refusal. A handler's events return Refuse(...) or true.
class JsonHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit JsonHandler(JsonStream& stream) : stream_(stream) {}
  bool parse_error(std::size_t position, const std::string& last_token,
                   const nlohmann::detail::exception& failure) override;

  // Walks the stream; the refusal of this handler, of the JSON grammar, or of the source. Call once.
  Status Walk();

 protected:
  // BadModel "FILE: offset N: REASON"; false, so that it can be returned.
  bool Refuse(const std::string& reason);

 private:
  JsonStream& stream_;
  std::optional<Error> error_;
};

}  // namespace frugal
