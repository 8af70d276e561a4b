#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/kernels/add_scaled_rows.cc"
// The order is Highway's.
// clang-format off
#include "src/kernels/highway_targets.h"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include <type_traits>

#include "src/base/check.h"
#include "src/kernels/kernels.h"
#include "src/kernels/scalar.h"
#include "src/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace frugal::HWY_NAMESPACE {
#if !FRUGAL_SCALAR_TARGET

// Rows are taken eight at a time, each read in the order of its columns: eight streams from memory keep the
// prefetchers busy, and `out`, which stays in the cache, is read and written once for eight rows. Prefetch
// instructions for the next eight made it slower (Zen 3).
constexpr size_t kRowsAtOnce = 8;

template <class Row, size_t kRows, size_t kVectors, class D>
HWY_INLINE void AddColumns(D d, const std::byte* const (&rows)[kRowsAtOnce], const float (&a)[kRowsAtOnce],
                           size_t column, float* out) {
  constexpr size_t kStep = hn::MaxLanes(D());
  hn::Vec<D> sum[kVectors];
  FRUGAL_UNROLL
  for (size_t v = 0; v < kVectors; ++v) sum[v] = hn::LoadU(d, out + column + v * kStep);
  FRUGAL_UNROLL
  for (size_t i = 0; i < kRows; ++i) {
    const hn::Vec<D> scale = hn::Set(d, a[i]);
    FRUGAL_UNROLL
    for (size_t v = 0; v < kVectors; ++v) {
      sum[v] = hn::MulAdd(scale, Row::Load(d, rows[i], column + v * kStep), sum[v]);
    }
  }
  FRUGAL_UNROLL
  for (size_t v = 0; v < kVectors; ++v) hn::StoreU(sum[v], d, out + column + v * kStep);
}

// Whole quantised blocks: a[i] * scale once for each block of a row.
template <class Row, size_t kRows>
HWY_INLINE void AddBlock(const std::byte* const (&rows)[kRowsAtOnce], const float (&a)[kRowsAtOnce],
                         size_t column, float* out) {
  const FloatTag d;
  FloatVector sum[kParts];
  FRUGAL_UNROLL
  for (size_t p = 0; p < kParts; ++p) sum[p] = hn::LoadU(d, out + column + p * kWidth);
  FRUGAL_UNROLL
  for (size_t i = 0; i < kRows; ++i) {
    const std::byte* block = rows[i] + Row::Offset(column);
    const FloatVector scale = hn::Mul(hn::Set(d, a[i]), BlockScale(d, block));
    FRUGAL_UNROLL
    for (size_t p = 0; p < kParts; ++p) sum[p] = hn::MulAdd(scale, Row::Quants(d, block, p * kWidth), sum[p]);
  }
  FRUGAL_UNROLL
  for (size_t p = 0; p < kParts; ++p) hn::StoreU(sum[p], d, out + column + p * kWidth);
}

template <class Row, size_t kRows>
HWY_NOINLINE void AddRows(const std::byte* const (&rows)[kRowsAtOnce], const float (&a)[kRowsAtOnce],
                          size_t begin, size_t end, float* out) {
  size_t c = begin;
  if constexpr (std::is_same_v<Row, Q8Row> || std::is_same_v<Row, Q4Row>) {
    for (; c < end; c += kLanes) AddBlock<Row, kRows>(rows, a, c, out);
    return;
  }
  for (; c + 4 * kWidth <= end; c += 4 * kWidth) AddColumns<Row, kRows, 4>(FloatTag(), rows, a, c, out);
  for (; c + kWidth <= end; c += kWidth) AddColumns<Row, kRows, 1>(FloatTag(), rows, a, c, out);
  for (; c < end; ++c) AddColumns<Row, kRows, 1>(OneTag(), rows, a, c, out);
}

template <class Row>
void AddScaledRowsOf(const RowSet& set, size_t num_rows, const float* a, size_t begin, size_t end,
                     float* out) {
  const std::byte* rows[kRowsAtOnce];
  float scales[kRowsAtOnce];
  size_t count = 0;
  for (size_t i = 0; i < num_rows; ++i) {
    if (a[i] == 0.0f) continue;
    rows[count] = set.row(i);
    scales[count++] = a[i];
    if (count == kRowsAtOnce) {
      AddRows<Row, kRowsAtOnce>(rows, scales, begin, end, out);
      count = 0;
    }
  }
  switch (count) {
    case 1:
      return AddRows<Row, 1>(rows, scales, begin, end, out);
    case 2:
      return AddRows<Row, 2>(rows, scales, begin, end, out);
    case 3:
      return AddRows<Row, 3>(rows, scales, begin, end, out);
    case 4:
      return AddRows<Row, 4>(rows, scales, begin, end, out);
    case 5:
      return AddRows<Row, 5>(rows, scales, begin, end, out);
    case 6:
      return AddRows<Row, 6>(rows, scales, begin, end, out);
    case 7:
      return AddRows<Row, 7>(rows, scales, begin, end, out);
    default:
      return;
  }
}

void AddScaledRows(DType dtype, const RowSet& rows, size_t num_rows, const float* a, size_t column_begin,
                   size_t column_end, float* out) {
  switch (dtype) {
    case DType::kF32:
      return AddScaledRowsOf<F32Row>(rows, num_rows, a, column_begin, column_end, out);
    case DType::kF16:
      return AddScaledRowsOf<F16Row>(rows, num_rows, a, column_begin, column_end, out);
    case DType::kBF16:
      return AddScaledRowsOf<BF16Row>(rows, num_rows, a, column_begin, column_end, out);
    case DType::kQ8_0:
      return AddScaledRowsOf<Q8Row>(rows, num_rows, a, column_begin, column_end, out);
    case DType::kQ4_0:
      return AddScaledRowsOf<Q4Row>(rows, num_rows, a, column_begin, column_end, out);
    default:
      CHECK(false);
  }
}

#else
using scalar::AddScaledRows;
#endif  // !FRUGAL_SCALAR_TARGET
}  // namespace frugal::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace frugal {

HWY_EXPORT(AddScaledRows);

void AddScaledRows(DType dtype, const RowSet& rows, size_t num_rows, const float* a, size_t column_begin,
                   size_t column_end, float* out) {
  CHECK(!IsQuantised(dtype) || (column_begin % kQuantisedBlock == 0 && column_end % kQuantisedBlock == 0));
  HWY_DYNAMIC_DISPATCH(AddScaledRows)(dtype, rows, num_rows, a, column_begin, column_end, out);
}

}  // namespace frugal
#endif  // HWY_ONCE
