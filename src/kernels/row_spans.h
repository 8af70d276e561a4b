// Weighted sums of rows for many tokens that add nearly the same ones: a prompt's attention, where each token adds the values of one head
// from the beginning of its window to itself. A weight in a register serves a dozen tokens.
#pragma once

#include <cstddef>
#include <cstdint>

#include "src/kernels/kernels.h"

namespace frugal {

struct RowSpan {
  uint32_t begin = 0, end = 0;
};

// AddScaledRows for columns [0, columns) of out + t * out_stride, for each token t, with the rows i of spans[t] and a[t * a_stride + i].
// dtype F32, F16, BF16.
void AddRowSpans(DType dtype, const RowSet& rows, const RowSpan* spans, size_t num_tokens, const float* a, size_t a_stride,
                 size_t columns, float* out, size_t out_stride);

}  // namespace frugal
