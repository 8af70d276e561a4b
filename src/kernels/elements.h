// Arrays of stored weights: what in them is no number, and conversions of the float types.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "src/tensor/dtype.h"

namespace frugal {

// The first element that is NaN or infinite; nothing when there is none, or when the type has no such values.
// Of quantised blocks it is the first element of the first block whose scale (or scale of minima) is not finite. `bytes` holds
// whole elements (blocks).
std::optional<uint64_t> FindNonFinite(DType dtype, std::span<const std::byte> bytes);

// "NaN", "inf", "-inf": of an element that FindNonFinite found.
std::string NonFiniteText(DType dtype, std::span<const std::byte> bytes, uint64_t element);

// Converts `count` finite elements to F32, F16 and BF16, rounding to nearest even, or to Q8_0 and Q4_0 as llama.cpp
// does. Where one of the types has quantised blocks, `count` is whole blocks. Returns the first one that is too large
// for the new type, which became infinite; nothing when all fit. `largest_difference` (may be nullptr) is raised
// to the largest |new - old|.
std::optional<uint64_t> ConvertElements(DType from_type, const std::byte* from, DType to_type, std::byte* to,
                                        uint64_t count, float* largest_difference = nullptr);

}  // namespace frugal
