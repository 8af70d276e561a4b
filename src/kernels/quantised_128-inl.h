// QuantisedTile in vectors of 128 bits, for instruction sets of Highway that are not x86 (NEON). Included by
// dot_rows_quantised.cc inside the namespace of the instruction set; no include guard.

constexpr size_t kRowsOfTile = kQuantisedTileRows;
constexpr size_t kGatheredQuantisedRows = kGatheredStreams;

// Elements 0..15 of a block in `low`, 16..31 in `high`.
struct QuantsOfBlock {
  hn::Vec<hn::FixedTag<int8_t, 16>> low, high;
};

HWY_INLINE QuantsOfBlock LoadQuants(Q8Block, const std::byte* block) {
  const hn::FixedTag<int8_t, 16> d8;
  const int8_t* const q = reinterpret_cast<const int8_t*>(block) + 2;
  return {hn::LoadU(d8, q), hn::LoadU(d8, q + 16)};
}

HWY_INLINE QuantsOfBlock LoadQuants(Q4Block, const std::byte* block) {
  const hn::FixedTag<uint8_t, 16> du8;
  const hn::FixedTag<int8_t, 16> d8;
  const auto pairs = hn::LoadU(du8, reinterpret_cast<const uint8_t*>(block) + 2);
  const auto eight = hn::Set(d8, 8);
  return {hn::Sub(hn::BitCast(d8, hn::And(pairs, hn::Set(du8, 15))), eight),
          hn::Sub(hn::BitCast(d8, hn::ShiftRight<4>(pairs)), eight)};
}

// Sums of two neighbouring products of eight elements: at most 32512, exact in 16 bits before they are widened.
template <class V8>
HWY_INLINE hn::Vec<hn::FixedTag<int32_t, 4>> SumsOfTwo(V8 w, V8 x) {
  const hn::FixedTag<int16_t, 8> d16;
  const hn::FixedTag<int32_t, 4> d32;
  const auto products = hn::BitCast(d32, hn::Mul(hn::PromoteTo(d16, w), hn::PromoteTo(d16, x)));
  return hn::Add(hn::ShiftRight<16>(hn::ShiftLeft<16>(products)), hn::ShiftRight<16>(products));
}

// Four lanes: the sums of four neighbouring products of 16 elements.
template <class V8>
HWY_INLINE hn::Vec<hn::FixedTag<float, 4>> SumsOfFour(V8 w, V8 x) {
  const hn::FixedTag<int8_t, 8> dh;
  const hn::FixedTag<int32_t, 4> d32;
  const hn::FixedTag<float, 4> df;
  const auto low = SumsOfTwo(hn::LowerHalf(dh, w), hn::LowerHalf(dh, x));
  const auto high = SumsOfTwo(hn::UpperHalf(dh, w), hn::UpperHalf(dh, x));
  return hn::ConvertTo(df, hn::Add(hn::ConcatEven(d32, high, low), hn::ConcatOdd(d32, high, low)));
}

template <class Block, size_t kRows, size_t kTokens>
HWY_INLINE void QuantisedTile(const RowSet& set, const RowTile& tile, size_t columns, const int8_t* q,
                              const float* scales, float* out, size_t out_stride) {
  const hn::FixedTag<float, 4> d;
  const size_t num_blocks = columns / kQuantisedBlock;
  const std::byte* rows[kRows];
  for (size_t i = 0; i < kRows; ++i) rows[i] = set.row(tile.row(i));
  // Lanes 0..3 and 4..7. An array: GCC does not inline the default constructor of a struct with vectors.
  hn::Vec<hn::FixedTag<float, 4>> acc[kRows][kTokens][2];
  FRUGAL_UNROLL
  for (size_t i = 0; i < kRows * kTokens * 2; ++i) acc[i / (kTokens * 2)][i / 2 % kTokens][i % 2] = hn::Zero(d);
  for (size_t b = 0; b < num_blocks; ++b) {
    FRUGAL_UNROLL
    for (size_t i = 0; i < kRows; ++i) {
      const std::byte* const block = rows[i] + b * Block::kBytes;
      const QuantsOfBlock w = LoadQuants(Block(), block);
      const auto scale = BlockScale(d, block);
      FRUGAL_UNROLL
      for (size_t t = 0; t < kTokens; ++t) {
        const hn::FixedTag<int8_t, 16> d8;
        const int8_t* const x = q + t * columns + b * kQuantisedBlock;
        const auto both = hn::Mul(scale, hn::Set(d, scales[t * num_blocks + b]));
        acc[i][t][0] = hn::MulAdd(SumsOfFour(w.low, hn::LoadU(d8, x)), both, acc[i][t][0]);
        acc[i][t][1] = hn::MulAdd(SumsOfFour(w.high, hn::LoadU(d8, x + 16)), both, acc[i][t][1]);
      }
    }
  }
  FRUGAL_UNROLL
  for (size_t i = 0; i < kRows; ++i) {
    FRUGAL_UNROLL
    for (size_t t = 0; t < kTokens; ++t) {
      const auto four = hn::Add(acc[i][t][0], acc[i][t][1]);
      const auto two = hn::Add(four, hn::Shuffle1032(four));
      out[t * out_stride + tile.row(i)] = hn::GetLane(hn::Add(two, hn::Shuffle2301(two)));
    }
  }
}
