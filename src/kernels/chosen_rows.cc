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
#include <type_traits>
#include <utility>

#include "src/base/check.h"
#include "src/kernels/chosen_rows.h"
#include "src/kernels/copy_rows.h"
#include "src/kernels/scalar.h"
#include "src/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace frugal::HWY_NAMESPACE {
#if !FRUGAL_SCALAR_TARGET

// Rows that are multiplied together with kTokens tokens, each product with kParts sums, as the registers allow.
template <size_t kTokens>
constexpr size_t kRowsAtOnce = kTokens == 1 ? (kParts == 2 ? 8 : 3) : (kParts == 2 ? 6 : 1);

// The columns of kTokens tokens, the lanes of their pairs, and the same columns of later tokens, which memory is asked for.
template <size_t kTokens>
struct TokenColumns {
  const float* x[kTokens];
  const float* next[kTokens];
  float* lanes[kTokens];
};

// Adds columns [0, count) of kRows rows, which all of the tokens chose, to the lanes of their pairs.
template <class Row, size_t kTokens, size_t kRows>
HWY_NOINLINE void AddColumns(const std::byte* copies, size_t stride, const uint16_t* row, size_t count,
                             const TokenColumns<kTokens>& tokens) {
  const FloatTag d;
  const std::byte* rows[kRows];
  const float* x[kTokens];
  for (size_t i = 0; i < kRows; ++i) rows[i] = copies + row[i] * stride;
  for (size_t t = 0; t < kTokens; ++t) x[t] = tokens.x[t];
  FloatVector acc[kTokens][kRows * kParts];
  FRUGAL_UNROLL
  for (size_t t = 0; t < kTokens; ++t) {
    FRUGAL_UNROLL
    for (size_t i = 0; i < kRows * kParts; ++i) acc[t][i] = hn::Load(d, tokens.lanes[t] + i * kWidth);
  }
  const auto step = [&](size_t k) HWY_ATTR {
    FRUGAL_UNROLL
    for (size_t p = 0; p < kParts; ++p) {
      FloatVector xp[kTokens];
      FRUGAL_UNROLL
      for (size_t t = 0; t < kTokens; ++t) xp[t] = hn::LoadU(d, x[t] + k + p * kWidth);
      FRUGAL_UNROLL
      for (size_t i = 0; i < kRows; ++i) {
        const FloatVector w = Row::Load(d, rows[i], k + p * kWidth);
        FRUGAL_UNROLL
        for (size_t t = 0; t < kTokens; ++t) acc[t][i * kParts + p] = hn::MulAdd(w, xp[t], acc[t][i * kParts + p]);
      }
    }
  };
  const size_t full = count - count % kLanes;
  for (size_t k = 0; k < full; k += kLanes) {
    FRUGAL_UNROLL
    for (size_t t = 0; t < kTokens; ++t) {
      hwy::Prefetch(tokens.next[t] + k);
      hwy::Prefetch(tokens.next[t] + k + kLanes / 2);
    }
    step(k);
  }
  if (full < count) {
    RowTail<Row> row_tails[kRows];
    TokenTail token_tails[kTokens];
    for (size_t i = 0; i < kRows; ++i) {
      row_tails[i].Fill(rows[i], full, count);
      rows[i] = row_tails[i].bytes;
    }
    for (size_t t = 0; t < kTokens; ++t) {
      token_tails[t].Fill(x[t], full, count);
      x[t] = token_tails[t].values;
    }
    step(0);
  }
  FRUGAL_UNROLL
  for (size_t t = 0; t < kTokens; ++t) {
    FRUGAL_UNROLL
    for (size_t i = 0; i < kRows * kParts; ++i) hn::Store(acc[t][i], d, tokens.lanes[t] + i * kWidth);
  }
}

template <size_t kTokens>
using AddColumnsFunction = void (*)(const std::byte*, size_t, const uint16_t*, size_t, const TokenColumns<kTokens>&);

template <class Row, size_t kTokens, size_t... kIndex>
constexpr AddColumnsFunction<kTokens> ChooseAddColumns(size_t num_rows, std::index_sequence<kIndex...>) {
  constexpr AddColumnsFunction<kTokens> kByRows[] = {AddColumns<Row, kTokens, kIndex + 1>...};
  return kByRows[num_rows - 1];
}

// The columns of num_rows rows, in calls of about the same size.
template <class Row, size_t kTokens>
void AddColumnsOfRows(const std::byte* copies, size_t stride, const uint16_t* row, size_t num_rows, size_t count,
                      TokenColumns<kTokens> tokens) {
  constexpr size_t kMost = kRowsAtOnce<kTokens>;
  for (size_t calls = (num_rows + kMost - 1) / kMost; calls > 0; --calls) {
    const size_t together = (num_rows + calls - 1) / calls;
    ChooseAddColumns<Row, kTokens>(together, std::make_index_sequence<kMost>())(copies, stride, row, count, tokens);
    for (float*& lanes : tokens.lanes) lanes += together * kLanes;
    row += together;
    num_rows -= together;
  }
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

// Columns [k, k + count) of all rows as float.
template <class Row>
void ConvertRows(const RowSet& rows, size_t k, size_t num_rows, size_t count, float* copies) {
  for (size_t i = 0; i < num_rows; ++i, copies += count) {
    AskForLaterRow(rows, i, num_rows, Row::Offset(k), Row::Offset(count));
    const std::byte* const from = rows.row(i) + Row::Offset(k);
    size_t at = 0;
    for (; at + kLanes <= count; at += kLanes) {
      FRUGAL_UNROLL
      for (size_t p = 0; p < kParts; ++p) hn::StoreU(Row::Load(FloatTag(), from, at + p * kWidth), FloatTag(), copies + at + p * kWidth);
    }
    for (; at < count; ++at) hn::StoreU(Row::Load(OneTag(), from, at), OneTag(), copies + at);
  }
}

// kAsFloats: the copies are floats, half as many columns in the same room.
template <class Row, bool kAsFloats>
void DotCopies(const RowSet& rows, size_t num_rows, size_t columns, const float* x, size_t x_stride, size_t num_tokens,
               const ChosenPairs& pairs, std::byte* copies, float* lanes, float* out) {
  using Copy = std::conditional_t<kAsFloats, F32Row, Row>;
  const size_t num_pairs = pairs.begin[num_tokens];
  const size_t most = kAsFloats ? std::min(columns, kChosenColumns) / 2 / kLanes * kLanes : kChosenColumns;
  std::fill_n(lanes, num_pairs * kLanes, 0.0f);
  for (size_t k = 0; k < columns; k += most) {
    const size_t count = std::min(most, columns - k);
    const size_t stride = Copy::Offset(count);
    if constexpr (kAsFloats) {
      ConvertRows<Row>(rows, k, num_rows, count, reinterpret_cast<float*>(copies));
    } else {
      CopyRows(rows, Row::Offset(k), num_rows, stride, copies);
    }
    for (size_t t = 0; t < num_tokens; t += 2) {
      // Where the last token has no neighbour, it shares nothing.
      const size_t in_pair = std::min<size_t>(2, num_tokens - t), shared = in_pair == 2 ? pairs.shared[t / 2] : 0;
      TokenColumns<2> both;
      for (size_t i = 0; i < 2; ++i) {
        const size_t token = t + i % in_pair;
        both.x[i] = x + token * x_stride + k;
        both.next[i] = token + 2 < num_tokens ? both.x[i] + 2 * x_stride : both.x[i];
        both.lanes[i] = lanes + pairs.begin[token] * kLanes;
      }
      AddColumnsOfRows<Copy>(copies, stride, pairs.row + pairs.begin[t], shared, count, both);
      for (size_t i = 0; i < in_pair; ++i) {
        const size_t first = pairs.begin[t + i] + shared;
        const TokenColumns<1> own = {{both.x[i]}, {both.next[i]}, {lanes + first * kLanes}};
        AddColumnsOfRows<Copy>(copies, stride, pairs.row + first, pairs.begin[t + i + 1] - first, count, own);
      }
    }
  }
  SumPairs(lanes, num_pairs, out);
}

// AVX2 takes twice as long to convert a weight as to multiply it, so that is done once for all tokens; with NEON, not measured, too.
template <class Row>
void DotChosenRowsOf(const RowSet& rows, size_t num_rows, size_t columns, const float* x, size_t x_stride, size_t num_tokens,
                     const ChosenPairs& pairs, std::byte* copies, float* lanes, float* out) {
  if constexpr (kParts >= 4 && !std::is_same_v<Row, F32Row>) {
    if (columns >= 2 * kLanes) {
      return DotCopies<Row, true>(rows, num_rows, columns, x, x_stride, num_tokens, pairs, copies, lanes, out);
    }
  }
  DotCopies<Row, false>(rows, num_rows, columns, x, x_stride, num_tokens, pairs, copies, lanes, out);
}

void DotChosenRows(DType dtype, const RowSet& rows, size_t num_rows, size_t columns, const float* x, size_t x_stride, size_t num_tokens,
                   const ChosenPairs& pairs, std::byte* copies, float* lanes, float* out) {
  WithFloatRow(dtype, [&](auto row) HWY_ATTR {
    DotChosenRowsOf<decltype(row)>(rows, num_rows, columns, x, x_stride, num_tokens, pairs, copies, lanes, out);
  });
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
