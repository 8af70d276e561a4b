#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/kernels/training_kernels.cc"
// The order is Highway's.
// clang-format off
#include "src/kernels/highway_targets.h"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include "src/kernels/training_kernels.h"

#include <algorithm>

#include "src/kernels/kernels.h"
#include "src/kernels/scalar.h"
#include "src/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace frugal::HWY_NAMESPACE {
#if !FRUGAL_SCALAR_TARGET

// A tile of c is 6 rows x 2 vectors of accumulators. k is cut into steps whose part of b, packed so that its
// lines are neighbours, stays in the L1 cache; the accumulators go through c between the steps, which keeps
// their bits.
constexpr size_t kTileRows = 6;
constexpr size_t kTileColumns = 2 * kWidth;
constexpr size_t kStepOfK = 256;

// Element (i, l) of a is a[i * row_stride + l * k_stride].
struct Left {
  const float* a;
  size_t row_stride;
  size_t k_stride;
};

// c[kRows, kTileColumns] += a[kRows, k] * packed[k, kTileColumns]
template <size_t kRows>
HWY_INLINE void MultiplyTile(const Left& left, const float* packed, size_t k, float* c, size_t c_stride) {
  const FloatTag d;
  FloatVector acc[kRows][2];
  FRUGAL_UNROLL
  for (size_t i = 0; i < kRows; ++i) {
    acc[i][0] = hn::LoadU(d, c + i * c_stride);
    acc[i][1] = hn::LoadU(d, c + i * c_stride + kWidth);
  }
  for (size_t l = 0; l < k; ++l) {
    const FloatVector b0 = hn::Load(d, packed + l * kTileColumns);
    const FloatVector b1 = hn::Load(d, packed + l * kTileColumns + kWidth);
    FRUGAL_UNROLL
    for (size_t i = 0; i < kRows; ++i) {
      const FloatVector a = hn::Set(d, left.a[i * left.row_stride + l * left.k_stride]);
      acc[i][0] = hn::MulAdd(a, b0, acc[i][0]);
      acc[i][1] = hn::MulAdd(a, b1, acc[i][1]);
    }
  }
  FRUGAL_UNROLL
  for (size_t i = 0; i < kRows; ++i) {
    hn::StoreU(acc[i][0], d, c + i * c_stride);
    hn::StoreU(acc[i][1], d, c + i * c_stride + kWidth);
  }
}

// All rows of c in one column of tiles. Columns beyond `width` are computed beside c, in `edge`.
void MultiplyColumn(Left left, const float* packed, size_t m, size_t k, size_t width, float* c,
                    size_t c_stride) {
  alignas(64) float edge[kTileRows * kTileColumns] = {};
  for (size_t i = 0; i < m;) {
    const size_t rows = std::min(kTileRows, m - i);
    float* target = c + i * c_stride;
    const bool whole = width == kTileColumns;
    if (!whole) {
      for (size_t r = 0; r < rows; ++r) std::copy_n(target + r * c_stride, width, edge + r * kTileColumns);
    }
    float* tile = whole ? target : edge;
    const size_t stride = whole ? c_stride : kTileColumns;
    if (rows == kTileRows) {
      MultiplyTile<kTileRows>(left, packed, k, tile, stride);
    } else {
      for (size_t r = 0; r < rows; ++r) {
        MultiplyTile<1>({left.a + r * left.row_stride, 0, left.k_stride}, packed, k, tile + r * stride, 0);
      }
    }
    if (!whole) {
      for (size_t r = 0; r < rows; ++r) std::copy_n(edge + r * kTileColumns, width, target + r * c_stride);
    }
    left.a += rows * left.row_stride;
    i += rows;
  }
}

// c[m, n] += a[m, k] * b[k, n]
void Multiply(const Left& left, const float* b, float* c, size_t m, size_t n, size_t k) {
  alignas(64) float packed[kStepOfK * kTileColumns];
  for (size_t l = 0; l < k; l += kStepOfK) {
    const size_t step = std::min(kStepOfK, k - l);
    for (size_t j = 0; j < n; j += kTileColumns) {
      const size_t width = std::min(kTileColumns, n - j);
      for (size_t r = 0; r < step; ++r) {
        float* to = std::copy_n(b + (l + r) * n + j, width, packed + r * kTileColumns);
        std::fill(to, packed + (r + 1) * kTileColumns, 0.0f);
      }
      MultiplyColumn({left.a + l * left.k_stride, left.row_stride, left.k_stride}, packed, m, step, width,
                     c + j, n);
    }
  }
}

void MatMulTransposedF32(const float* a, const float* b, float* c, size_t m, size_t n, size_t k) {
  Multiply({a, 1, m}, b, c, m, n, k);
}

void MatMulNN(const float* a, const float* b, float* c, size_t m, size_t n, size_t k) {
  std::fill_n(c, m * n, 0.0f);
  Multiply({a, k, 1}, b, c, m, n, k);
}

#else
using scalar::MatMulNN;
using scalar::MatMulTransposedF32;
#endif  // !FRUGAL_SCALAR_TARGET
}  // namespace frugal::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace frugal {

HWY_EXPORT(MatMulNN);
HWY_EXPORT(MatMulTransposedF32);

void MatMulF32(const float* a, const float* b, float* c, size_t m, size_t n, size_t k) {
  const RowSet rows{reinterpret_cast<const std::byte*>(b), k * sizeof(float), nullptr};
  DotRows(DType::kF32, rows, 0, n, k, a, k, m, c, n);
}
void MatMulTransposedF32(const float* a, const float* b, float* c, size_t m, size_t n, size_t k) {
  HWY_DYNAMIC_DISPATCH(MatMulTransposedF32)(a, b, c, m, n, k);
}
void MatMulNN(const float* a, const float* b, float* c, size_t m, size_t n, size_t k) {
  HWY_DYNAMIC_DISPATCH(MatMulNN)(a, b, c, m, n, k);
}

}  // namespace frugal
#endif  // HWY_ONCE
