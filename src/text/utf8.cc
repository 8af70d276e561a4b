#include "src/text/utf8.h"

#include <fmt/format.h>

namespace frugal {
namespace {

constexpr char32_t kReplacement = 0xFFFD;

// What a leading byte announces, and the bounds of the second byte, which exclude overlong forms, surrogates
// and code points above U+10FFFF (Unicode, table 3-7).
struct Lead {
  size_t size_bytes;  // 0: no character begins so
  unsigned second_min;
  unsigned second_max;
};

Lead LeadOf(unsigned byte) {
  if (byte >= 0xC2 && byte <= 0xDF) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte >= 0xE1 && byte <= 0xEF) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte >= 0xF1 && byte <= 0xF3) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

unsigned ByteAt(std::string_view text, size_t i) { return static_cast<unsigned char>(text[i]); }

}  // namespace

Utf8Step NextUtf8(std::string_view text) {
  const unsigned first = ByteAt(text, 0);
  if (first < 0x80) return {Utf8State::kWhole, 1, first};
  const Lead lead = LeadOf(first);
  if (lead.size_bytes == 0) return {Utf8State::kInvalid, 1, kReplacement};
  char32_t code_point = first & (0x7Fu >> lead.size_bytes);
  for (size_t i = 1; i < lead.size_bytes; ++i) {
    if (i == text.size()) return {Utf8State::kIncomplete, i, kReplacement};
    const unsigned byte = ByteAt(text, i);
    const unsigned min = i == 1 ? lead.second_min : 0x80;
    const unsigned max = i == 1 ? lead.second_max : 0xBF;
    if (byte < min || byte > max) return {Utf8State::kInvalid, i, kReplacement};
    code_point = code_point << 6 | (byte & 0x3F);
  }
  return {Utf8State::kWhole, lead.size_bytes, code_point};
}

std::optional<size_t> FindInvalidUtf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const Utf8Step step = NextUtf8(text.substr(i));
    if (step.state != Utf8State::kWhole) return i;
    i += step.size_bytes;
  }
  return std::nullopt;
}

void AppendUtf8(char32_t code_point, std::string& to) {
  const auto put = [&to](char32_t byte) { to.push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | code_point >> 6);
    put(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    put(0xE0 | code_point >> 12);
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  } else {
    put(0xF0 | code_point >> 18);
    put(0x80 | (code_point >> 12 & 0x3F));
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  }
}

bool IsWhiteSpace(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

std::string Quoted(std::string_view text) {
  constexpr size_t kMaxBytes = 48;
  std::string out = "\"";
  for (const char c : text.substr(0, kMaxBytes)) {
    if (c < 0x20 || c > 0x7E) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    } else {
      if (c == '"' || c == '\\') out.push_back('\\');
      out.push_back(c);
    }
  }
  return out + (text.size() > kMaxBytes ? "...\"" : "\"");
}

}  // namespace frugal
