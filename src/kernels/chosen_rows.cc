#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/kernels/chosen_rows.cc"
// The order is Highway's.
// clang-format off
#include "src/kernels/highway_targets.h"
#include <hwy/foreach_target.h>
#include <hwy/cache_control.h>
#include <hwy/highway.h>
// clang-format on

#include <algorithm>
#include <utility>

#include "src/base/check.h"
#include "src/kernels/chosen_rows.h"
#include "src/kernels/scalar.h"
#include "src/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace frugal::HWY_NAMESPACE {
#if !FRUGAL_SCALAR_TARGET

// Rows of a token that are multiplied together, each with kParts sums, as the registers allow.
constexpr size_t kRowsAtOnce = kParts == 2 ? 8 : 3;

// Adds columns [0, count) of kRows rows to the lanes of their pairs. `next`: the same columns of the next token, which memory is asked for.
template <class Row, size_t kRows>
HWY_NOINLINE void AddColumns(const std::byte* copies, size_t stride, const uint16_t* row, size_t count, const float* x, const float* next,
                             float* lanes) {
  const FloatTag d;
  const std::byte* rows[kRows];
  for (size_t i = 0; i < kRows; ++i) rows[i] = copies + row[i] * stride;
  FloatVector acc[kRows][kParts];
  FRUGAL_UNROLL
  for (size_t i = 0; i < kRows * kParts; ++i) acc[i / kParts][i % kParts] = hn::Load(d, lanes + i * kWidth);
  const auto step = [&](const std::byte* const (&from)[kRows], const float* token, size_t k) HWY_ATTR {
    FRUGAL_UNROLL
    for (size_t p = 0; p < kParts; ++p) {
      const FloatVector xp = hn::LoadU(d, token + k + p * kWidth);
      FRUGAL_UNROLL
      for (size_t i = 0; i < kRows; ++i) acc[i][p] = hn::MulAdd(Row::Load(d, from[i], k + p * kWidth), xp, acc[i][p]);
    }
  };
  const size_t full = count - count % kLanes;
  for (size_t k = 0; k < full; k += kLanes) {
    hwy::Prefetch(next + k);
    hwy::Prefetch(next + k + kLanes / 2);
    step(rows, x, k);
  }
  if (full < count) {
    RowTail<Row> tails[kRows];
    TokenTail token;
    token.Fill(x, full, count);
    for (size_t i = 0; i < kRows; ++i) {
      tails[i].Fill(rows[i], full, count);
      rows[i] = tails[i].bytes;
    }
    step(rows, token.values, 0);
  }
  FRUGAL_UNROLL
  for (size_t i = 0; i < kRows * kParts; ++i) hn::Store(acc[i / kParts][i % kParts], d, lanes + i * kWidth);
}

using AddColumnsFunction = void (*)(const std::byte*, size_t, const uint16_t*, size_t, const float*, const float*, float*);

template <class Row, size_t... kIndex>
constexpr AddColumnsFunction ChooseAddColumns(size_t num_rows, std::index_sequence<kIndex...>) {
  constexpr AddColumnsFunction kByRows[] = {AddColumns<Row, kIndex + 1>...};
  return kByRows[num_rows - 1];
}

void SumPairs(const float* lanes, size_t num_pairs, float* out) {
  const auto load = [&](size_t pair, FloatVector(&parts)[kParts]) HWY_ATTR {
    FRUGAL_UNROLL
    for (size_t p = 0; p < kParts; ++p) parts[p] = hn::Load(FloatTag(), lanes + pair * kLanes + p * kWidth);
  };
  const hn::CappedTag<float, 4> four;
  size_t pair = 0;
  for (; pair + 4 <= num_pairs; pair += 4) {
    hn::Vec<decltype(four)> sums[4];
    FRUGAL_UNROLL
    for (size_t i = 0; i < 4; ++i) {
      FloatVector parts[kParts];
      load(pair + i, parts);
      sums[i] = SumToFour(parts);
    }
    hn::StoreU(SumFour(sums), four, out + pair);
  }
  for (; pair < num_pairs; ++pair) {
    FloatVector parts[kParts];
    load(pair, parts);
    out[pair] = SumLanes(parts);
  }
}

template <class Row>
void DotChosenRowsOf(const RowSet& rows, size_t num_rows, size_t columns, const float* x, size_t x_stride, size_t num_tokens,
                     const ChosenPairs& pairs, std::byte* copies, float* lanes, float* out) {
  const size_t stride = Row::Offset(std::min(columns, kChosenColumns));
  const size_t num_pairs = pairs.begin[num_tokens];
  std::fill_n(lanes, num_pairs * kLanes, 0.0f);
  for (size_t k = 0; k < columns; k += kChosenColumns) {
    const size_t count = std::min(kChosenColumns, columns - k);
    for (size_t i = 0; i < num_rows; ++i) std::memcpy(copies + i * stride, rows.row(i) + Row::Offset(k), Row::Offset(count));
    for (size_t t = 0; t < num_tokens; ++t) {
      const float* const token = x + t * x_stride + k;
      const float* const next = t + 1 < num_tokens ? token + x_stride : token;
      for (size_t pair = pairs.begin[t], end = pairs.begin[t + 1]; pair < end;) {
        const size_t calls = (end - pair + kRowsAtOnce - 1) / kRowsAtOnce;
        const size_t together = (end - pair + calls - 1) / calls;
        ChooseAddColumns<Row>(together, std::make_index_sequence<kRowsAtOnce>())(copies, stride, pairs.row + pair, count, token, next,
                                                                                lanes + pair * kLanes);
        pair += together;
      }
    }
  }
  SumPairs(lanes, num_pairs, out);
}

void DotChosenRows(DType dtype, const RowSet& rows, size_t num_rows, size_t columns, const float* x, size_t x_stride, size_t num_tokens,
                   const ChosenPairs& pairs, std::byte* copies, float* lanes, float* out) {
  WithFloatRow(dtype, [&](auto row) HWY_ATTR { DotChosenRowsOf<decltype(row)>(rows, num_rows, columns, x, x_stride, num_tokens, pairs, copies, lanes, out); });
}

#else
void DotChosenRows(DType dtype, const RowSet& rows, size_t, size_t columns, const float* x, size_t x_stride, size_t num_tokens,
                   const ChosenPairs& pairs, std::byte*, float*, float* out) {
  for (size_t t = 0; t < num_tokens; ++t) {
    for (size_t pair = pairs.begin[t]; pair < pairs.begin[t + 1]; ++pair) {
      const size_t row = pairs.row[pair];
      scalar::DotRows(dtype, rows.From(row), 0, 1, columns, x + t * x_stride, x_stride, 1, out + pair, 1);
    }
  }
}
#endif  // !FRUGAL_SCALAR_TARGET
}  // namespace frugal::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace frugal {

HWY_EXPORT(DotChosenRows);

void DotChosenRows(DType dtype, const RowSet& rows, size_t num_rows, size_t columns, const float* x, size_t x_stride, size_t num_tokens,
                   const ChosenPairs& pairs, std::byte* copies, float* lanes, float* out) {
  HWY_DYNAMIC_DISPATCH(DotChosenRows)(dtype, rows, num_rows, columns, x, x_stride, num_tokens, pairs, copies, lanes, out);
}

}  // namespace frugal
#endif  // HWY_ONCE
