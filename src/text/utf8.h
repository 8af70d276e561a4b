// UTF-8, byte by byte: what is whole, what is broken, what is not finished yet. Any thread may call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace frugal {

enum class Utf8State {
  kWhole,       // one character
  kInvalid,     // bytes that no character begins with: one U+FFFD stands for them
  kIncomplete,  // the text ends inside a character
};

struct Utf8Step {
  Utf8State state;
  size_t size_bytes;  // of the character, or of the broken bytes (the maximal subpart of Unicode, table 3-8);
                      // 1 to 4
  char32_t code_point;  // of a whole character, else U+FFFD
};

// The first character of `text`, which is not empty.
Utf8Step NextUtf8(std::string_view text);

// Offset of the first byte that does not belong to a whole character; nothing when all do.
std::optional<size_t> FindInvalidUtf8(std::string_view text);

void AppendUtf8(char32_t code_point, std::string& to);

// The Unicode property White_Space (PropList.txt), which is what `\s` of Rust's and Oniguruma's expressions
// means.
bool IsWhiteSpace(char32_t code_point);

// "text" in quotes for messages: bytes that are not printable ASCII as \xNN, cut after 48 bytes.
std::string Quoted(std::string_view text);

}  // namespace frugal
