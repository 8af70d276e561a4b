// Weighted sums of rows for many tokens (the down sum of a prompt). Each token adds few of the rows, and which they are is listed once for
// all columns; then a few columns of a token's sum stay in registers from its first row to its last.
#pragma once

#include <cstddef>
#include <cstdint>

#include "src/kernels/kernels.h"

namespace frugal {

struct ListedRow {
  uint32_t row;
  float scale;
};

// Token t adds the rows entries[begin[t]], ..., entries[begin[t + 1] - 1], in this order.
struct RowLists {
  const ListedRow* entries = nullptr;
  const uint32_t* begin = nullptr;  // [num_tokens + 1]
};

// The type in which AddListedRows takes rows that are stored as `dtype`, which is the instruction set's matter: itself, or F32, by
// ConvertToFloat, which gives the same bits.
DType ListedType(DType dtype);

// Lists the rows i < num_rows whose a[i] is not 0, in their order; gives their number. `list` has room for num_rows.
uint32_t ListNonZero(const float* a, size_t num_rows, ListedRow* list);

// How many of them there are.
uint64_t CountNonZero(const float* a, size_t num_rows);

// AddScaledRows for columns [0, columns) of out + t * out_stride, for each token t, with the rows of its list. `dtype`: a
// ListedType. Fastest when the rows lie in the L2 cache.
void AddListedRows(DType dtype, const RowSet& rows, const RowLists& lists, size_t num_tokens, size_t columns, float* out,
                   size_t out_stride);

}  // namespace frugal
