#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/kernels/row_spans.cc"
// The order is Highway's.
// clang-format off
#include "src/kernels/highway_targets.h"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include <algorithm>
#include <utility>

#include "src/kernels/listed_rows.h"
#include "src/kernels/row_spans.h"
#include "src/kernels/scalar.h"
#include "src/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace frugal::HWY_NAMESPACE {
#if !FRUGAL_SCALAR_TARGET

// Tokens and vectors of columns whose sums are in registers: 12 of AVX2's 16, 24 of the others' 32.
constexpr size_t kTileTokens = kParts == 4 ? 6 : 12;
constexpr size_t kTileVectors = 2;

struct Scales {
  const float* a;  // of row 0 with token 0
  size_t stride;
};

// The rows of `span` to kCount vectors of D of kTokens tokens, in one pass.
template <class Row, size_t kTokens, size_t kCount, class D>
HWY_NOINLINE void AddTile(D d, const RowSet& rows, RowSpan span, const Scales& scales, size_t column, float* out, size_t out_stride) {
  constexpr size_t kStep = hn::MaxLanes(D());
  hn::Vec<D> sum[kTokens][kCount];
  const auto at = [&](size_t i) { return out + i / kCount * out_stride + column + i % kCount * kStep; };
  FRUGAL_UNROLL
  for (size_t i = 0; i < kTokens * kCount; ++i) sum[i / kCount][i % kCount] = hn::LoadU(d, at(i));
  for (uint32_t i = span.begin; i < span.end; ++i) {
    const std::byte* const row = rows.row(i);
    const float* const a = scales.a + i;
    hn::Vec<D> values[kCount];
    FRUGAL_UNROLL
    for (size_t v = 0; v < kCount; ++v) values[v] = Row::Load(d, row, column + v * kStep);
    FRUGAL_UNROLL
    for (size_t t = 0; t < kTokens; ++t) {
      const hn::Vec<D> scale = hn::Set(d, a[t * scales.stride]);
      FRUGAL_UNROLL
      for (size_t v = 0; v < kCount; ++v) sum[t][v] = hn::MulAdd(scale, values[v], sum[t][v]);
    }
  }
  FRUGAL_UNROLL
  for (size_t i = 0; i < kTokens * kCount; ++i) hn::StoreU(sum[i / kCount][i % kCount], d, at(i));
}

template <class Row, size_t kTokens>
void AddSpan(const RowSet& rows, RowSpan span, const Scales& scales, size_t columns, float* out, size_t out_stride) {
  size_t c = 0;
  for (; c + kTileVectors * kWidth <= columns; c += kTileVectors * kWidth) {
    AddTile<Row, kTokens, kTileVectors>(FloatTag(), rows, span, scales, c, out, out_stride);
  }
  for (; c + kWidth <= columns; c += kWidth) AddTile<Row, kTokens, 1>(FloatTag(), rows, span, scales, c, out, out_stride);
  for (; c < columns; ++c) AddTile<Row, kTokens, 1>(OneTag(), rows, span, scales, c, out, out_stride);
}

using AddSpanFunction = void (*)(const RowSet&, RowSpan, const Scales&, size_t, float*, size_t);

template <class Row, size_t... kIndex>
constexpr AddSpanFunction ChooseAddSpan(size_t num_tokens, std::index_sequence<kIndex...>) {
  constexpr AddSpanFunction kByTokens[] = {AddSpan<Row, kIndex + 1>...};
  return kByTokens[num_tokens - 1];
}

void AddCommonSpan(DType dtype, const RowSet& rows, RowSpan span, size_t num_tokens, const Scales& scales, size_t columns, float* out,
                   size_t out_stride) {
  WithFloatRow(dtype, [&](auto row) HWY_ATTR {
    ChooseAddSpan<decltype(row)>(num_tokens, std::make_index_sequence<kTileTokens>())(rows, span, scales, columns, out, out_stride);
  });
}

void AddRowSpans(DType dtype, const RowSet& rows, const RowSpan* spans, size_t num_tokens, const float* a, size_t a_stride,
                 size_t columns, float* out, size_t out_stride) {
  const auto add_alone = [&](size_t t, uint32_t begin, uint32_t end) {
    if (begin >= end) return;
    AddScaledRows(dtype, rows.From(begin), end - begin, a + t * a_stride + begin, 0, columns, out + t * out_stride);
  };
  for (size_t groups = (num_tokens + kTileTokens - 1) / kTileTokens, first = 0; groups > 0; --groups) {
    const size_t count = (num_tokens - first + groups - 1) / groups;
    RowSpan common = spans[first];
    for (size_t t = first + 1; t < first + count; ++t) {
      common.begin = std::max(common.begin, spans[t].begin);
      common.end = std::min(common.end, spans[t].end);
    }
    const size_t size = common.end > common.begin ? common.end - common.begin : 0;
    // A row of 0 is left out, which is not the same as adding it 0 times: -0 would become 0, and a row may have an infinity.
    bool is_whole = size > 0;
    for (size_t t = first; t < first + count && is_whole; ++t) is_whole = CountNonZero(a + t * a_stride + common.begin, size) == size;
    for (size_t t = first; t < first + count; ++t) add_alone(t, spans[t].begin, is_whole ? common.begin : spans[t].end);
    if (is_whole) {
      const Scales scales{a + first * a_stride, a_stride};
      AddCommonSpan(dtype, rows, common, count, scales, columns, out + first * out_stride, out_stride);
      for (size_t t = first; t < first + count; ++t) add_alone(t, common.end, spans[t].end);
    }
    first += count;
  }
}

#else
void AddRowSpans(DType dtype, const RowSet& rows, const RowSpan* spans, size_t num_tokens, const float* a, size_t a_stride,
                 size_t columns, float* out, size_t out_stride) {
  for (size_t t = 0; t < num_tokens; ++t) {
    const size_t begin = spans[t].begin;
    scalar::AddScaledRows(dtype, rows.From(begin), spans[t].end - begin, a + t * a_stride + begin, 0, columns, out + t * out_stride);
  }
}
#endif  // !FRUGAL_SCALAR_TARGET
}  // namespace frugal::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace frugal {

HWY_EXPORT(AddRowSpans);

void AddRowSpans(DType dtype, const RowSet& rows, const RowSpan* spans, size_t num_tokens, const float* a, size_t a_stride,
                 size_t columns, float* out, size_t out_stride) {
  HWY_DYNAMIC_DISPATCH(AddRowSpans)(dtype, rows, spans, num_tokens, a, a_stride, columns, out, out_stride);
}

}  // namespace frugal
#endif  // HWY_ONCE
