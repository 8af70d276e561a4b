#include "src/kernels/interleaved_rows.h"

#include <hwy/base.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "src/base/check.h"
#include "src/kernels/quantised_tiles.h"
#include "src/kernels/row_streams.h"
#include "src/kernels/unroll.h"

#if FRUGAL_HAVE_VNNI
// GCC 12 warns of what its own header leaves undefined on purpose.
HWY_DIAGNOSTICS(push)
HWY_DIAGNOSTICS_OFF(disable : 4703, ignored "-Wmaybe-uninitialized")
#include <immintrin.h>
HWY_DIAGNOSTICS(pop)
#endif

namespace frugal {
namespace {

constexpr size_t kPartBlocks = 4;
constexpr size_t kScaleBytes = 2;
constexpr size_t kNibbleBytes = Q4Block::kBytes - kScaleBytes;
constexpr size_t kPartScaleBytes = kInterleavedRows * kPartBlocks * kScaleBytes;
constexpr size_t kPartBytes = kInterleavedRows * kPartBlocks * Q4Block::kBytes;
constexpr size_t kPartColumns = kPartBlocks * kQuantisedBlock;
constexpr size_t kMostRowBytes = kMostInterleavedColumns / kQuantisedBlock * Q4Block::kBytes;

constexpr size_t RowBytesOf(size_t columns) { return columns / kQuantisedBlock * Q4Block::kBytes; }

// Where row r's block b has its scale and its nibbles in its four rows' parts.
constexpr size_t ScaleAt(size_t r, size_t b) {
  return b / kPartBlocks * kPartBytes + (r * kPartBlocks + b % kPartBlocks) * kScaleBytes;
}
constexpr size_t NibblesAt(size_t r, size_t b) {
  return b / kPartBlocks * kPartBytes + kPartScaleBytes + (b % kPartBlocks * kInterleavedRows + r) * kNibbleBytes;
}

}  // namespace

#if FRUGAL_HAVE_VNNI
HWY_PUSH_ATTRIBUTES(FRUGAL_VNNI_ATTRIBUTES)
namespace vnni {

// How far ahead of its use memory is asked for, with one token.
constexpr size_t kInterleavedPrefetchBytes = 1024;

// What the quants being eight too large adds to the sums, negated. // excess [columns / 4]
HWY_INLINE void ExcessOfEight(const int8_t* q, size_t columns, int32_t* excess) {
  for (size_t k = 0; k < columns; k += 64) {
    const __m512i sums = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(8), _mm512_loadu_si512(q + k));
    _mm512_storeu_si512(excess + k / 4, _mm512_sub_epi32(_mm512_setzero_si512(), sums));
  }
}

// The same 16 bytes for each of four rows.
HWY_INLINE __m512i ForEachRow(const void* bytes) { return _mm512_broadcast_i32x4(_mm_loadu_si128(static_cast<const __m128i*>(bytes))); }

// Four rows in a vector: a row's lanes 0 .. 3, from the low nibbles, and 4 .. 7, from the high ones, in 128 bits each.
template <size_t kTokens>
struct FourRowSums {
  __m512 low[kTokens], high[kTokens];
};

// Block kBlock of a part whose scales times the inputs' are both_scales; q and excess begin with the part.
template <int kBlock, size_t kTokens>
HWY_INLINE void AddBlock(FourRowSums<kTokens>& acc, const std::byte* part, const int8_t* q, const int32_t* excess, size_t columns,
                         const __m512 (&both_scales)[kTokens]) {
  const __m512i nibble = _mm512_set1_epi8(15);
  const __m512i w = _mm512_loadu_si512(part + kPartScaleBytes + kBlock * kInterleavedRows * kNibbleBytes);
  const __m512i w_low = _mm512_and_si512(w, nibble);
  const __m512i w_high = _mm512_and_si512(_mm512_srli_epi16(w, 4), nibble);
  FRUGAL_UNROLL
  for (size_t t = 0; t < kTokens; ++t) {
    const int8_t* const x = q + t * columns + kBlock * kQuantisedBlock;
    const int32_t* const excess_of_x = excess + (t * columns + kBlock * kQuantisedBlock) / 4;
    const __m512i low = _mm512_dpbusd_epi32(ForEachRow(excess_of_x), w_low, ForEachRow(x));
    const __m512i high = _mm512_dpbusd_epi32(ForEachRow(excess_of_x + 4), w_high, ForEachRow(x + kQuantisedBlock / 2));
    const __m512 scale = _mm512_permute_ps(both_scales[t], kBlock * 0x55);
    acc.low[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(low), scale, acc.low[t]);
    acc.high[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(high), scale, acc.high[t]);
  }
}

// acc[i] += acc[i + s] for s = 4, 2, 1, of each row.
HWY_INLINE std::array<float, kInterleavedRows> SumLanes(__m512 low, __m512 high) {
  const __m512 four = _mm512_add_ps(low, high);
  const __m512 two = _mm512_add_ps(four, _mm512_permute_ps(four, 0x4e));
  alignas(64) float sums[16];
  _mm512_store_ps(sums, _mm512_add_ps(two, _mm512_movehdup_ps(two)));
  return {sums[0], sums[4], sums[8], sums[12]};
}

template <size_t kTokens>
HWY_INLINE void DotFourRows(const std::byte* rows, size_t columns, const QuantisedInput& x, const int32_t* excess,
                            std::array<float, kInterleavedRows> (&dots)[kTokens]) {
  FourRowSums<kTokens> acc;
  FRUGAL_UNROLL
  for (size_t t = 0; t < kTokens; ++t) acc.low[t] = acc.high[t] = _mm512_setzero_ps();
  for (size_t k = 0; k < columns; k += kPartColumns, rows += kPartBytes) {
    if constexpr (kTokens == 1) {
      for (size_t line = 0; line < kPartBytes; line += kLineBytes) AskFor(rows + kInterleavedPrefetchBytes + line);
    }
    const __m512 row_scales = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows)));
    __m512 both_scales[kTokens];
    FRUGAL_UNROLL
    for (size_t t = 0; t < kTokens; ++t) {
      const float* const scales = x.scales + (t * columns + k) / kQuantisedBlock;
      both_scales[t] = _mm512_mul_ps(row_scales, _mm512_broadcast_f32x4(_mm_loadu_ps(scales)));
    }
    AddBlock<0>(acc, rows, x.q + k, excess + k / 4, columns, both_scales);
    AddBlock<1>(acc, rows, x.q + k, excess + k / 4, columns, both_scales);
    AddBlock<2>(acc, rows, x.q + k, excess + k / 4, columns, both_scales);
    AddBlock<3>(acc, rows, x.q + k, excess + k / 4, columns, both_scales);
  }
  for (size_t t = 0; t < kTokens; ++t) dots[t] = SumLanes(acc.low[t], acc.high[t]);
}

// Rows [begin, end), which need not begin or end with four.
template <size_t kTokens>
void DotTokens(const std::byte* rows, size_t begin, size_t end, size_t columns, const QuantisedInput& x, float* out, size_t out_stride) {
  alignas(64) int32_t excess[kTokens * kMostInterleavedColumns / 4];
  ExcessOfEight(x.q, kTokens * columns, excess);
  for (size_t first = begin / kInterleavedRows * kInterleavedRows; first < end; first += kInterleavedRows) {
    std::array<float, kInterleavedRows> dots[kTokens];
    DotFourRows<kTokens>(rows + first * RowBytesOf(columns), columns, x, excess, dots);
    const size_t from = std::max(first, begin), to = std::min(first + kInterleavedRows, end);
    for (size_t t = 0; t < kTokens; ++t) std::copy_n(dots[t].begin() + (from - first), to - from, out + t * out_stride + from);
  }
}

}  // namespace vnni
HWY_POP_ATTRIBUTES
#endif

bool InterleavesRows(DType dtype, size_t columns) {
  return dtype == DType::kQ4_0 && columns % kPartColumns == 0 && columns <= kMostInterleavedColumns && UsesVnni();
}

void InterleaveRows(std::byte* rows, size_t num_rows, size_t columns) {
  CHECK(columns % kPartColumns == 0 && columns <= kMostInterleavedColumns);
  const size_t row_bytes = RowBytesOf(columns);
  std::array<std::byte, kInterleavedRows * kMostRowBytes> before;
  for (size_t first = 0; first + kInterleavedRows <= num_rows; first += kInterleavedRows) {
    std::byte* const four = rows + first * row_bytes;
    std::memcpy(before.data(), four, kInterleavedRows * row_bytes);
    for (size_t r = 0; r < kInterleavedRows; ++r) {
      for (size_t b = 0; b < columns / kQuantisedBlock; ++b) {
        const std::byte* const block = before.data() + r * row_bytes + b * Q4Block::kBytes;
        std::memcpy(four + ScaleAt(r, b), block, kScaleBytes);
        std::memcpy(four + NibblesAt(r, b), block + kScaleBytes, kNibbleBytes);
      }
    }
  }
}

void CopyInterleavedRow(const std::byte* rows, size_t num_rows, size_t columns, size_t row, std::byte* out) {
  const size_t row_bytes = RowBytesOf(columns);
  if (row >= num_rows / kInterleavedRows * kInterleavedRows) {
    std::memcpy(out, rows + row * row_bytes, row_bytes);
    return;
  }
  const std::byte* const four = rows + row / kInterleavedRows * kInterleavedRows * row_bytes;
  for (size_t b = 0; b < columns / kQuantisedBlock; ++b) {
    std::memcpy(out + b * Q4Block::kBytes, four + ScaleAt(row % kInterleavedRows, b), kScaleBytes);
    std::memcpy(out + b * Q4Block::kBytes + kScaleBytes, four + NibblesAt(row % kInterleavedRows, b), kNibbleBytes);
  }
}

void DotInterleavedRows(const std::byte* rows, size_t num_rows, size_t begin, size_t end, size_t columns, const QuantisedInput& x,
                        size_t num_tokens, float* out, size_t out_stride) {
  CHECK(begin <= end && end <= num_rows && columns % kPartColumns == 0 && columns <= kMostInterleavedColumns);
  const size_t interleaved_end = std::clamp(num_rows / kInterleavedRows * kInterleavedRows, begin, end);
#if FRUGAL_HAVE_VNNI
  if (begin < interleaved_end) {
    const auto token = [&](size_t t) { return QuantisedInput{x.q + t * columns, x.scales + t * columns / kQuantisedBlock}; };
    size_t t = 0;
    for (; t + kQuantisedTileTokens <= num_tokens; t += kQuantisedTileTokens) {
      vnni::DotTokens<kQuantisedTileTokens>(rows, begin, interleaved_end, columns, token(t), out + t * out_stride, out_stride);
    }
    for (; t < num_tokens; ++t) vnni::DotTokens<1>(rows, begin, interleaved_end, columns, token(t), out + t * out_stride, out_stride);
  }
#else
  CHECK(begin == interleaved_end);  // nothing is interleaved
#endif
  if (interleaved_end == end) return;
  DotRowsQuantised(DType::kQ4_0, {rows, RowBytesOf(columns), nullptr}, interleaved_end, end, columns, x, num_tokens, out, out_stride);
}

}  // namespace frugal
