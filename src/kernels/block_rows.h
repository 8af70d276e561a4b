// DotRows, AddScaledRows and ConvertToFloat (kernels.h, which calls these) for the types of block_formats.h: weights become float first, a
// piece of a row at a time, in the L1 cache. Part of kernels.h; nobody else includes this.
#pragma once

#include <cstddef>

#include "src/kernels/kernels.h"

namespace frugal {

void DotRowsOfBlocks(DType dtype, const RowSet& rows, size_t begin, size_t end, size_t columns, const float* x, size_t x_stride,
                     size_t num_tokens, float* out, size_t out_stride);
// Columns are multiples of kQuantisedBlock: they may cut a block.
void AddScaledRowsOfBlocks(DType dtype, const RowSet& rows, size_t num_rows, const float* a, size_t column_begin, size_t column_end,
                           float* out);
void BlocksToFloat(DType dtype, const std::byte* from, size_t size, float* to);

}  // namespace frugal
