// Rows of Q4_0 that lie in memory four and four together, as products from memory want them (docs/decisions/0015-interleaved-rows.md): a
// vector is loaded whole, and a tile is one or two long streams. What stays in memory is laid out so, by processors with AVX2 or better;
// no file is.
//
// Of four rows each run of four blocks becomes one part of 4 * 4 * 18 = 288 bytes: the scales, row by row in order of the blocks, then the
// nibbles, in an order that is the processor's. With VNNI for each block its 16 bytes of each row; with AVX2 for each two blocks 32 bytes
// of each row, in which elements stand as sums of two products want them. Rows that are left over at the end, fewer than four, stay as
// they are.
#pragma once

#include <cstddef>

#include "src/kernels/quantised_kernels.h"
#include "src/tensor/dtype.h"

namespace frugal {

constexpr size_t kInterleavedRows = 4;
constexpr size_t kMostInterleavedColumns = 16384;

// Whether rows of this type and length should lie so.
bool InterleavesRows(DType dtype, size_t columns);

// In place. `rows` [num_rows, columns], contiguous Q4_0; columns: whole parts, at most kMostInterleavedColumns.
void InterleaveRows(std::byte* rows, size_t num_rows, size_t columns);

// One row as it was before. // out [row bytes]
void CopyInterleavedRow(const std::byte* rows, size_t num_rows, size_t columns, size_t row, std::byte* out);

// What DotRowsQuantised gives for the rows as they were before, the same bits. Needs AVX2.
void DotInterleavedRows(const std::byte* rows, size_t num_rows, size_t begin, size_t end, size_t columns, const QuantisedInput& x,
                        size_t num_tokens, float* out, size_t out_stride);

}  // namespace frugal
