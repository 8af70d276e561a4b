// Matrix products in F32 and functions of whole arrays for training. The rules of kernels.h hold:
// single-threaded, the same bits on every instruction set. Matrices are row-major and dense; callers cut the
// rows of c into tiles for threads.
#pragma once

#include <cstddef>

namespace frugal {

// c[m, n] = a[m, k] * transpose(b[n, k]): dot products of rows, summed as in DotRows.
void MatMulF32(const float* a, const float* b, float* c, size_t m, size_t n, size_t k);

// c[m, n] += transpose(a[k, m]) * b[k, n]: c[i, j] = fma(a[l, i], b[l, j], c[i, j]) in order of l. The weight
// gradient: a and b hold k tokens.
void MatMulTransposedF32(const float* a, const float* b, float* c, size_t m, size_t n, size_t k);

// c[m, n] = a[m, k] * b[k, n]: from 0, c[i, j] = fma(a[i, l], b[l, j], c[i, j]) in order of l.
void MatMulNN(const float* a, const float* b, float* c, size_t m, size_t n, size_t k);

// In place: x[i] = e^x[i], within 1 unit in the last place; 0 below -104 and at -inf, inf at 89 and above,
// NaN for NaN.
void Exp(float* x, size_t size);
// In place: x[i] = 1 / (1 + e^-x[i]).
void Sigmoid(float* x, size_t size);

}  // namespace frugal
