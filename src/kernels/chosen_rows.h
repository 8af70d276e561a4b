// Products of many tokens with the few rows that each of them chose: a prompt with a predictor. The rows lie in the L2 cache, so many
// columns of them at a time, while all tokens pass; a weight in a register serves two tokens at most, neighbours that both chose the row.
#pragma once

#include <cstddef>
#include <cstdint>

#include "src/kernels/kernels.h"

namespace frugal {

// Columns of a row in the cache (half as many where it is converted to floats), and bytes of all rows: half of an L2 cache of 1 MiB.
constexpr size_t kChosenColumns = 1024;
constexpr size_t kChosenRowsBytes = 512 * 1024;
// The most rows of a call.
constexpr size_t kMostChosenRows = kChosenRowsBytes / kChosenColumns / 2;

// Token t chose rows row[begin[t]], ..., row[begin[t + 1] - 1] of a call's rows, in any order. The first shared[t / 2] rows of tokens t and
// t + 1, for an even t, are the same: a weight is loaded, and converted, which takes longer than the product, once for both.
struct ChosenPairs {
  const uint32_t* begin = nullptr;  // [num_tokens + 1], begin[0] == 0
  const uint16_t* row = nullptr;    // [number of pairs]
  const uint16_t* shared = nullptr; // [num_tokens / 2]
};

// out[pair] = dot(row, its token's x), the order of sums of DotRows. dtype F32, F16, BF16; num_rows at most kMostChosenRows, and of
// min(columns, kChosenColumns) columns at most `copies` bytes. lanes: 32 floats for each pair. Alignment of `copies`, `lanes`: 64 bytes.
void DotChosenRows(DType dtype, const RowSet& rows, size_t num_rows, size_t columns, const float* x, size_t x_stride, size_t num_tokens,
                   const ChosenPairs& pairs, std::byte* copies, float* lanes, float* out);

}  // namespace frugal
