#include "src/tensor/dtype.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <string>

#include "src/base/bytes.h"
#include "src/base/check.h"

namespace frugal {
namespace {

struct Entry {
  DType dtype;
  DTypeTraits traits;
  std::array<uint8_t, 2> scale_offsets = {};
  uint8_t num_scales = 0;
};

constexpr std::array<Entry, 17> kEntries = {{
    {DType::kF32, {"F32", 1, 4}},
    {DType::kF16, {"F16", 1, 2}},
    {DType::kQ4_0, {"Q4_0", 32, 18}, {0}, 1},
    {DType::kQ4_1, {"Q4_1", 32, 20}, {0, 2}, 2},
    {DType::kQ5_0, {"Q5_0", 32, 22}, {0}, 1},
    {DType::kQ5_1, {"Q5_1", 32, 24}, {0, 2}, 2},
    {DType::kQ8_0, {"Q8_0", 32, 34}, {0}, 1},
    {DType::kQ2_K, {"Q2_K", 256, 84}, {80, 82}, 2},
    {DType::kQ3_K, {"Q3_K", 256, 110}, {108}, 1},
    {DType::kQ4_K, {"Q4_K", 256, 144}, {0, 2}, 2},
    {DType::kQ5_K, {"Q5_K", 256, 176}, {0, 2}, 2},
    {DType::kQ6_K, {"Q6_K", 256, 210}, {208}, 1},
    {DType::kIQ4_NL, {"IQ4_NL", 32, 18}, {0}, 1},
    {DType::kI8, {"I8", 1, 1}},
    {DType::kI32, {"I32", 1, 4}},
    {DType::kI64, {"I64", 1, 8}},
    {DType::kBF16, {"BF16", 1, 2}},
}};

}  // namespace

std::optional<DTypeTraits> FindDTypeTraits(uint32_t number) {
  for (const Entry& entry : kEntries) {
    if (static_cast<uint32_t>(entry.dtype) == number) return entry.traits;
  }
  return std::nullopt;
}

DTypeTraits TraitsOf(DType dtype) {
  const std::optional<DTypeTraits> traits = FindDTypeTraits(static_cast<uint32_t>(dtype));
  CHECK(traits.has_value());
  return *traits;
}

std::string_view DTypeName(DType dtype) { return TraitsOf(dtype).name; }

std::optional<DType> ParseDType(std::string_view name) {
  std::string upper(name);
  std::transform(upper.begin(), upper.end(), upper.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  for (const Entry& entry : kEntries) {
    if (entry.traits.name == upper) return entry.dtype;
  }
  return std::nullopt;
}

std::optional<uint64_t> RowBytes(DType dtype, uint64_t elements) {
  const DTypeTraits traits = TraitsOf(dtype);
  if (elements % traits.block_elements != 0) return std::nullopt;
  return CheckedMultiply(elements / traits.block_elements, traits.block_bytes);
}

std::span<const uint8_t> ScaleOffsets(DType dtype) {
  for (const Entry& entry : kEntries) {
    if (entry.dtype == dtype) return std::span(entry.scale_offsets).first(entry.num_scales);
  }
  return {};
}

}  // namespace frugal
