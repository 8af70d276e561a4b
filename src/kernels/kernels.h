// The maths of the forward pass on plain spans: SIMD by Highway, chosen at run time, single-threaded (callers
// cut the work into tiles). Highway is included in this folder only.
//
// Numerics, the same bits on every instruction set and for any batch (design.md, "Numerics"):
// - Dot product over K: 32 lanes; element k goes to lane k % 32 by acc[lane] = fma(weight, x, acc[lane]) in
//   order of k; lanes without an element in the last group of 32 stay as they are; then acc[i] += acc[i + s]
//   for s = 16, 8, 4, 2, 1.
// - A sum over K (LayerNorm, softmax) has the same lanes and the same tree, with acc[lane] += value.
// - Weighted sum of rows: out[c] = fma(a[i], row_i[c], out[c]) in order of i, without rows of a[i] == 0.
//
// scalar:: in scalar.h is the specification; tests compare bit by bit every instruction set that the processor has, and
// `./check --long` NEON, under emulation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "src/tensor/dtype.h"

namespace frugal {

// Rows of weights in memory: row i starts at base + (index ? index[i] : i) * stride_bytes.
struct RowSet {
  const std::byte* base = nullptr;
  size_t stride_bytes = 0;
  const uint32_t* index = nullptr;  // borrowed; nullptr: contiguous
  const std::byte* row(size_t i) const { return base + (index != nullptr ? index[i] : i) * stride_bytes; }
  // Without the first `count` rows.
  RowSet From(size_t count) const {
    return index != nullptr ? RowSet{base, stride_bytes, index + count} : RowSet{base + count * stride_bytes, stride_bytes, nullptr};
  }
};

// From kManyTokens on, rows are multiplied so many at a time; what a call has beyond a multiple of it costs more for each row.
constexpr size_t kRowsOfManyTokens = 12;
constexpr size_t kManyTokens = 8;

// out[t * out_stride + i] = dot(row i, x + t * x_stride) for i in [begin, end), t in [0, num_tokens).
// `dtype`: F32, F16, BF16, or quantised (weight = float(q) * scale rounded to float, plus the minimum, rounded again, where the type has
// minima, then the fma; predictors project so, models with quantised_kernels.h), with rows of whole blocks. Rows need alignment of 2 bytes
// only.
void DotRows(DType dtype, const RowSet& rows, size_t begin, size_t end, size_t columns, const float* x,
             size_t x_stride, size_t num_tokens, float* out, size_t out_stride);

// out[c] = fma(a[i], row_i[c], out[c]) for c in [column_begin, column_end), over i = 0 .. num_rows-1 in
// order; a[i] == 0 is skipped (the row is not touched). dtype F32, F16, BF16, or quantised, where column_begin and column_end are
// multiples of kQuantisedBlock. Q8_0 and Q4_0: out[c] = fma(a[i] * scale, float(q), out[c]); the other quantised types like float, with the
// weight that DotRows has. `out` is indexed by absolute column.
// Fastest when the columns of a call are at least 4 KiB of each row: shorter pieces end before the prefetchers
// have found them.
void AddScaledRows(DType dtype, const RowSet& rows, size_t num_rows, const float* a, size_t column_begin,
                   size_t column_end, float* out);

// y = (x - mean) / sqrt(variance + epsilon) * weight + bias, biased variance, two passes (mean first). x may
// equal y.
void LayerNorm(const float* x, const float* weight, const float* bias, float epsilon, size_t size, float* y);

// In place: x[i] = exp(x[i] - max) / sum. `size` > 0.
void Softmax(float* x, size_t size);

// In place: x[i] = max(x[i] + bias[i], 0); NaN stays NaN (max(NaN, 0) must not hide it). bias may be nullptr.
void AddBiasRelu(float* x, const float* bias, size_t size);
// x[i] += y[i].
void Add(float* x, const float* y, size_t size);
// x[i] *= scale.
void Scale(float* x, float scale, size_t size);
// Conversions: a stored row (whole blocks) to float; floats to F16 (KV cache), round to nearest even.
void ConvertToFloat(DType dtype, const std::byte* from, size_t size, float* to);
void ConvertFromFloat(DType dtype, const float* from, size_t size,
                      std::byte* to);  // F32, F16, BF16; Q8_0 and Q4_0 as llama.cpp quantises them
// True when every element is finite.
bool AllFinite(const float* x, size_t size);

// "AVX2", "AVX3", "NEON", ...: what run-time dispatch took.
const char* InstructionSetName();

}  // namespace frugal
