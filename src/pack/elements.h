// Arrays of stored weights: what in them is no number, and conversions between the float types.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "src/tensor/dtype.h"

namespace frugal {

// The first element that is NaN or infinite; nothing when there is none, or when the type has no such values.
// Of quantised blocks it is the first element of the first block whose scale is not finite. `bytes` holds
// whole elements (blocks).
std::optional<uint64_t> FindNonFinite(DType dtype, std::span<const std::byte> bytes);

// "NaN", "inf", "-inf": of an element that FindNonFinite found.
std::string NonFiniteText(DType dtype, std::span<const std::byte> bytes, uint64_t element);

// Converts `count` finite elements between F32, F16 and BF16, rounding to nearest even. Returns the first
// one that is too large for the new type and became infinite; nothing when all fit.
std::optional<uint64_t> ConvertElements(DType from_type, const std::byte* from, DType to_type, std::byte* to,
                                        uint64_t count);

}  // namespace frugal
