// Element types of weights, with GGUF's numbers, and their sizes.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace frugal {

// The values are GGUF's type numbers (ggml's enum ggml_type).
enum class DType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,  // quantised blocks of 32: an F16 scale, then 16 bytes: low nibbles elements 0..15, high nibbles 16..31
  kQ8_0 = 8,  // quantised blocks of 32: an F16 scale, then 32 int8
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

// Quantised blocks of 32 elements.
constexpr uint64_t kQuantisedBlock = 32;
constexpr bool IsQuantised(DType dtype) { return dtype == DType::kQ8_0 || dtype == DType::kQ4_0; }
// What a matrix or a bundle may consist of.
constexpr bool IsWeightType(DType dtype) { return IsFloat(dtype) || IsQuantised(dtype); }

}  // namespace frugal
