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
};

constexpr std::array<Entry, 8> kEntries = {{
    {DType::kF32, {"F32", 1, 4}},
    {DType::kF16, {"F16", 1, 2}},
    {DType::kQ4_0, {"Q4_0", 32, 18}},
    {DType::kQ8_0, {"Q8_0", 32, 34}},
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

}  // namespace frugal
