#include "src/format/untrusted_text.h"

#include <fmt/format.h>

#include <cctype>

namespace frugal {
namespace {

// Bytes of the UTF-8 sequence at the start of `text` (not empty); 0 when it is none.
size_t Utf8SequenceBytes(std::string_view text) {
  const auto at = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = at(0);
  if (lead < 0x80) return 1;
  size_t length = 0;
  if (lead >= 0xc2 && lead <= 0xdf) length = 2;
  if (lead >= 0xe0 && lead <= 0xef) length = 3;
  if (lead >= 0xf0 && lead <= 0xf4) length = 4;
  if (length == 0 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((at(i) & 0xc0) != 0x80) return 0;
  }
  if (lead == 0xe0 && at(1) < 0xa0) return 0;  // overlong
  if (lead == 0xed && at(1) > 0x9f) return 0;  // surrogates
  if (lead == 0xf0 && at(1) < 0x90) return 0;  // overlong
  if (lead == 0xf4 && at(1) > 0x8f) return 0;  // above U+10FFFF
  return length;
}

bool IsControl(unsigned char c) { return c < 0x20 || c == 0x7f; }

bool LooksLikeHtml(std::string_view text) {
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front()))) text.remove_prefix(1);
  std::string lower;
  for (const char c : text.substr(0, 16)) {
    lower += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  return lower.starts_with("<!doctype") || lower.starts_with("<html") || lower.starts_with("<head") ||
         lower.starts_with("<?xml");
}

}  // namespace

bool IsValidUtf8(std::string_view text) {
  while (!text.empty()) {
    const size_t length = Utf8SequenceBytes(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

std::string Printable(std::string_view text, size_t max_bytes) {
  std::string out;
  while (!text.empty()) {
    if (out.size() >= max_bytes) return out + "...";
    const size_t length = Utf8SequenceBytes(text);
    const auto first = static_cast<unsigned char>(text[0]);
    if (length == 0 || IsControl(first)) {
      out += fmt::format("\\x{:02x}", first);
      text.remove_prefix(1);
    } else {
      out += text.substr(0, length);
      text.remove_prefix(length);
    }
  }
  return out;
}

const char* WhyBadName(std::string_view name) {
  if (name.empty()) return "is empty";
  if (!IsValidUtf8(name)) return "is not valid UTF-8";
  if (name.find('\0') != std::string_view::npos) return "holds a NUL";
  for (const char c : name) {
    if (IsControl(static_cast<unsigned char>(c))) return "holds a control character";
  }
  return nullptr;
}

std::optional<std::string_view> FindForeignKind(std::span<const std::byte> first_bytes) {
  const std::string_view text(reinterpret_cast<const char*>(first_bytes.data()), first_bytes.size());
  if (text.starts_with("version https://git-lfs")) {
    return "a Git LFS pointer, not the file itself ('git lfs pull' fetches it)";
  }
  if (LooksLikeHtml(text)) return "an HTML or XML page, as a failed download leaves it";
  if (text.starts_with("PK\x03\x04")) return "a ZIP archive (as PyTorch checkpoints are)";
  if (text.starts_with("\x1f\x8b")) return "a gzip file";
  if (text.starts_with("\x89HDF")) return "an HDF5 file";
  for (const std::string_view magic : {"ggml", "ggmf", "ggjt", "lmgg", "fmgg", "tjgg"}) {
    if (text.starts_with(magic)) return "a model file of a format older than GGUF";
  }
  // Protocols 2 to 5 open with 0x80 and their number; the byte behind is an opcode and never 0, which it is
  // in the length field of a small safetensors file.
  if (text.size() > 2 && text[0] == '\x80' && text[1] >= 2 && text[1] <= 5 && text[2] != 0) {
    return "a Python pickle (as old PyTorch checkpoints are)";
  }
  return std::nullopt;
}

}  // namespace frugal
