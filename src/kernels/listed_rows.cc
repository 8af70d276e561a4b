#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/kernels/listed_rows.cc"
// The order is Highway's.
// clang-format off
#include "src/kernels/highway_targets.h"
#include <hwy/foreach_target.h>
#include <hwy/cache_control.h>
#include <hwy/highway.h>
// clang-format on

#include <algorithm>
#include <bit>

#include "src/base/check.h"
#include "src/kernels/block_formats.h"
#include "src/kernels/listed_rows.h"
#include "src/kernels/scalar.h"
#include "src/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace frugal::HWY_NAMESPACE {
#if !FRUGAL_SCALAR_TARGET

// Vectors of a token's sum in registers: half of AVX2's 16. Whole blocks of 32 on every instruction set.
constexpr size_t kVectors = 8;
static_assert(kVectors % kParts == 0);

// Columns [column, column + kCount vectors of D) of one token.
template <class Row, size_t kCount, class D>
HWY_INLINE void AddColumns(D d, const RowSet& rows, const ListedRow* list, size_t count, size_t column, float* out) {
  constexpr size_t kStep = hn::MaxLanes(D());
  hn::Vec<D> sum[kCount];
  FRUGAL_UNROLL
  for (size_t v = 0; v < kCount; ++v) sum[v] = hn::LoadU(d, out + column + v * kStep);
  for (size_t i = 0; i < count; ++i) {
    const std::byte* const row = rows.row(list[i].row);
    const hn::Vec<D> scale = hn::Set(d, list[i].scale);
    FRUGAL_UNROLL
    for (size_t v = 0; v < kCount; ++v) sum[v] = hn::MulAdd(scale, Row::Load(d, row, column + v * kStep), sum[v]);
  }
  FRUGAL_UNROLL
  for (size_t v = 0; v < kCount; ++v) hn::StoreU(sum[v], d, out + column + v * kStep);
}

// Whole quantised blocks: scale * the block's scale once for each block of a row.
template <class Row, size_t kBlocks>
HWY_INLINE void AddBlocks(const RowSet& rows, const ListedRow* list, size_t count, size_t column, float* out) {
  const FloatTag d;
  FloatVector sum[kBlocks][kParts];
  FRUGAL_UNROLL
  for (size_t v = 0; v < kBlocks * kParts; ++v) sum[v / kParts][v % kParts] = hn::LoadU(d, out + column + v * kWidth);
  for (size_t i = 0; i < count; ++i) {
    const std::byte* block = rows.row(list[i].row) + Row::Offset(column);
    const FloatVector scale = hn::Set(d, list[i].scale);
    FRUGAL_UNROLL
    for (size_t b = 0; b < kBlocks; ++b, block += Row::kGroupBytes) {
      const FloatVector block_scale = hn::Mul(scale, BlockScale(d, block));
      FRUGAL_UNROLL
      for (size_t p = 0; p < kParts; ++p) sum[b][p] = hn::MulAdd(block_scale, Row::Quants(d, block, p * kWidth), sum[b][p]);
    }
  }
  FRUGAL_UNROLL
  for (size_t v = 0; v < kBlocks * kParts; ++v) hn::StoreU(sum[v / kParts][v % kParts], d, out + column + v * kWidth);
}

// The same columns of all tokens, one after the other: add(list, count, out).
template <class Add>
HWY_INLINE void ForEachToken(const RowLists& lists, size_t num_tokens, size_t column, float* out, size_t out_stride, const Add& add) {
  for (size_t t = 0; t < num_tokens; ++t, out += out_stride) {
    if (t + 1 < num_tokens) {
      const float* const next = out + out_stride + column;
      FRUGAL_UNROLL
      for (size_t v = 0; v < kVectors; ++v) hwy::Prefetch(next + v * kWidth);
      hwy::Prefetch(lists.entries + lists.begin[t + 1]);
    }
    add(lists.entries + lists.begin[t], lists.begin[t + 1] - lists.begin[t], out);
  }
}

template <class Row>
void AddListedRowsOf(const RowSet& rows, const RowLists& lists, size_t num_tokens, size_t columns, float* out, size_t out_stride) {
  size_t c = 0;
  const auto for_each_token = [&](const auto& add) HWY_ATTR { ForEachToken(lists, num_tokens, c, out, out_stride, add); };
  using Entries = const ListedRow*;
  if constexpr (kIsQuantisedRow<Row>) {
    for (; c + kVectors * kWidth <= columns; c += kVectors * kWidth) {
      for_each_token([&](Entries list, size_t n, float* to) HWY_ATTR { AddBlocks<Row, kVectors / kParts>(rows, list, n, c, to); });
    }
    for (; c < columns; c += kLanes) {
      for_each_token([&](Entries list, size_t n, float* to) HWY_ATTR { AddBlocks<Row, 1>(rows, list, n, c, to); });
    }
  } else {
    for (; c + kVectors * kWidth <= columns; c += kVectors * kWidth) {
      for_each_token([&](Entries list, size_t n, float* to) HWY_ATTR { AddColumns<Row, kVectors>(FloatTag(), rows, list, n, c, to); });
    }
    for (; c + kWidth <= columns; c += kWidth) {
      for_each_token([&](Entries list, size_t n, float* to) HWY_ATTR { AddColumns<Row, 1>(FloatTag(), rows, list, n, c, to); });
    }
    for (; c < columns; ++c) {
      for_each_token([&](Entries list, size_t n, float* to) HWY_ATTR { AddColumns<Row, 1>(OneTag(), rows, list, n, c, to); });
    }
  }
}

void AddListedRows(DType dtype, const RowSet& rows, const RowLists& lists, size_t num_tokens, size_t columns, float* out,
                   size_t out_stride) {
  WithRow(dtype, [&](auto row) HWY_ATTR { AddListedRowsOf<decltype(row)>(rows, lists, num_tokens, columns, out, out_stride); });
}

// AVX2 takes twice as long to convert a weight as to multiply it; with NEON this is not measured.
bool ConvertsOnce() { return kParts >= 4; }

uint32_t ListNonZero(const float* a, size_t num_rows, ListedRow* list) {
  uint32_t count = 0;
  for (size_t first = 0; first < num_rows; first += kLanes) {
    for (uint32_t bits = NonZeroBits(a + first, std::min(kLanes, num_rows - first)); bits != 0; bits &= bits - 1) {
      const size_t row = first + static_cast<size_t>(std::countr_zero(bits));
      list[count++] = {static_cast<uint32_t>(row), a[row]};
    }
  }
  return count;
}

uint64_t CountNonZero(const float* a, size_t num_rows) {
  uint64_t count = 0;
  for (size_t first = 0; first < num_rows; first += kLanes) {
    count += static_cast<uint64_t>(std::popcount(NonZeroBits(a + first, std::min(kLanes, num_rows - first))));
  }
  return count;
}

#else
void AddListedRows(DType dtype, const RowSet& rows, const RowLists& lists, size_t num_tokens, size_t columns, float* out,
                   size_t out_stride) {
  for (size_t t = 0; t < num_tokens; ++t) {
    for (size_t i = lists.begin[t]; i < lists.begin[t + 1]; ++i) {
      const ListedRow& listed = lists.entries[i];
      scalar::AddScaledRows(dtype, rows.From(listed.row), 1, &listed.scale, 0, columns, out + t * out_stride);
    }
  }
}

bool ConvertsOnce() { return false; }

uint32_t ListNonZero(const float* a, size_t num_rows, ListedRow* list) {
  uint32_t count = 0;
  for (size_t i = 0; i < num_rows; ++i) {
    if (a[i] != 0.0f) list[count++] = {static_cast<uint32_t>(i), a[i]};
  }
  return count;
}

uint64_t CountNonZero(const float* a, size_t num_rows) { return num_rows - static_cast<uint64_t>(std::count(a, a + num_rows, 0.0f)); }
#endif  // !FRUGAL_SCALAR_TARGET
}  // namespace frugal::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace frugal {

HWY_EXPORT(ConvertsOnce);
HWY_EXPORT(CountNonZero);
HWY_EXPORT(ListNonZero);
HWY_EXPORT(AddListedRows);

DType ListedType(DType dtype) {
  const bool as_floats = HasBlockFormat(dtype) || (IsFloat(dtype) && HWY_DYNAMIC_DISPATCH(ConvertsOnce)());
  return as_floats ? DType::kF32 : dtype;
}

uint32_t ListNonZero(const float* a, size_t num_rows, ListedRow* list) { return HWY_DYNAMIC_DISPATCH(ListNonZero)(a, num_rows, list); }

uint64_t CountNonZero(const float* a, size_t num_rows) { return HWY_DYNAMIC_DISPATCH(CountNonZero)(a, num_rows); }

void AddListedRows(DType dtype, const RowSet& rows, const RowLists& lists, size_t num_tokens, size_t columns, float* out,
                   size_t out_stride) {
  CHECK(!IsQuantised(dtype) || columns % kQuantisedBlock == 0);
  HWY_DYNAMIC_DISPATCH(AddListedRows)(dtype, rows, lists, num_tokens, columns, out, out_stride);
}

}  // namespace frugal
#endif  // HWY_ONCE
