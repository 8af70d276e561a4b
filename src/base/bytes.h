// Little-endian loads from untrusted bytes, overflow-checked sizes, rounding, and sizes as people write them.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

#include "src/base/result.h"

namespace frugal {

static_assert(std::endian::native == std::endian::little, "every format read here is little-endian");

constexpr uint64_t kKiB = 1024;
constexpr uint64_t kMiB = 1024 * kKiB;
constexpr uint64_t kGiB = 1024 * kMiB;

// `from` need not be aligned.
template <typename T>
T LoadUnaligned(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

constexpr uint64_t RoundUp(uint64_t value, uint64_t multiple) { return (value + multiple - 1) / multiple * multiple; }
constexpr uint64_t RoundDown(uint64_t value, uint64_t multiple) { return value / multiple * multiple; }

// a*b and a+b, or nothing when they do not fit 64 bits.
std::optional<uint64_t> CheckedMultiply(uint64_t a, uint64_t b);
std::optional<uint64_t> CheckedAdd(uint64_t a, uint64_t b);

// "7G", "512M", "6700M", "20k", "4096": binary units (1G = 2^30), an optional "iB"/"B" behind them, fractions allowed
// ("1.5G"). kUsage when it is not such a number or is above 2^60.
Result<uint64_t> ParseSize(std::string_view text);

// "13.4 MiB", "512 B": for people.
std::string FormatSize(uint64_t bytes);

}  // namespace frugal
