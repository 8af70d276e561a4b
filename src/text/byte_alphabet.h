// The alphabet of byte-level BPE (GPT-2, Radford et al. 2019): each of the 256 bytes is spelled as one
// printable character, so that a vocabulary is plain text. Bytes that are printable in Latin-1 stand for
// themselves; the others, in order, are U+0100, U+0101, ...: a space is U+0120 ("Ġ").
#pragma once

#include <cstdint>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace frugal {

// Appends the bytes that `spelled` stands for; false (and nothing appended) when a character is not of the
// alphabet or the text is not UTF-8.
bool TryDecodeByteLevel(std::string_view spelled, std::string& bytes);

// The opposite.
std::string SpellByteLevel(std::string_view bytes);

// The byte that a token of a model with byte fallback stands for: 10 for "<0x0A>".
std::optional<uint8_t> ParseByteToken(std::string_view spelled);

}  // namespace frugal
