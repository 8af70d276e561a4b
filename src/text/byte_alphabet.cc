#include "src/text/byte_alphabet.h"

#include <array>

#include "src/text/utf8.h"

namespace frugal {
namespace {

constexpr char32_t kFirstShifted = 0x100;

constexpr bool StandsForItself(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct Alphabet {
  std::array<char32_t, 256> spelling{};
  std::array<uint8_t, 256> shifted{};  // the byte spelled as U+0100 + i
  unsigned num_shifted = 0;
};

constexpr Alphabet MakeAlphabet() {
  Alphabet alphabet;
  for (unsigned byte = 0; byte < 256; ++byte) {
    if (StandsForItself(byte)) {
      alphabet.spelling[byte] = byte;
    } else {
      alphabet.shifted[alphabet.num_shifted] = static_cast<uint8_t>(byte);
      alphabet.spelling[byte] = kFirstShifted + alphabet.num_shifted++;
    }
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = MakeAlphabet();

}  // namespace

bool TryDecodeByteLevel(std::string_view spelled, std::string& bytes) {
  const size_t old_size = bytes.size();
  while (!spelled.empty()) {
    const Utf8Step step = NextUtf8(spelled);
    const char32_t c = step.code_point;
    if (c < 256 && StandsForItself(c)) {
      bytes.push_back(static_cast<char>(c));
    } else if (c >= kFirstShifted && c - kFirstShifted < kAlphabet.num_shifted) {
      bytes.push_back(static_cast<char>(kAlphabet.shifted[c - kFirstShifted]));
    } else {
      bytes.resize(old_size);
      return false;
    }
    spelled.remove_prefix(step.size_bytes);
  }
  return true;
}

std::optional<uint8_t> ParseByteToken(std::string_view spelled) {
  if (spelled.size() != 6 || !spelled.starts_with("<0x") || spelled[5] != '>') return std::nullopt;
  unsigned value = 0;
  for (const char c : spelled.substr(3, 2)) {
    if (c >= '0' && c <= '9') {
      value = value * 16 + static_cast<unsigned>(c - '0');
    } else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f') {
      value = value * 16 + static_cast<unsigned>((c | 0x20) - 'a') + 10;
    } else {
      return std::nullopt;
    }
  }
  return static_cast<uint8_t>(value);
}

std::string SpellByteLevel(std::string_view bytes) {
  std::string spelled;
  for (const char byte : bytes) AppendUtf8(kAlphabet.spelling[static_cast<unsigned char>(byte)], spelled);
  return spelled;
}

}  // namespace frugal
