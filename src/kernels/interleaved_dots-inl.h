// DotInterleavedRows over the vectors of interleaved_avx2-inl.h or interleaved_vnni-inl.h: interleaved_rows.cc includes it once behind
// each. No include guard.

// How far ahead of its use memory is asked for, with one token.
constexpr size_t kInterleavedPrefetchBytes = 1024;

constexpr size_t kVectorsOfFour = kInterleavedRows / kRowsOfVector;

// Vectors [first, first + kVectors) of step kStep of a part, whose columns begin with k.
template <size_t kStep, size_t kVectors, size_t kTokens>
HWY_INLINE void AddStep(const std::byte* part, size_t first, const Input<kTokens>& x, size_t columns, size_t k,
                        const Scales<kVectors> (&scales)[kTokens], Sums (&acc)[kTokens][kVectors]) {
  if constexpr (kStep * kStepColumns < kPartColumns) {
    Integers low[kVectors], high[kVectors];
    FRUGAL_UNROLL
    for (size_t v = 0; v < kVectors; ++v) {
      const Integers w = Load(part + kPartScaleBytes + (kStep * kVectorsOfFour + first + v) * sizeof(Integers));
      low[v] = LowNibbles(w);
      high[v] = HighNibbles(w);
    }
    FRUGAL_UNROLL
    for (size_t t = 0; t < kTokens; ++t) AddProducts<kStep>(low, high, x.At(t * columns + k + kStep * kStepColumns), scales[t], acc[t]);
    AddStep<kStep + 1>(part, first, x, columns, k, scales, acc);
  }
}

// Of each four of rows vectors [first, first + kVectors). // dots [kFours][kTokens][kInterleavedRows]
template <size_t kFours, size_t kVectors, size_t kTokens>
HWY_INLINE void DotVectors(const std::byte* const (&fours)[kFours], size_t first, size_t columns, const Input<kTokens>& x,
                           const float* x_scales, float (&dots)[kFours][kTokens][kInterleavedRows]) {
  Sums acc[kFours][kTokens][kVectors];
  FRUGAL_UNROLL
  for (size_t i = 0; i < kFours * kTokens * kVectors; ++i) Clear(acc[i / (kTokens * kVectors)][i / kVectors % kTokens][i % kVectors]);
  for (size_t k = 0; k < columns; k += kPartColumns) {
    FRUGAL_UNROLL
    for (size_t f = 0; f < kFours; ++f) {
      const std::byte* const part = fours[f] + k / kPartColumns * kPartBytes;
      if constexpr (kTokens == 1) {
        FRUGAL_UNROLL
        for (size_t line = 0; line < kPartBytes; line += kLineBytes) AskFor(part + kInterleavedPrefetchBytes + line);
      }
      Scales<kVectors> scales[kTokens];
      FRUGAL_UNROLL
      for (size_t t = 0; t < kTokens; ++t) scales[t].Multiply(part, first, x_scales + (t * columns + k) / kQuantisedBlock);
      AddStep<0>(part, first, x, columns, k, scales, acc[f]);
    }
  }
  FRUGAL_UNROLL
  for (size_t i = 0; i < kFours * kTokens * kVectors; ++i) {
    const size_t f = i / (kTokens * kVectors), t = i / kVectors % kTokens, v = i % kVectors;
    StoreDots(acc[f][t][v], dots[f][t] + (first + v) * kRowsOfVector);
  }
}

// Of the four rows from each of first_rows, those within [begin, end). Of many tokens' sums the registers hold one vector's.
template <size_t kFours, size_t kTokens>
HWY_INLINE void DotFours(const std::byte* rows, const size_t (&first_rows)[kFours], size_t begin, size_t end, size_t columns,
                         const Input<kTokens>& x, const float* x_scales, float* out, size_t out_stride) {
  constexpr size_t kVectors = kTokens == 1 ? kVectorsOfFour : 1;
  const std::byte* fours[kFours];
  for (size_t f = 0; f < kFours; ++f) fours[f] = rows + first_rows[f] * RowBytesOf(columns);
  float dots[kFours][kTokens][kInterleavedRows];
  for (size_t v = 0; v < kVectorsOfFour; v += kVectors) DotVectors<kFours, kVectors, kTokens>(fours, v, columns, x, x_scales, dots);
  for (size_t f = 0; f < kFours; ++f) {
    const size_t from = std::max(first_rows[f], begin), to = std::min(first_rows[f] + kInterleavedRows, end);
    for (size_t t = 0; t < kTokens; ++t) std::copy_n(dots[f][t] + (from - first_rows[f]), to - from, out + t * out_stride + from);
  }
}

// Rows [begin, end), which need not begin or end with four.
template <size_t kTokens>
void DotTokens(const std::byte* rows, size_t begin, size_t end, size_t columns, const QuantisedInput& x, float* out, size_t out_stride) {
  const Input<kTokens> input(x.q, kTokens * columns);
  size_t row = begin / kInterleavedRows * kInterleavedRows;
  if constexpr (kTokens == 1 && kFoursTogether == 2) {
    const size_t step = (end - row + kInterleavedRows - 1) / kInterleavedRows / 2 * kInterleavedRows;
    for (const size_t half = row + step; row < half; row += kInterleavedRows) {
      DotFours<2, 1>(rows, {row, row + step}, begin, end, columns, input, x.scales, out, out_stride);
    }
    row += step;
  }
  for (; row < end; row += kInterleavedRows) DotFours<1, kTokens>(rows, {row}, begin, end, columns, input, x.scales, out, out_stride);
}

void DotInterleaved(const std::byte* rows, size_t begin, size_t end, size_t columns, const QuantisedInput& x, size_t num_tokens, float* out,
                    size_t out_stride) {
  const auto token = [&](size_t t) { return QuantisedInput{x.q + t * columns, x.scales + t * columns / kQuantisedBlock}; };
  size_t t = 0;
  for (; t + kQuantisedTileTokens <= num_tokens; t += kQuantisedTileTokens) {
    DotTokens<kQuantisedTileTokens>(rows, begin, end, columns, token(t), out + t * out_stride, out_stride);
  }
  for (; t < num_tokens; ++t) DotTokens<1>(rows, begin, end, columns, token(t), out + t * out_stride, out_stride);
}
