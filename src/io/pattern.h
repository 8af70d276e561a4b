// Incompressible content that is a function of the offset, so that every block of a file can be verified
// without a copy of it: word i is the i-th output of a splitmix64 that starts at `seed` (Steele, Lea and
// Flood 2014).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "src/base/check.h"

namespace frugal {

inline uint64_t PatternWord(uint64_t seed, uint64_t word_index) {
  uint64_t z = seed + (word_index + 1) * 0x9e3779b97f4a7c15ULL;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

inline std::byte PatternByte(uint64_t seed, uint64_t offset_bytes) {
  return static_cast<std::byte>(PatternWord(seed, offset_bytes / 8) >> (8 * (offset_bytes % 8)));
}

// Offset and size are multiples of 8.
inline void FillPattern(uint64_t seed, uint64_t offset_bytes, std::span<std::byte> bytes) {
  CHECK(offset_bytes % 8 == 0 && bytes.size() % 8 == 0);
  for (size_t i = 0; i < bytes.size(); i += 8) {
    const uint64_t word = PatternWord(seed, (offset_bytes + i) / 8);
    std::memcpy(bytes.data() + i, &word, 8);
  }
}

inline bool IsPattern(uint64_t seed, uint64_t offset_bytes, std::span<const std::byte> bytes) {
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (bytes[i] != PatternByte(seed, offset_bytes + i)) return false;
  }
  return true;
}

}  // namespace frugal
