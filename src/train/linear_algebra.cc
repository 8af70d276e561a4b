#include "src/train/linear_algebra.h"

#include <algorithm>
#include <cmath>

#include "src/base/random.h"
#include "src/kernels/kernels.h"
#include "src/kernels/training_kernels.h"

namespace frugal {
namespace {

constexpr size_t kTileRows = 48;      // a multiple of the kernel's register tile of 6 rows
constexpr size_t kPanelColumns = 64;  // of the blocked triangular algorithms
constexpr int kNumIterations = 16;

int NumTiles(size_t rows) { return static_cast<int>((rows + kTileRows - 1) / kTileRows); }

// The square at (begin, begin) by the textbook algorithm, sums in double.
void CholeskyOfSquare(float* c, size_t n, size_t begin, size_t end, float smallest_pivot) {
  for (size_t j = begin; j < end; ++j) {
    for (size_t i = j; i < end; ++i) {
      double sum = c[i * n + j];
      for (size_t k = begin; k < j; ++k) sum -= static_cast<double>(c[i * n + k]) * c[j * n + k];
      if (i == j) {
        c[j * n + j] = static_cast<float>(std::sqrt(std::max(sum, static_cast<double>(smallest_pivot))));
      } else {
        c[i * n + j] = static_cast<float>(sum / c[j * n + j]);
      }
    }
  }
}

// Rows below the square: c[i, panel] becomes c[i, panel] / transpose(square).
void SolvePanelRow(float* c, size_t n, size_t begin, size_t end, size_t row) {
  for (size_t j = begin; j < end; ++j) {
    double sum = c[row * n + j];
    for (size_t k = begin; k < j; ++k) sum -= static_cast<double>(c[row * n + k]) * c[j * n + k];
    c[row * n + j] = static_cast<float>(sum / c[j * n + j]);
  }
}

// Makes row `index` of rows[, n] orthogonal to the rows before it, twice (once leaves rounding of the order
// of the angle), and of length
// 1. A row that vanishes becomes zero.
void Orthonormalize(float* rows, size_t n, size_t index, std::vector<float>& dots) {
  float* const row = rows + index * n;
  const RowSet before{reinterpret_cast<const std::byte*>(rows), n * sizeof(float), nullptr};
  for (int pass = 0; pass < 2; ++pass) {
    DotRows(DType::kF32, before, 0, index, n, row, n, 1, dots.data(), index);
    for (size_t i = 0; i < index; ++i) dots[i] = -dots[i];
    AddScaledRows(DType::kF32, before, index, dots.data(), 0, n, row);
  }
  double norm = 0.0;
  for (size_t i = 0; i < n; ++i) norm += static_cast<double>(row[i]) * row[i];
  norm = std::sqrt(norm);
  Scale(row, norm > 1e-20 ? static_cast<float>(1.0 / norm) : 0.0f, n);
}

}  // namespace

void Multiply(ThreadPool& pool, const float* a, const float* b, float* c, size_t m, size_t n, size_t k) {
  pool.Run(NumTiles(m), [&](int tile, int) {
    const size_t begin = tile * kTileRows;
    MatMulNN(a + begin * k, b, c + begin * n, std::min(kTileRows, m - begin), n, k);
  });
}

void MultiplyInPlace(ThreadPool& pool, float* a, const float* b, size_t m, size_t n) {
  std::vector<float> scratch(static_cast<size_t>(pool.num_threads()) * kTileRows * n);
  pool.Run(NumTiles(m), [&](int tile, int worker) {
    const size_t begin = tile * kTileRows;
    const size_t rows = std::min(kTileRows, m - begin);
    float* const copy = scratch.data() + static_cast<size_t>(worker) * kTileRows * n;
    std::copy_n(a + begin * n, rows * n, copy);
    MatMulNN(copy, b, a + begin * n, rows, n, n);
  });
}

void AddCrossProduct(ThreadPool& pool, const float* a, const float* b, float* c, size_t m, size_t n,
                     size_t k) {
  std::vector<float> scratch(static_cast<size_t>(pool.num_threads()) * kTileRows * (k + n));
  pool.Run(NumTiles(m), [&](int tile, int worker) {
    const size_t begin = tile * kTileRows;
    const size_t rows = std::min(kTileRows, m - begin);
    float* const left = scratch.data() + static_cast<size_t>(worker) * kTileRows * (k + n);  // [rows, k]
    float* const product = left + kTileRows * k;                                             // [rows, n]
    for (size_t l = 0; l < k; ++l) {
      for (size_t i = 0; i < rows; ++i) left[i * k + l] = a[l * m + begin + i];
    }
    MatMulNN(left, b, product, rows, n, k);
    Add(c + begin * n, product, rows * n);
  });
}

void Cholesky(ThreadPool& pool, float* c, size_t n, float smallest_pivot) {
  std::vector<float> panel(n * kPanelColumns);
  std::vector<float> products(static_cast<size_t>(pool.num_threads()) * kTileRows * n);
  for (size_t begin = 0; begin < n; begin += kPanelColumns) {
    const size_t end = std::min(n, begin + kPanelColumns);
    const size_t width = end - begin;
    const size_t below = n - end;
    CholeskyOfSquare(c, n, begin, end, smallest_pivot);
    pool.Run(NumTiles(below), [&](int tile, int) {
      const size_t first = tile * kTileRows;
      for (size_t i = first; i < std::min(below, first + kTileRows); ++i) {
        SolvePanelRow(c, n, begin, end, end + i);
        std::copy_n(c + (end + i) * n + begin, width, panel.data() + i * width);
      }
    });
    pool.Run(NumTiles(below), [&](int tile, int worker) {
      const size_t first = tile * kTileRows;
      const size_t rows = std::min(kTileRows, below - first);
      const size_t columns = first + rows;  // the lower half is enough
      float* const product = products.data() + static_cast<size_t>(worker) * kTileRows * n;
      MatMulF32(panel.data() + first * width, panel.data(), product, rows, columns, width);
      for (size_t i = 0; i < rows; ++i) {
        float* const target = c + (end + first + i) * n + end;
        for (size_t j = 0; j < columns; ++j) target[j] -= product[i * columns + j];
      }
    });
  }
  for (size_t i = 0; i < n; ++i) std::fill(c + i * n + i + 1, c + (i + 1) * n, 0.0f);
}

void InvertLower(const float* l, float* inverse, size_t n) {
  std::vector<float> left(n * kPanelColumns);
  std::fill_n(inverse, n * n, 0.0f);
  for (size_t begin = 0; begin < n; begin += kPanelColumns) {
    const size_t end = std::min(n, begin + kPanelColumns);
    float* const target = inverse + begin * n;
    if (begin > 0) {
      // Everything left of the square, times what is inverted already.
      for (size_t i = begin; i < end; ++i) std::copy_n(l + i * n, begin, left.data() + (i - begin) * begin);
      MatMulNN(left.data(), inverse, target, end - begin, n, begin);
      Scale(target, -1.0f, (end - begin) * n);
    }
    for (size_t i = begin; i < end; ++i) {
      float* const row = inverse + i * n;
      row[i] += 1.0f;
      for (size_t k = begin; k < i; ++k) {
        const float factor = -l[i * n + k];
        for (size_t j = 0; j <= k; ++j) row[j] += factor * inverse[k * n + j];
      }
      Scale(row, 1.0f / l[i * n + i], n);
    }
  }
}

std::vector<float> LeadingEigenvectors(ThreadPool& pool, const float* g, size_t n, size_t count,
                                       uint64_t seed) {
  // More vectors than asked for make the last ones asked for converge as well.
  const size_t size = std::min(n, count + 16);
  std::vector<float> vectors(size * n), next(size * n), dots(size);
  Random random(seed);
  for (float& value : vectors) value = static_cast<float>(random.Uniform() - 0.5);
  for (size_t i = 0; i < size; ++i) Orthonormalize(vectors.data(), n, i, dots);
  for (int iteration = 0; iteration < kNumIterations; ++iteration) {
    Multiply(pool, vectors.data(), g, next.data(), size, n, n);  // g is symmetric
    vectors.swap(next);
    for (size_t i = 0; i < size; ++i) Orthonormalize(vectors.data(), n, i, dots);
  }
  vectors.resize(count * n);
  return vectors;
}

}  // namespace frugal
