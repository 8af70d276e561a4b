// DotRowsQuantised over QuantisedTile, which is included before it in the same namespace. No include guard:
// dot_rows_quantised.cc includes it for every instruction set.

template <class Block, size_t kRows>
HWY_INLINE void OneTokenTile(const RowSet& set, const RowTile& tile, size_t columns, const QuantisedInput& x, float* out) {
  QuantisedTile<Block, kRows, 1>(set, tile, columns, x.q, x.scales, out, 0);
}

template <class Block>
void DotRowsOfBlocks(const RowSet& rows, size_t begin, size_t end, size_t columns, const QuantisedInput& x,
                     size_t num_tokens, float* out, size_t out_stride) {
  const size_t num_blocks = columns / kQuantisedBlock;
  if (num_tokens == 1) {
    ForEachRowTile<kStreams, kGatheredQuantisedRows>(
        rows.index != nullptr, begin, end,
        [&]<size_t kRows>(std::integral_constant<size_t, kRows>, const RowTile& tile)
            HWY_ATTR { OneTokenTile<Block, kRows>(rows, tile, columns, x, out); });
    return;
  }
  const auto add_rows = [&]<size_t kRows>(std::integral_constant<size_t, kRows>, size_t row) HWY_ATTR {
    size_t t = 0;
    for (; t + kQuantisedTileTokens <= num_tokens; t += kQuantisedTileTokens) {
      QuantisedTile<Block, kRows, kQuantisedTileTokens>(rows, {row, 1, row, row}, columns, x.q + t * columns,
                                                        x.scales + t * num_blocks, out + t * out_stride, out_stride);
    }
    for (; t < num_tokens; ++t) {
      QuantisedTile<Block, kRows, 1>(rows, {row, 1, row, row}, columns, x.q + t * columns, x.scales + t * num_blocks,
                                     out + t * out_stride, out_stride);
    }
  };
  size_t i = begin;
  for (; i + kRowsOfTile <= end; i += kRowsOfTile) {
    add_rows(std::integral_constant<size_t, kRowsOfTile>(), i);
  }
  for (; i < end; ++i) add_rows(std::integral_constant<size_t, 1>(), i);
}

void DotRowsQuantised(DType dtype, const RowSet& rows, size_t begin, size_t end, size_t columns,
                      const QuantisedInput& x, size_t num_tokens, float* out, size_t out_stride) {
  if (dtype == DType::kQ8_0) {
    DotRowsOfBlocks<Q8Block>(rows, begin, end, columns, x, num_tokens, out, out_stride);
  } else {
    DotRowsOfBlocks<Q4Block>(rows, begin, end, columns, x, num_tokens, out, out_stride);
  }
}
