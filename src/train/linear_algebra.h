// Dense linear algebra in F32 for fitting, on row-major matrices, threaded by tiles of the result: the same
// bits for any number of threads. Sizes up to a hidden_size of some thousands; no pivoting, no general
// solvers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "src/base/thread_pool.h"

namespace frugal {

// c[m, n] = a[m, k] b[k, n].
void Multiply(ThreadPool& pool, const float* a, const float* b, float* c, size_t m, size_t n, size_t k);
// a[m, n] = a[m, n] b[n, n].
void MultiplyInPlace(ThreadPool& pool, float* a, const float* b, size_t m, size_t n);
// c[m, n] += transpose(a[k, m]) b[k, n].
void AddCrossProduct(ThreadPool& pool, const float* a, const float* b, float* c, size_t m, size_t n,
                     size_t k);

// In place: the symmetric positive definite c[n, n] becomes its Cholesky factor L (lower, zeros above). A
// pivot that rounding made too small counts as `smallest_pivot`.
void Cholesky(ThreadPool& pool, float* c, size_t n, float smallest_pivot);
// Inverse of the lower triangular l[n, n].
void InvertLower(const float* l, float* inverse, size_t n);

// The `count` leading eigenvectors of the symmetric, positive semi-definite g[n, n] as rows, the largest
// eigenvalue first: simultaneous iteration (Golub and Van Loan, section 8.2.4) from a start that depends on
// `seed` only. count <= n. // [count, n]
std::vector<float> LeadingEigenvectors(ThreadPool& pool, const float* g, size_t n, size_t count,
                                       uint64_t seed);

}  // namespace frugal
