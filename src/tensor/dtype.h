// Element types of weights, with GGUF's numbers, and their sizes.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace frugal {

// The values are GGUF's type numbers (ggml's enum ggml_type). Quantised types are sequences of blocks, drawn byte by byte in
// docs/quantised-types.md; kernels/block_formats.h reads them.
enum class DType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,  // blocks of 32: an F16 scale, then 16 bytes: low nibbles elements 0..15, high nibbles 16..31
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,   // blocks of 32: an F16 scale, then 32 int8
  kQ2_K = 10,  // "K": blocks of 256 with a scale for every 16 or 32 elements
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kIQ4_NL = 20,
  kI8 = 24,
  kI32 = 26,
  kI64 = 27,
  kBF16 = 30,
};

struct DTypeTraits {
  std::string_view name;      // as GGUF tools print it: "F16"
  uint32_t block_elements;    // 1 for plain types
  uint32_t block_bytes;
};

// The traits of a type this program knows, nothing for any other number.
std::optional<DTypeTraits> FindDTypeTraits(uint32_t number);
// For a DType that was validated.
DTypeTraits TraitsOf(DType dtype);
std::string_view DTypeName(DType dtype);
// "f16", "F16", "bf16", ...
std::optional<DType> ParseDType(std::string_view name);

// Bytes of `elements` in a row; nothing when they are no multiple of the quantised block or overflow.
std::optional<uint64_t> RowBytes(DType dtype, uint64_t elements);

constexpr bool IsFloat(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

// Inputs of quantised weights are quantised in blocks of 32, and columns of quantised rows are cut at multiples of it; the block of a
// type itself (DTypeTraits) may be longer.
constexpr uint64_t kQuantisedBlock = 32;
constexpr bool IsQuantised(DType dtype) {
  switch (dtype) {
    case DType::kQ4_0:
    case DType::kQ4_1:
    case DType::kQ5_0:
    case DType::kQ5_1:
    case DType::kQ8_0:
    case DType::kQ2_K:
    case DType::kQ3_K:
    case DType::kQ4_K:
    case DType::kQ5_K:
    case DType::kQ6_K:
    case DType::kIQ4_NL:
      return true;
    default:
      return false;
  }
}
// What a matrix or a bundle may consist of.
constexpr bool IsWeightType(DType dtype) { return IsFloat(dtype) || IsQuantised(dtype); }
inline constexpr DType kWeightTypes[] = {DType::kF32,  DType::kF16,  DType::kBF16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_1, DType::kQ5_0,
                                         DType::kQ5_1, DType::kQ2_K, DType::kQ3_K, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K,
                                         DType::kIQ4_NL};
// What floats can be turned into (ConvertFromFloat). The other quantised types are read only: choosing their scales well is a search.
constexpr bool IsWritableWeightType(DType dtype) { return IsFloat(dtype) || dtype == DType::kQ8_0 || dtype == DType::kQ4_0; }

// Where the F16 scales (and minima) lie in a block of a quantised type, offsets in bytes; whatever the other bytes are, a block is finite
// where these are. Empty for other types.
std::span<const uint8_t> ScaleOffsets(DType dtype);

}  // namespace frugal
