// DotBlocksQuantised over the pieces of block_dots_x86-inl.h or block_dots_128-inl.h, which is included before it in the same namespace. No
// include guard: block_dots.cc includes it for every instruction set.

template <class Format, size_t kWithin, size_t kRows, size_t kTokens>
HWY_INLINE void AddPartsTogether(DotLanes (&acc)[kRows][kTokens], const std::byte* const (&blocks)[kRows],
                                 const BlockProducts<Format, kRows, kTokens>& products, size_t first, const int8_t* q, size_t columns) {
  AddPart<Format, kWithin>(acc, blocks, products, first, q, columns);
  if constexpr (kWithin + 1 < kPartsTogether<Format>) {
    AddPartsTogether<Format, kWithin + 1>(acc, blocks, products, first, q, columns);
  }
}

// The scales of a block of each row, times those of the inputs.
template <class Format, size_t kRows, size_t kTokens>
HWY_INLINE void MultiplyScales(const std::byte* const (&blocks)[kRows], const float* x_scales, size_t x_stride,
                               BlockProducts<Format, kRows, kTokens>& products) {
  FRUGAL_UNROLL
  for (size_t i = 0; i < kRows; ++i) {
    const auto d = ScaleAt(blocks[i] + Format::kScaleAt);
    const auto m = Format::kHasMins ? ScaleAt(blocks[i] + Format::kMinAt) : d;
    if constexpr (Format::kElements == kPartElements) {
      FRUGAL_UNROLL
      for (size_t t = 0; t < kTokens; ++t) {
        products.scales[i][t][0] = FirstOf(d) * x_scales[t * x_stride];
        if constexpr (Format::kHasMins) products.mins[i][t][0] = FirstOf(m) * x_scales[t * x_stride];
      }
    } else {
      EightBytes scales[2], mins[2];
      Format::Groups(blocks[i], scales, mins);
      FRUGAL_UNROLL
      for (size_t t = 0; t < kTokens; ++t) {
        MultiplyGroups<Format>(scales, d, x_scales + t * x_stride, products.scales[i][t]);
        if constexpr (Format::kHasMins) MultiplyGroups<Format>(mins, Negative(m), x_scales + t * x_stride, products.mins[i][t]);
      }
    }
  }
}

// With one token, memory is asked for kPrefetchBytes ahead, behind the end of a row in the next tile's rows, as in QuantisedTile.
template <class Format, size_t kRows, size_t kTokens>
HWY_NOINLINE void BlockTile(const RowSet& set, const RowTile& tile, size_t columns, const int8_t* q, const float* scales, float* out,
                            size_t out_stride) {
  constexpr size_t kBlockParts = Format::kElements / kPartElements;
  constexpr size_t kAhead = (kPrefetchBytes + Format::kBytes - 1) / Format::kBytes;
  const size_t num_blocks = columns / Format::kElements;
  const std::byte *blocks[kRows], *next[kRows];
  for (size_t i = 0; i < kRows; ++i) {
    blocks[i] = set.row(tile.row(i));
    next[i] = set.row(tile.next_row(i));
  }
  DotLanes acc[kRows][kTokens];
  FRUGAL_UNROLL
  for (size_t i = 0; i < kRows * kTokens; ++i) ClearLanes(acc[i / kTokens][i % kTokens]);
  for (size_t b = 0; b < num_blocks; ++b) {
    if constexpr (kTokens == 1) {
      const bool in_row = b + kAhead < num_blocks;
      FRUGAL_UNROLL
      for (size_t i = 0; i < kRows; ++i) {
        const std::byte* const ahead = in_row ? blocks[i] + kAhead * Format::kBytes : next[i];
        for (size_t at = 0; at < Format::kBytes; at += 64) AskFor(ahead + at);
        next[i] += in_row ? 0 : Format::kBytes;
      }
    }
    BlockProducts<Format, kRows, kTokens> products;
    MultiplyScales<Format>(blocks, scales + b * kBlockParts, columns / kPartElements, products);
    for (size_t first = 0; first < kBlockParts; first += kPartsTogether<Format>) {
      AddPartsTogether<Format, 0>(acc, blocks, products, first, q + b * Format::kElements, columns);
    }
    FRUGAL_UNROLL
    for (size_t i = 0; i < kRows; ++i) blocks[i] += Format::kBytes;
  }
  FRUGAL_UNROLL
  for (size_t i = 0; i < kRows; ++i) {
    FRUGAL_UNROLL
    for (size_t t = 0; t < kTokens; ++t) out[t * out_stride + tile.row(i)] = SumOfLanes(acc[i][t]);
  }
}

template <class Format, size_t kRows>
void DotBlockRows(const RowSet& rows, size_t row, size_t columns, const QuantisedInput& x, size_t num_tokens, float* out,
                  size_t out_stride) {
  const RowTile tile{row, 1, row, row};
  size_t t = 0;
  for (; t + kQuantisedTileTokens <= num_tokens; t += kQuantisedTileTokens) {
    BlockTile<Format, kRows, kQuantisedTileTokens>(rows, tile, columns, x.q + t * columns, x.scales + t * (columns / kQuantisedBlock),
                                                   out + t * out_stride, out_stride);
  }
  for (; t < num_tokens; ++t) {
    BlockTile<Format, kRows, 1>(rows, tile, columns, x.q + t * columns, x.scales + t * (columns / kQuantisedBlock),
                                out + t * out_stride, out_stride);
  }
}

template <class Format>
void DotBlocksOf(const RowSet& rows, size_t begin, size_t end, size_t columns, const QuantisedInput& x, size_t num_tokens, float* out,
                 size_t out_stride) {
  if (num_tokens == 1) {
    ForEachRowTile<kStreams, kStreams>(rows.index != nullptr, begin, end,
                                       [&]<size_t kRows>(std::integral_constant<size_t, kRows>, const RowTile& tile) {
                                         BlockTile<Format, kRows, 1>(rows, tile, columns, x.q, x.scales, out, out_stride);
                                       });
    return;
  }
  size_t i = begin;
  for (; i + kQuantisedTileRows <= end; i += kQuantisedTileRows) {
    DotBlockRows<Format, kQuantisedTileRows>(rows, i, columns, x, num_tokens, out, out_stride);
  }
  for (; i < end; ++i) DotBlockRows<Format, 1>(rows, i, columns, x, num_tokens, out, out_stride);
}

void DotBlocksQuantised(DType dtype, const RowSet& rows, size_t begin, size_t end, size_t columns, const QuantisedInput& x,
                        size_t num_tokens, float* out, size_t out_stride) {
  WithBlockFormat(dtype, [&](auto format) { DotBlocksOf<decltype(format)>(rows, begin, end, columns, x, num_tokens, out, out_stride); });
}
