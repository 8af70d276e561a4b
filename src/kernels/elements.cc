#include "src/kernels/elements.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "src/base/bytes.h"
#include "src/base/check.h"
#include "src/kernels/kernels.h"
#include "src/tensor/half.h"

namespace frugal {
namespace {

// An IEEE number is NaN or infinite exactly when all bits of its exponent are set. `bytes` need no alignment.
template <typename T, T kExponent>
std::optional<uint64_t> FindFullExponent(std::span<const std::byte> bytes) {
  constexpr uint64_t kBlock =
      4096;  // elements that are tested with one branch, so that the test is vectorised
  const uint64_t count = bytes.size() / sizeof(T);
  for (uint64_t begin = 0; begin < count; begin += kBlock) {
    const uint64_t end = std::min(count, begin + kBlock);
    bool found = false;
    for (uint64_t i = begin; i < end; ++i) {
      found |= (LoadUnaligned<T>(bytes.data() + i * sizeof(T)) & kExponent) == kExponent;
    }
    if (!found) continue;
    for (uint64_t i = begin; i < end; ++i) {
      if ((LoadUnaligned<T>(bytes.data() + i * sizeof(T)) & kExponent) == kExponent) return i;
    }
  }
  return std::nullopt;
}

bool IsBadHalf(const std::byte* at) { return (LoadUnaligned<uint16_t>(at) & 0x7c00u) == 0x7c00u; }

std::optional<uint64_t> FindBadScale(DType dtype, std::span<const std::byte> bytes) {
  const DTypeTraits traits = TraitsOf(dtype);
  for (uint64_t at = 0; at < bytes.size(); at += traits.block_bytes) {
    for (uint8_t offset : ScaleOffsets(dtype)) {
      if (IsBadHalf(bytes.data() + at + offset)) return at / traits.block_bytes * traits.block_elements;
    }
  }
  return std::nullopt;
}

}  // namespace

std::optional<uint64_t> FindNonFinite(DType dtype, std::span<const std::byte> bytes) {
  if (IsQuantised(dtype)) return FindBadScale(dtype, bytes);
  switch (dtype) {
    case DType::kF32:
      return FindFullExponent<uint32_t, 0x7f800000u>(bytes);
    case DType::kF16:
      return FindFullExponent<uint16_t, 0x7c00u>(bytes);
    case DType::kBF16:
      return FindFullExponent<uint16_t, 0x7f80u>(bytes);
    default:
      return std::nullopt;
  }
}

std::string NonFiniteText(DType dtype, std::span<const std::byte> bytes, uint64_t element) {
  const DTypeTraits traits = TraitsOf(dtype);
  const std::byte* at = bytes.data() + element / traits.block_elements * traits.block_bytes;
  float value = 0;
  if (dtype == DType::kF32) {
    value = LoadUnaligned<float>(at);
  } else if (dtype == DType::kBF16) {
    value = Bf16ToFloat(LoadUnaligned<uint16_t>(at));
  } else {
    for (uint8_t offset : ScaleOffsets(dtype)) {
      if (!IsBadHalf(at + offset)) continue;
      at += offset;
      break;
    }
    value = HalfToFloat(LoadUnaligned<uint16_t>(at));
  }
  if (std::isnan(value)) return "NaN";
  return value > 0 ? "inf" : "-inf";
}

std::optional<uint64_t> ConvertElements(DType from_type, const std::byte* from, DType to_type, std::byte* to,
                                        uint64_t count, float* largest_difference) {
  CHECK(IsWeightType(from_type) && IsWritableWeightType(to_type));
  constexpr uint64_t kBlock = 4096;  // a multiple of every type's block
  std::array<float, kBlock> floats;
  std::array<float, kBlock> converted;
  const DTypeTraits from_traits = TraitsOf(from_type);
  const DTypeTraits to_traits = TraitsOf(to_type);
  for (uint64_t begin = 0; begin < count; begin += kBlock) {
    const uint64_t size = std::min(kBlock, count - begin);
    std::byte* const out = to + begin / to_traits.block_elements * to_traits.block_bytes;
    ConvertToFloat(from_type, from + begin / from_traits.block_elements * from_traits.block_bytes, size, floats.data());
    ConvertFromFloat(to_type, floats.data(), size, out);
    if (const auto bad = FindNonFinite(to_type, {out, *RowBytes(to_type, size)})) return begin + *bad;
    if (largest_difference == nullptr) continue;
    ConvertToFloat(to_type, out, size, converted.data());
    for (uint64_t i = 0; i < size; ++i) {
      *largest_difference = std::max(*largest_difference, std::fabs(converted[i] - floats[i]));
    }
  }
  return std::nullopt;
}

}  // namespace frugal
