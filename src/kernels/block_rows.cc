#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/kernels/block_rows.cc"
// The order is Highway's.
// clang-format off
#include "src/kernels/highway_targets.h"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include <algorithm>
#include <cstring>

#include "src/kernels/block_formats.h"
#include "src/kernels/block_rows.h"
#include "src/kernels/scalar.h"
#include "src/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace frugal::HWY_NAMESPACE {
#if !FRUGAL_SCALAR_TARGET

// Columns that become float together: 1 KiB, which stays in the L1 cache beside the tokens' columns. A block of any type, or several.
constexpr size_t kPieceColumns = 256;
// Tokens whose lanes are kept while a row's pieces go by.
constexpr size_t kTokensAtOnce = 64;
static_assert(kPartElements == kLanes);

HWY_INLINE float FloatOfHalf(const std::byte* at) { return hn::GetLane(BlockScale(hn::FixedTag<float, 4>(), at)); }

// Columns [k, k + count) of a row, whole parts.
template <class Format>
HWY_INLINE void PieceToFloat(const std::byte* row, size_t k, size_t count, float* w) {
  for (size_t done = 0; done < count;) {
    const std::byte* const block = row + (k + done) / Format::kElements * Format::kBytes;
    const size_t first = (k + done) % Format::kElements;
    const size_t size = std::min(count - done, Format::kElements - first);
    const float d = FloatOfHalf(block + Format::kScaleAt);
    const float m = Format::kHasMins ? FloatOfHalf(block + Format::kMinAt) : 0.0f;
    float scales[Format::kElements / Format::kGroupElements], mins[Format::kElements / Format::kGroupElements];
    Format::Scales(block, d, m, scales, mins);
    for (size_t i = 0; i < size; i += kPartElements) {
      PartToFloat<Format>(block, (first + i) / kPartElements, scales, mins, w + done + i);
    }
    done += size;
  }
}

// The lanes of kTokens tokens over a piece.
template <size_t kTokens>
HWY_INLINE void AddToLanes(const float* w, const float* x, size_t x_stride, size_t count, float (*lanes)[kLanes]) {
  const FloatTag d;
  FloatVector acc[kTokens][kParts];
  FRUGAL_UNROLL
  for (size_t i = 0; i < kTokens * kParts; ++i) acc[i / kParts][i % kParts] = hn::Load(d, lanes[i / kParts] + i % kParts * kWidth);
  for (size_t k = 0; k < count; k += kLanes) {
    FRUGAL_UNROLL
    for (size_t p = 0; p < kParts; ++p) {
      const FloatVector weights = hn::Load(d, w + k + p * kWidth);
      FRUGAL_UNROLL
      for (size_t t = 0; t < kTokens; ++t) {
        acc[t][p] = hn::MulAdd(weights, hn::LoadU(d, x + t * x_stride + k + p * kWidth), acc[t][p]);
      }
    }
  }
  FRUGAL_UNROLL
  for (size_t i = 0; i < kTokens * kParts; ++i) hn::Store(acc[i / kParts][i % kParts], d, lanes[i / kParts] + i % kParts * kWidth);
}

// One row, at most kTokensAtOnce tokens.
template <class Format>
HWY_NOINLINE void DotRow(const std::byte* row, size_t columns, const float* x, size_t x_stride, size_t num_tokens, float* out,
                         size_t out_stride) {
  alignas(64) float w[kPieceColumns];
  alignas(64) float lanes[kTokensAtOnce][kLanes];
  std::memset(lanes, 0, num_tokens * sizeof(lanes[0]));
  for (size_t k = 0; k < columns; k += kPieceColumns) {
    const size_t count = std::min(kPieceColumns, columns - k);
    PieceToFloat<Format>(row, k, count, w);
    size_t t = 0;
    for (; t + 2 <= num_tokens; t += 2) AddToLanes<2>(w, x + t * x_stride + k, x_stride, count, lanes + t);
    if (t < num_tokens) AddToLanes<1>(w, x + t * x_stride + k, x_stride, count, lanes + t);
  }
  const FloatTag d;
  for (size_t t = 0; t < num_tokens; ++t) {
    FloatVector parts[kParts];
    FRUGAL_UNROLL
    for (size_t p = 0; p < kParts; ++p) parts[p] = hn::Load(d, lanes[t] + p * kWidth);
    out[t * out_stride] = SumLanes(parts);
  }
}

void DotRowsOfBlocks(DType dtype, const RowSet& rows, size_t begin, size_t end, size_t columns, const float* x, size_t x_stride,
                     size_t num_tokens, float* out, size_t out_stride) {
  WithBlockFormat(dtype, [&](auto format) {
    for (size_t t = 0; t < num_tokens; t += kTokensAtOnce) {
      const size_t count = std::min(kTokensAtOnce, num_tokens - t);
      for (size_t i = begin; i < end; ++i) {
        DotRow<decltype(format)>(rows.row(i), columns, x + t * x_stride, x_stride, count, out + t * out_stride + i, out_stride);
      }
    }
  });
}

// One row times a; `out` stays in the cache from row to row.
template <class Format>
HWY_NOINLINE void AddScaledRow(const std::byte* row, float a, size_t begin, size_t end, float* out) {
  const FloatTag d;
  const FloatVector scale = hn::Set(d, a);
  alignas(64) float w[kPieceColumns];
  for (size_t c = begin; c < end;) {
    const size_t count = std::min(kPieceColumns - c % kPieceColumns, end - c);  // the pieces begin where blocks do
    PieceToFloat<Format>(row, c, count, w);
    for (size_t i = 0; i < count; i += kWidth) {
      hn::StoreU(hn::MulAdd(scale, hn::Load(d, w + i), hn::LoadU(d, out + c + i)), d, out + c + i);
    }
    c += count;
  }
}

void AddScaledRowsOfBlocks(DType dtype, const RowSet& rows, size_t num_rows, const float* a, size_t column_begin, size_t column_end,
                           float* out) {
  WithBlockFormat(dtype, [&](auto format) {
    for (size_t i = 0; i < num_rows; ++i) {
      if (a[i] != 0.0f) AddScaledRow<decltype(format)>(rows.row(i), a[i], column_begin, column_end, out);
    }
  });
}

template <class Format>
HWY_NOINLINE void RowToFloat(const std::byte* row, size_t size, float* to) {
  PieceToFloat<Format>(row, 0, size, to);
}

void BlocksToFloat(DType dtype, const std::byte* from, size_t size, float* to) {
  WithBlockFormat(dtype, [&](auto format) { RowToFloat<decltype(format)>(from, size, to); });
}

#else
void DotRowsOfBlocks(DType dtype, const RowSet& rows, size_t begin, size_t end, size_t columns, const float* x, size_t x_stride,
                     size_t num_tokens, float* out, size_t out_stride) {
  scalar::DotRows(dtype, rows, begin, end, columns, x, x_stride, num_tokens, out, out_stride);
}
void AddScaledRowsOfBlocks(DType dtype, const RowSet& rows, size_t num_rows, const float* a, size_t column_begin, size_t column_end,
                           float* out) {
  scalar::AddScaledRows(dtype, rows, num_rows, a, column_begin, column_end, out);
}
void BlocksToFloat(DType dtype, const std::byte* from, size_t size, float* to) { scalar::ConvertToFloat(dtype, from, size, to); }
#endif  // !FRUGAL_SCALAR_TARGET
}  // namespace frugal::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace frugal {

HWY_EXPORT(DotRowsOfBlocks);
HWY_EXPORT(AddScaledRowsOfBlocks);
HWY_EXPORT(BlocksToFloat);

void DotRowsOfBlocks(DType dtype, const RowSet& rows, size_t begin, size_t end, size_t columns, const float* x, size_t x_stride,
                     size_t num_tokens, float* out, size_t out_stride) {
  HWY_DYNAMIC_DISPATCH(DotRowsOfBlocks)(dtype, rows, begin, end, columns, x, x_stride, num_tokens, out, out_stride);
}
void AddScaledRowsOfBlocks(DType dtype, const RowSet& rows, size_t num_rows, const float* a, size_t column_begin, size_t column_end,
                           float* out) {
  HWY_DYNAMIC_DISPATCH(AddScaledRowsOfBlocks)(dtype, rows, num_rows, a, column_begin, column_end, out);
}
void BlocksToFloat(DType dtype, const std::byte* from, size_t size, float* to) {
  HWY_DYNAMIC_DISPATCH(BlocksToFloat)(dtype, from, size, to);
}

}  // namespace frugal
#endif  // HWY_ONCE
