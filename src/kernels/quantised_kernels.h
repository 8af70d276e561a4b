// Dot products of quantised rows with a quantised input, as integers: what the weights' bytes leave
// of the memory bus's speed, arithmetic in float would take away. An input is quantised once for all rows.
//
// Numerics, the same bits on every instruction set and for any batch (docs/decisions/0006-quantised-sums.md):
// - Input, each block of 32: scale = largest magnitude / 127; q = x * (1 / scale) rounded to nearest even; all
//   q are 0 where the scale is denormal. A block with a NaN or an infinity gets a NaN as its scale and zeros.
// - Dot product: 8 lanes. In order of the parts of 32 elements, acc[j] = fma(float(s_j), scale_of_row * scale_of_input, acc[j]) where s_j
//   is the exact sum of the part's products 4j .. 4j + 3 (the scale is that of these elements); then, where the type has minima,
//   acc[j] = fma(float(u_j), min_of_row * scale_of_input, acc[j]) where u_j is the sum of the inputs 4j .. 4j + 3. At the end
//   acc[i] += acc[i + s] for s = 4, 2, 1.
//
// scalar:: in scalar.h is the specification. Single-threaded, like kernels.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "src/kernels/kernels.h"

namespace frugal {

// View of quantised inputs: element k of token t is q[t * columns + k] * scales[t * columns / 32 + k / 32].
struct QuantisedInput {
  const int8_t* q = nullptr;      // [num_tokens, columns], -127 .. 127
  const float* scales = nullptr;  // [num_tokens, columns / 32]
};

// `size` is a multiple of 32. // q [size], scales [size / 32]
void QuantiseInput(const float* x, size_t size, int8_t* q, float* scales);

// out[t * out_stride + i] = dot(row i, token t) for i in [begin, end), t in [0, num_tokens). `dtype`: any
// quantised type; `columns` whole blocks of it. Rows need alignment of 2 bytes only.
void DotRowsQuantised(DType dtype, const RowSet& rows, size_t begin, size_t end, size_t columns,
                      const QuantisedInput& x, size_t num_tokens, float* out, size_t out_stride);

// Off: AVX-512 without VNNI where the processor has both.
void AllowVnniForTest(bool allowed);

}  // namespace frugal
