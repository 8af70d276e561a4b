// What DotBlocksQuantised computes first for a block of kRows rows: the products of their scales and the scales of the inputs.
#pragma once

#include <cstddef>

namespace frugal {

template <class Format, size_t kRows, size_t kTokens>
struct BlockProducts {
  static constexpr size_t kGroups = Format::kElements / Format::kGroupElements;
  alignas(32) float scales[kRows][kTokens][kGroups];
  alignas(32) float mins[kRows][kTokens][kGroups];  // meant where the type has minima
};

}  // namespace frugal
