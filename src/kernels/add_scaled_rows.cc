#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/kernels/add_scaled_rows.cc"
// The order is Highway's.
// clang-format off
#include "src/kernels/highway_targets.h"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include <algorithm>
#include <bit>
#include <cstring>

#include "src/base/check.h"
#include "src/kernels/block_formats.h"
#include "src/kernels/block_rows.h"
#include "src/kernels/kernels.h"
#include "src/kernels/row_streams.h"
#include "src/kernels/scalar.h"
#include "src/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace frugal::HWY_NAMESPACE {
#if !FRUGAL_SCALAR_TARGET

// Rows are taken eight at a time, each read in the order of its columns: eight streams from memory keep the
// prefetchers busy, and `out`, which stays in the cache, is read and written once for eight rows. Memory is asked
// for the next eight meanwhile.
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

// a[i] * scale of a block of each row, four at a time: one by one that takes as long as the elements of a Q4_0 block.
template <size_t kRows>
HWY_INLINE void MultiplyScales(const std::byte* const (&rows)[kRowsAtOnce], const float (&a)[kRowsAtOnce], size_t offset,
                               float (&scales)[kRowsAtOnce]) {
  const hn::FixedTag<float, 4> d;
  const hn::Rebind<hwy::float16_t, decltype(d)> dh;
  const hn::Rebind<uint16_t, decltype(d)> d16;
  FRUGAL_UNROLL
  for (size_t first = 0; first < kRows; first += 4) {
    auto bits = hn::Zero(d16);
    FRUGAL_UNROLL
    for (size_t i = 0; i < 4; ++i) {
      if (first + i >= kRows) break;
      uint16_t half;
      std::memcpy(&half, rows[first + i] + offset, sizeof(half));
      bits = hn::InsertLane(bits, i, half);
    }
    hn::Store(hn::Mul(hn::LoadU(d, a + first), hn::PromoteTo(d, hn::BitCast(dh, bits))), d, scales + first);
  }
}

// Whole quantised blocks: a[i] * scale once for each block of a row.
template <class Row, size_t kRows>
HWY_INLINE void AddBlock(const std::byte* const (&rows)[kRowsAtOnce], const float (&a)[kRowsAtOnce],
                         size_t column, float* out) {
  const FloatTag d;
  alignas(16) float scales[kRowsAtOnce];
  MultiplyScales<kRows>(rows, a, Row::Offset(column), scales);
  FloatVector sum[kParts];
  FRUGAL_UNROLL
  for (size_t p = 0; p < kParts; ++p) sum[p] = hn::LoadU(d, out + column + p * kWidth);
  FRUGAL_UNROLL
  for (size_t i = 0; i < kRows; ++i) {
    const std::byte* block = rows[i] + Row::Offset(column);
    const FloatVector scale = hn::Set(d, scales[i]);
    FRUGAL_UNROLL
    for (size_t p = 0; p < kParts; ++p) sum[p] = hn::MulAdd(scale, Row::Quants(d, block, p * kWidth), sum[p]);
  }
  FRUGAL_UNROLL
  for (size_t p = 0; p < kParts; ++p) hn::StoreU(sum[p], d, out + column + p * kWidth);
}

// `next`: the rows that come after these.
template <class Row, size_t kRows>
HWY_NOINLINE void AddRows(const std::byte* const (&rows)[kRowsAtOnce], const std::byte* const (&next)[kRowsAtOnce],
                          const float (&a)[kRowsAtOnce], size_t begin, size_t end, float* out) {
  size_t c = begin;
  if constexpr (kIsQuantisedRow<Row>) {
    size_t asked = Row::Offset(begin);
    for (; c < end; c += kLanes) {
      if (asked < Row::Offset(c + kLanes)) {
        FRUGAL_UNROLL
        for (size_t i = 0; i < kRowsAtOnce; ++i) AskForGathered(next[i] + asked);
        asked += kLineBytes;
      }
      AddBlock<Row, kRows>(rows, a, c, out);
    }
    return;
  }
  for (; c + 4 * kWidth <= end; c += 4 * kWidth) {
    for (size_t at = Row::Offset(c); at < Row::Offset(c + 4 * kWidth); at += kLineBytes) {
      FRUGAL_UNROLL
      for (size_t i = 0; i < kRowsAtOnce; ++i) AskForGathered(next[i] + at);
    }
    AddColumns<Row, kRows, 4>(FloatTag(), rows, a, c, out);
  }
  for (; c + kWidth <= end; c += kWidth) AddColumns<Row, kRows, 1>(FloatTag(), rows, a, c, out);
  for (; c < end; ++c) AddColumns<Row, kRows, 1>(OneTag(), rows, a, c, out);
}

using AddRowsFunction = void (*)(const std::byte* const (&)[kRowsAtOnce], const std::byte* const (&)[kRowsAtOnce],
                                 const float (&)[kRowsAtOnce], size_t, size_t, float*);
// By the number of rows, from 1.
template <class Row>
constexpr AddRowsFunction kAddRows[kRowsAtOnce] = {AddRows<Row, 1>, AddRows<Row, 2>, AddRows<Row, 3>, AddRows<Row, 4>,
                                                   AddRows<Row, 5>, AddRows<Row, 6>, AddRows<Row, 7>, AddRows<Row, 8>};

// The rows whose a[i] is not 0, in order. Most are 0: they are looked at 32 at a time.
class NonZeroRows {
 public:
  NonZeroRows(const float* a, size_t num_rows) : a_(a), num_rows_(num_rows) {}
  // Puts the next of them, at most kRowsAtOnce, into `rows` and `scales`; gives how many there are.
  HWY_INLINE size_t Next(const RowSet& set, const std::byte* (&rows)[kRowsAtOnce], float (&scales)[kRowsAtOnce]) {
    size_t count = 0;
    while (count < kRowsAtOnce) {
      while (bits_ == 0) {
        if (next_ >= num_rows_) return count;
        first_ = next_;
        next_ = std::min(num_rows_, first_ + kLanes);
        bits_ = NonZeroBits(a_ + first_, next_ - first_);
      }
      const size_t row = first_ + static_cast<size_t>(std::countr_zero(bits_));
      bits_ &= bits_ - 1;
      rows[count] = set.row(row);
      scales[count++] = a_[row];
    }
    return count;
  }

 private:
  const float* a_;
  size_t num_rows_;
  size_t next_ = 0;   // the first row whose bit is not in bits_ or behind it
  size_t first_ = 0;  // the row of the lowest bit
  uint32_t bits_ = 0;
};

template <class Row>
void AddScaledRowsOf(const RowSet& set, size_t num_rows, const float* a, size_t begin, size_t end,
                     float* out) {
  // Two groups of rows: the one that is added and the one that memory is asked for meanwhile.
  const std::byte* groups[2][kRowsAtOnce];
  float scales[2][kRowsAtOnce] = {};
  NonZeroRows non_zero(a, num_rows);
  size_t count = non_zero.Next(set, groups[0], scales[0]);
  for (size_t group = 0; count > 0; group ^= 1) {
    const auto& rows = groups[group];
    const size_t next_count = non_zero.Next(set, groups[group ^ 1], scales[group ^ 1]);
    for (size_t i = next_count; i < kRowsAtOnce; ++i) groups[group ^ 1][i] = rows[0];
    const auto& next = groups[group ^ 1];
    kAddRows<Row>[count - 1](rows, next, scales[group], begin, end, out);
    count = next_count;
  }
}

void AddScaledRows(DType dtype, const RowSet& rows, size_t num_rows, const float* a, size_t column_begin,
                   size_t column_end, float* out) {
  WithRow(dtype, [&](auto row) HWY_ATTR { AddScaledRowsOf<decltype(row)>(rows, num_rows, a, column_begin, column_end, out); });
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
  if (HasBlockFormat(dtype)) return AddScaledRowsOfBlocks(dtype, rows, num_rows, a, column_begin, column_end, out);
  HWY_DYNAMIC_DISPATCH(AddScaledRows)(dtype, rows, num_rows, a, column_begin, column_end, out);
}

}  // namespace frugal
#endif  // HWY_ONCE
