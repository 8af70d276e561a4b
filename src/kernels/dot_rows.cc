#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/kernels/dot_rows.cc"
// The order is Highway's.
// clang-format off
#include "src/kernels/highway_targets.h"
#include <hwy/foreach_target.h>
#include <hwy/cache_control.h>
#include <hwy/highway.h>
// clang-format on

#include <algorithm>

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

// One token: several rows at once are several streams from memory (row_streams.h), as far as there are registers for rows x kParts
// accumulators: 16 of AVX2, 32 of AVX-512 and NEON.
constexpr size_t kRowsOfOneToken = kParts == 2 ? kStreams : 3;
constexpr size_t kGatheredRowsOfOneToken = kParts == 2 ? kGatheredStreams + 4 : 3;
// Few tokens: one row is converted once for up to three of them.
constexpr size_t kFewTokens = 3;

// Many tokens: a block of rows x tokens is summed over kBlockColumns at a time. Its weights lie in the L1
// cache as float, the tokens' columns in the L2 cache; its lanes go through memory between the steps, which
// keeps their bits. The register tile has one vector of the lanes of kTileRows rows x 4 tokens.
constexpr size_t kTileRows = kParts == 4 ? 3 : 6;  // with the loaded vectors 16 registers of AVX2, 31 of the others' 32
constexpr size_t kTileTokens = 4;
constexpr size_t kBlockRows = kRowsOfManyTokens;
static_assert(kBlockRows % kTileRows == 0);
constexpr size_t kBlockTokens = 16 * kTileTokens;
constexpr size_t kBlockColumns = 512;
// Of the float weights: rows a multiple of 2 KiB apart would share the sets of the L1 cache.
constexpr size_t kPartStride = kBlockColumns / kParts;
constexpr size_t kBlockStride = kBlockColumns + kLanes;
constexpr size_t kLeastTokensOfBlock = kManyTokens;
static_assert(kLeastTokensOfBlock >= kTileTokens);
// Rows that stay in the L2 cache while all blocks of tokens pass over them.
constexpr size_t kCachedRowBytes = 512 * 1024;

template <class Row, size_t kRows, size_t kTokens>
HWY_INLINE void Step(FloatVector (&acc)[kRows][kTokens][kParts], const std::byte* const (&rows)[kRows],
                     const float* const (&x)[kTokens], size_t k) {
  const FloatTag d;
  FRUGAL_UNROLL
  for (size_t p = 0; p < kParts; ++p) {
    FRUGAL_UNROLL
    for (size_t i = 0; i < kRows; ++i) {
      const FloatVector w = Row::Load(d, rows[i], k + p * kWidth);
      FRUGAL_UNROLL
      for (size_t t = 0; t < kTokens; ++t) {
        acc[i][t][p] = hn::MulAdd(w, hn::LoadU(d, x[t] + k + p * kWidth), acc[i][t][p]);
      }
    }
  }
}

// With one token, memory is asked for kPrefetchBytes before its use.
template <class Row, size_t kRows, size_t kTokens>
HWY_INLINE void Tile(const RowSet& set, const RowTile& tile, size_t columns, const float* x, size_t x_stride, float* out,
                     size_t out_stride) {
  const std::byte* rows[kRows];
  const float* tokens[kTokens];
  for (size_t i = 0; i < kRows; ++i) rows[i] = set.row(tile.row(i));
  for (size_t t = 0; t < kTokens; ++t) tokens[t] = x + t * x_stride;
  FloatVector acc[kRows][kTokens][kParts];
  FRUGAL_UNROLL
  for (size_t i = 0; i < kRows * kTokens * kParts; ++i) {
    acc[i / (kTokens * kParts)][i / kParts % kTokens][i % kParts] = hn::Zero(FloatTag());
  }
  const size_t full = columns - columns % kLanes;
  if constexpr (kTokens == 1) {
    constexpr bool kGathered = kRows > kRowsOfOneToken;
    constexpr size_t kAhead = (kGathered ? kGatheredPrefetchBytes : kPrefetchBytes) / Row::kGroupBytes * kLanes;
    const auto ask = [](const std::byte* at) HWY_ATTR { kGathered ? AskForGathered(at) : AskFor(at); };
    const size_t turn = full > kAhead ? full - kAhead : 0;
    size_t k = 0;
    for (; k < turn; k += kLanes) {
      for (size_t i = 0; i < kRows; ++i) ask(rows[i] + Row::Offset(k + kAhead));
      Step<Row, kRows, kTokens>(acc, rows, tokens, k);
    }
    const std::byte* next[kRows];
    for (size_t i = 0; i < kRows; ++i) next[i] = set.row(tile.next_row(i));
    for (; k < full; k += kLanes) {
      for (size_t i = 0; i < kRows; ++i) ask(next[i] + Row::Offset(k - turn));
      Step<Row, kRows, kTokens>(acc, rows, tokens, k);
    }
  } else {
    for (size_t k = 0; k < full; k += kLanes) Step<Row, kRows, kTokens>(acc, rows, tokens, k);
  }
  if (full < columns) {
    RowTail<Row> row_tails[kRows];
    TokenTail token_tails[kTokens];
    for (size_t i = 0; i < kRows; ++i) {
      row_tails[i].Fill(rows[i], full, columns);
      rows[i] = row_tails[i].bytes;
    }
    for (size_t t = 0; t < kTokens; ++t) {
      token_tails[t].Fill(tokens[t], full, columns);
      tokens[t] = token_tails[t].values;
    }
    Step<Row, kRows, kTokens>(acc, rows, tokens, 0);
  }
  FRUGAL_UNROLL
  for (size_t i = 0; i < kRows; ++i) {
    FRUGAL_UNROLL
    for (size_t t = 0; t < kTokens; ++t) out[t * out_stride + tile.row(i)] = SumLanes(acc[i][t]);
  }
}

struct Block {
  alignas(64) float weights[kBlockRows][kBlockStride];
  alignas(64) float lanes[kBlockRows / kTileRows][kBlockTokens / kTileTokens][kParts][kTileRows][kTileTokens]
                         [kWidth];
};

// Where the block keeps the weights of the group of 32 columns that starts at column k of a row: one part of the lanes after the other,
// so that the loop over a part reads without gaps.
HWY_INLINE constexpr size_t PartOffset(size_t part, size_t k) { return part * kPartStride + k / kParts; }

// Adds groups of 32 columns of kTileRows rows x 4 tokens to a part of their lanes; asks for the columns of the next tokens, `next` floats
// behind these.
HWY_INLINE void AddToLanes(const float* weights, const float* const (&x)[kTileTokens], ptrdiff_t next, size_t columns, size_t part,
                           float (&lanes)[kTileRows][kTileTokens][kWidth]) {
  const FloatTag d;
  FloatVector acc[kTileRows][kTileTokens];
  FRUGAL_UNROLL
  for (size_t i = 0; i < kTileRows * kTileTokens; ++i) acc[i / kTileTokens][i % kTileTokens] = hn::Load(d, lanes[i / kTileTokens][i % kTileTokens]);
  weights += PartOffset(part, 0);
  for (size_t k = part * kWidth; k < columns; k += kLanes, weights += kWidth) {
    FloatVector w[kTileRows];
    FRUGAL_UNROLL
    for (size_t i = 0; i < kTileRows; ++i) w[i] = hn::Load(d, weights + i * kBlockStride);
    FRUGAL_UNROLL
    for (size_t t = 0; t < kTileTokens; ++t) {
      const FloatVector xt = hn::LoadU(d, x[t] + k);
      hwy::Prefetch(x[t] + k + next);
      FRUGAL_UNROLL
      for (size_t i = 0; i < kTileRows; ++i) acc[i][t] = hn::MulAdd(w[i], xt, acc[i][t]);
    }
  }
  FRUGAL_UNROLL
  for (size_t i = 0; i < kTileRows * kTileTokens; ++i) hn::Store(acc[i / kTileTokens][i % kTileTokens], d, lanes[i / kTileTokens][i % kTileTokens]);
}

// Columns [k, k + count) of the rows as float; padded to a whole group at the end of the row.
template <class Row>
HWY_INLINE void FillWeights(const std::byte* row, size_t k, size_t count, float* weights) {
  const FloatTag d;
  const size_t full = count - count % kLanes;
  const auto fill_group = [&](const std::byte* bytes, size_t from, size_t to) HWY_ATTR {
    FRUGAL_UNROLL
    for (size_t p = 0; p < kParts; ++p) hn::Store(Row::Load(d, bytes, from + p * kWidth), d, weights + PartOffset(p, to));
  };
  for (size_t i = 0; i < full; i += kLanes) fill_group(row, k + i, i);
  if (full == count) return;
  RowTail<Row> tail;
  tail.Fill(row, k + full, k + count);
  fill_group(tail.bytes, 0, full);
}

// Columns [k, k + count) of all rows and tokens of a block.
HWY_INLINE void AddColumnsToBlock(const float* x, size_t x_stride, size_t k, size_t count, size_t row_tiles,
                                  size_t token_tiles, Block& block) {
  const size_t full = count - count % kLanes;
  for (size_t p = 0; p < kParts; ++p) {
    for (size_t tt = 0; tt < token_tiles; ++tt) {
      const float* tokens[kTileTokens];
      for (size_t t = 0; t < kTileTokens; ++t) tokens[t] = x + (tt * kTileTokens + t) * x_stride + k;
      const ptrdiff_t next = tt + 1 < token_tiles ? static_cast<ptrdiff_t>(kTileTokens * x_stride) : 0;
      for (size_t rt = 0; rt < row_tiles; ++rt) {
        AddToLanes(block.weights[rt * kTileRows], tokens, next, full, p, block.lanes[rt][tt][p]);
      }
      if (full == count) continue;
      TokenTail tails[kTileTokens];
      for (size_t t = 0; t < kTileTokens; ++t) {
        tails[t].Fill(tokens[t], full, count);
        tokens[t] = tails[t].values;
      }
      for (size_t rt = 0; rt < row_tiles; ++rt) {
        AddToLanes(block.weights[rt * kTileRows] + PartOffset(0, full), tokens, 0, kLanes, p, block.lanes[rt][tt][p]);
      }
    }
  }
}

// Rows [row, row + num_rows), at most kBlockRows, of num_tokens tokens, a multiple of kTileTokens.
template <class Row>
HWY_NOINLINE void DotBlock(const RowSet& set, size_t row, size_t num_rows, size_t columns, const float* x,
                           size_t x_stride, size_t num_tokens, float* out, size_t out_stride) {
  const FloatTag d;
  Block block;
  const size_t row_tiles = (num_rows + kTileRows - 1) / kTileRows;
  const size_t token_tiles = num_tokens / kTileTokens;
  for (size_t rt = 0; rt < row_tiles; ++rt) std::memset(block.lanes[rt], 0, token_tiles * sizeof(block.lanes[rt][0]));
  for (size_t k = 0; k < columns; k += kBlockColumns) {
    const size_t count = std::min(kBlockColumns, columns - k);
    for (size_t i = 0; i < row_tiles * kTileRows; ++i) {
      // A tile that is not full computes its last row again.
      FillWeights<Row>(set.row(row + std::min(i, num_rows - 1)), k, count, block.weights[i]);
    }
    AddColumnsToBlock(x, x_stride, k, count, row_tiles, token_tiles, block);
  }
  const auto sum_to_four = [&](size_t i, size_t t) HWY_ATTR {
    FloatVector parts[kParts];
    FRUGAL_UNROLL
    for (size_t p = 0; p < kParts; ++p) {
      parts[p] = hn::Load(d, block.lanes[i / kTileRows][t / kTileTokens][p][i % kTileRows][t % kTileTokens]);
    }
    return SumToFour(parts);
  };
  const size_t last = num_rows - 1;
  for (size_t t = 0; t < num_tokens; ++t) {
    float* const to = out + t * out_stride + row;
    for (size_t i = 0; i < num_rows; i += 4) {
      const hn::Vec<hn::CappedTag<float, 4>> sums[4] = {sum_to_four(i, t), sum_to_four(std::min(i + 1, last), t),
                                                        sum_to_four(std::min(i + 2, last), t), sum_to_four(std::min(i + 3, last), t)};
      const auto four = SumFour(sums);
      if (i + 4 <= num_rows) {
        hn::StoreU(four, hn::CappedTag<float, 4>(), to + i);
      } else {
        float values[4];
        hn::StoreU(four, hn::CappedTag<float, 4>(), values);
        std::copy_n(values, num_rows - i, to + i);
      }
    }
  }
}

template <class Row>
void DotRowsOfOneToken(const RowSet& rows, size_t begin, size_t end, size_t columns, const float* x,
                       float* out) {
  ForEachRowTile<kRowsOfOneToken, kGatheredRowsOfOneToken>(
      rows.index != nullptr, begin, end,
      [&]<size_t kRows>(std::integral_constant<size_t, kRows>, const RowTile& tile)
          HWY_ATTR { Tile<Row, kRows, 1>(rows, tile, columns, x, 0, out, 0); });
}

template <class Row>
void DotRowsOfFewTokens(const RowSet& rows, size_t begin, size_t end, size_t columns, const float* x,
                        size_t x_stride, size_t num_tokens, float* out, size_t out_stride) {
  for (size_t i = begin; i < end; ++i) {
    for (size_t t = 0; t < num_tokens;) {
      const size_t rest = num_tokens - t;
      const float* xt = x + t * x_stride;
      float* to = out + t * out_stride;
      if (rest == 2 || rest == 4) {
        Tile<Row, 1, 2>(rows, {i, 1, i, i}, columns, xt, x_stride, to, out_stride);
        t += 2;
      } else {
        Tile<Row, 1, kFewTokens>(rows, {i, 1, i, i}, columns, xt, x_stride, to, out_stride);
        t += kFewTokens;
      }
    }
  }
}

template <class Row>
void DotRowsOf(const RowSet& rows, size_t begin, size_t end, size_t columns, const float* x, size_t x_stride,
               size_t num_tokens, float* out, size_t out_stride) {
  const size_t cached_rows = kCachedRowBytes / (Row::Offset(columns) + 1) / kBlockRows * kBlockRows;
  const size_t step = num_tokens < kLeastTokensOfBlock ? end - begin : std::max(kBlockRows, cached_rows);
  for (size_t first = begin; first < end; first += step) {
    const size_t last = std::min(end, first + step);
    size_t t = 0;
    while (num_tokens - t >= kLeastTokensOfBlock) {
      const size_t count = std::min(kBlockTokens, (num_tokens - t) / kTileTokens * kTileTokens);
      for (size_t i = first; i < last; i += kBlockRows) {
        DotBlock<Row>(rows, i, std::min(kBlockRows, last - i), columns, x + t * x_stride, x_stride, count,
                      out + t * out_stride, out_stride);
      }
      t += count;
    }
    if (num_tokens - t == 1) {
      DotRowsOfOneToken<Row>(rows, first, last, columns, x + t * x_stride, out + t * out_stride);
    } else {
      DotRowsOfFewTokens<Row>(rows, first, last, columns, x + t * x_stride, x_stride, num_tokens - t,
                              out + t * out_stride, out_stride);
    }
  }
}

void DotRows(DType dtype, const RowSet& rows, size_t begin, size_t end, size_t columns, const float* x,
             size_t x_stride, size_t num_tokens, float* out, size_t out_stride) {
  WithRow(dtype, [&](auto row) HWY_ATTR { DotRowsOf<decltype(row)>(rows, begin, end, columns, x, x_stride, num_tokens, out, out_stride); });
}

#else
using scalar::DotRows;
#endif  // !FRUGAL_SCALAR_TARGET
}  // namespace frugal::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace frugal {

HWY_EXPORT(DotRows);

void DotRows(DType dtype, const RowSet& rows, size_t begin, size_t end, size_t columns, const float* x,
             size_t x_stride, size_t num_tokens, float* out, size_t out_stride) {
  CHECK(!IsQuantised(dtype) || columns % TraitsOf(dtype).block_elements == 0);
  if (HasBlockFormat(dtype)) return DotRowsOfBlocks(dtype, rows, begin, end, columns, x, x_stride, num_tokens, out, out_stride);
  HWY_DYNAMIC_DISPATCH(DotRows)(dtype, rows, begin, end, columns, x, x_stride, num_tokens, out, out_stride);
}

}  // namespace frugal
#endif  // HWY_ONCE
