#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/kernels/block_rows.cc"
// The order is Highway's.
// clang-format off
#include "src/kernels/highway_targets.h"
#include <hwy/foreach_target.h>
#include <hwy/cache_control.h>
#include <hwy/highway.h>
// clang-format on

#include <algorithm>
#include <cstring>
#include <type_traits>

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

// Scale and minimum of each group of a block.
template <class Format>
struct BlockScales {
  static constexpr size_t kGroups = Format::kElements / Format::kGroupElements;
  alignas(64) float scales[kGroups];
  alignas(64) float mins[kGroups];

  HWY_INLINE void Read(const std::byte* block) {
    const float d = FloatOfHalf(block + Format::kScaleAt);
    const float m = Format::kHasMins ? FloatOfHalf(block + Format::kMinAt) : 0.0f;
    if constexpr (kGroups == 1) {
      scales[0] = d;
      mins[0] = m;
    } else {
      EightBytes of_scales[kGroups / 8], of_mins[kGroups / 8];
      Format::Groups(block, of_scales, of_mins);
      Multiply(of_scales, d, scales);
      if constexpr (Format::kHasMins) Multiply(of_mins, -m, mins);
    }
  }

 private:
  static HWY_INLINE void Multiply(const EightBytes* integers, float factor, float* out) {
    const hn::CappedTag<float, 8> d;
    const hn::Rebind<int8_t, decltype(d)> d8;
    const hn::Rebind<int32_t, decltype(d)> d32;
    const int8_t* const from = reinterpret_cast<const int8_t*>(integers);
    for (size_t g = 0; g < kGroups; g += hn::Lanes(d)) {
      hn::Store(hn::Mul(hn::ConvertTo(d, hn::PromoteTo(d32, hn::LoadU(d8, from + g))), hn::Set(d, factor)), d, out + g);
    }
  }
};

template <class Format>
HWY_INLINE void LoadQuants(Format, const std::byte* block, size_t part, EightBytes* quants) {
  Format::Quants(block, part, quants);
}

HWY_INLINE void LoadQuants(Iq4NlFormat, const std::byte* block, size_t, EightBytes* quants) {
  const hn::FixedTag<uint8_t, 16> d;
  const auto values = hn::LoadU(d, reinterpret_cast<const uint8_t*>(Iq4NlFormat::kValues));
  const auto pairs = hn::LoadU(d, reinterpret_cast<const uint8_t*>(block) + Iq4NlFormat::kQuantsAt);
  uint8_t* const to = reinterpret_cast<uint8_t*>(quants);
  hn::StoreU(hn::TableLookupBytes(values, hn::And(pairs, hn::Set(d, 15))), d, to);
  hn::StoreU(hn::TableLookupBytes(values, hn::ShiftRight<4>(pairs)), d, to + 16);
}

// GCC makes two halves of this one, a vector and words, that a load of the whole waits for: 3 instead of 9 GB/s in the down sum.
HWY_INLINE void LoadQuants(Q4KFormat, const std::byte* block, size_t part, EightBytes* quants) {
  const hn::FixedTag<uint8_t, 16> d;
  const uint8_t* const from = reinterpret_cast<const uint8_t*>(block) + Q4KFormat::kQuantsAt + part / 2 * 32;
  uint8_t* const to = reinterpret_cast<uint8_t*>(quants);
  for (size_t i = 0; i < kPartElements; i += 16) {
    const auto pairs = hn::LoadU(d, from + i);
    hn::StoreU(part % 2 == 0 ? hn::And(pairs, hn::Set(d, 15)) : hn::ShiftRight<4>(pairs), d, to + i);
  }
}

// Elements 32 * part .. of a block as float, a vector at a time: f(p, vector p of kParts).
template <class Format, class F>
HWY_INLINE void ForWeights(const std::byte* block, size_t part, const BlockScales<Format>& block_scales, const F& f) {
  const FloatTag d;
  using Stored = std::conditional_t<Format::kSigned, int8_t, uint8_t>;
  const hn::Rebind<Stored, FloatTag> d8;
  const hn::Rebind<int32_t, FloatTag> d32;
  EightBytes quants[4];
  LoadQuants(Format(), block, part, quants);
  FRUGAL_UNROLL
  for (size_t p = 0; p < kParts; ++p) {
    const size_t group = (part * kPartElements + p * kWidth) / Format::kGroupElements;
    auto q = hn::PromoteTo(d32, hn::LoadU(d8, reinterpret_cast<const Stored*>(quants) + p * kWidth));
    if constexpr (Format::kOffset != 0) q = hn::Sub(q, hn::Set(d32, Format::kOffset));
    auto weights = hn::Mul(hn::ConvertTo(d, q), hn::Set(d, block_scales.scales[group]));
    if constexpr (Format::kHasMins) weights = hn::Add(weights, hn::Set(d, block_scales.mins[group]));
    f(p, weights);
  }
}

// Columns [k, k + count) of a row, whole parts.
template <class Format>
HWY_INLINE void PieceToFloat(const std::byte* row, size_t k, size_t count, float* w) {
  for (size_t done = 0; done < count;) {
    const std::byte* const block = row + (k + done) / Format::kElements * Format::kBytes;
    const size_t first = (k + done) % Format::kElements;
    const size_t size = std::min(count - done, Format::kElements - first);
    BlockScales<Format> scales;
    scales.Read(block);
    for (size_t i = 0; i < size; i += kPartElements) {
      ForWeights(block, (first + i) / kPartElements, scales,
                 [&](size_t p, FloatVector weights) HWY_ATTR { hn::StoreU(weights, FloatTag(), w + done + i + p * kWidth); });
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

// Rows whose factor is not 0, as many as are added in one pass over `out`: it stays in the cache, and memory is asked for the next rows
// meanwhile.
struct FactoredRows {
  static constexpr size_t kMost = 8;
  const std::byte* rows[kMost];
  float factors[kMost];
  size_t count = 0;

  // Row `i` on; gives the row behind the last one taken.
  size_t Take(const RowSet& set, size_t i, size_t num_rows, const float* a) {
    for (count = 0; i < num_rows && count < kMost; ++i) {
      if (a[i] == 0.0f) continue;
      rows[count] = set.row(i);
      factors[count++] = a[i];
    }
    return i;
  }
};

template <class Format>
HWY_NOINLINE void AddFactoredRows(const FactoredRows& now, const FactoredRows& next, size_t begin, size_t end, float* out) {
  const FloatTag d;
  for (size_t c = begin; c < end;) {
    const size_t block = c / Format::kElements;
    const size_t block_end = std::min(end, (block + 1) * Format::kElements);
    BlockScales<Format> scales[FactoredRows::kMost];
    for (size_t i = 0; i < now.count; ++i) scales[i].Read(now.rows[i] + block * Format::kBytes);
    for (size_t i = 0; i < next.count; ++i) {
      for (size_t at = 0; at < Format::kBytes; at += 64) hwy::Prefetch(next.rows[i] + block * Format::kBytes + at);
    }
    for (; c < block_end; c += kPartElements) {
      FloatVector sum[kParts];
      FRUGAL_UNROLL
      for (size_t p = 0; p < kParts; ++p) sum[p] = hn::LoadU(d, out + c + p * kWidth);
      for (size_t i = 0; i < now.count; ++i) {
        const FloatVector factor = hn::Set(d, now.factors[i]);
        ForWeights(now.rows[i] + block * Format::kBytes, c % Format::kElements / kPartElements, scales[i],
                   [&](size_t p, FloatVector weights) HWY_ATTR { sum[p] = hn::MulAdd(factor, weights, sum[p]); });
      }
      FRUGAL_UNROLL
      for (size_t p = 0; p < kParts; ++p) hn::StoreU(sum[p], d, out + c + p * kWidth);
    }
  }
}

void AddScaledRowsOfBlocks(DType dtype, const RowSet& rows, size_t num_rows, const float* a, size_t column_begin, size_t column_end,
                           float* out) {
  WithBlockFormat(dtype, [&](auto format) {
    FactoredRows groups[2];
    size_t row = groups[0].Take(rows, 0, num_rows, a);
    for (size_t group = 0; groups[group].count > 0; group ^= 1) {
      row = groups[group ^ 1].Take(rows, row, num_rows, a);
      AddFactoredRows<decltype(format)>(groups[group], groups[group ^ 1], column_begin, column_end, out);
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
