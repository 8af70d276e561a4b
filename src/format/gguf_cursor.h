// Reads on through the header of a GGUF file, remembering the offset for messages. Part of GgufReader.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "src/base/bytes.h"
#include "src/base/result.h"
#include "src/format/byte_source.h"

namespace frugal {

class GgufCursor {
 public:
  GgufCursor(ByteSource& source, uint64_t offset_bytes) : source_(source), offset_bytes_(offset_bytes) {}

  template <typename T>
  Result<T> Load(std::string_view what) {
    std::array<std::byte, sizeof(T)> bytes;
    FRUGAL_TRY(Expect(sizeof(T), what));
    FRUGAL_TRY(source_.Read(offset_bytes_, bytes));
    offset_bytes_ += sizeof(T);
    return LoadUnaligned<T>(bytes.data());
  }

  // The length in front of a string, checked against the limit and the file.
  Result<uint64_t> LoadStringLength(uint64_t max_bytes, std::string_view what) {
    const uint64_t at = offset_bytes_;
    FRUGAL_ASSIGN(const uint64_t length, Load<uint64_t>(what));
    if (length > max_bytes) {
      return BadModel("{}: {} at offset {}: a string of {} bytes, expected at most {}", source_.name(), what,
                      at, length, max_bytes);
    }
    FRUGAL_TRY(Expect(length, what));
    return length;
  }

  Status LoadString(uint64_t max_bytes, std::string_view what, std::string& text) {
    FRUGAL_ASSIGN(const uint64_t length, LoadStringLength(max_bytes, what));
    text.resize(length);
    FRUGAL_TRY(source_.Read(offset_bytes_, std::as_writable_bytes(std::span(text))));
    offset_bytes_ += length;
    return {};
  }

  Status Skip(uint64_t size_bytes, std::string_view what) {
    FRUGAL_TRY(Expect(size_bytes, what));
    offset_bytes_ += size_bytes;
    return {};
  }

  uint64_t left_bytes() const { return source_.size_bytes() - offset_bytes_; }
  uint64_t offset_bytes() const { return offset_bytes_; }
  const std::string& name() const { return source_.name(); }

 private:
  Status Expect(uint64_t size_bytes, std::string_view what) const {
    if (size_bytes <= left_bytes()) return {};
    return BadModel("{}: {} at offset {}: expected {} bytes, the file ends after {}", name(), what,
                    offset_bytes_, size_bytes, left_bytes());
  }

  ByteSource& source_;
  uint64_t offset_bytes_;
};

}  // namespace frugal
