// DotRowsQuantised with AVX2, and with the integer dot product of AVX-512 VNNI: the same source, included once for
// each inside a namespace whose functions may use these instructions. FRUGAL_DPBUSD: that dot product, or not
// defined. No include guard, therefore; dot_rows_quantised.cc includes what is used here.

// Eight int32: the sums of four neighbouring products of bytes, unsigned times signed. Two products are at most
// 128 * 127 * 2 = 32512, so that the saturating 16-bit sums of AVX2 are exact.
HWY_INLINE __m256i SumsOfFour(__m256i from_0_to_128, __m256i x) {
#ifdef FRUGAL_DPBUSD
  return FRUGAL_DPBUSD(_mm256_setzero_si256(), from_0_to_128, x);
#else
  return _mm256_madd_epi16(_mm256_maddubs_epi16(from_0_to_128, x), _mm256_set1_epi16(1));
#endif
}

// Rows of a tile of many tokens, and gathered rows of a tile of one: VNNI comes with twice the registers.
#ifdef FRUGAL_DPBUSD
constexpr size_t kRowsOfTile = 2 * kQuantisedTileRows;
constexpr size_t kGatheredQuantisedRows = 16;
#else
constexpr size_t kRowsOfTile = kQuantisedTileRows;
constexpr size_t kGatheredQuantisedRows = kGatheredStreams;
#endif

// The elements; with VNNI 0 .. 255: 128 more than they are.
HWY_INLINE __m256i LoadQuants(Q8Block, const std::byte* block) {
  const __m256i quants = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + 2));
#ifdef FRUGAL_DPBUSD
  return _mm256_xor_si256(quants, _mm256_set1_epi8(-128));
#else
  return quants;
#endif
}

// 0 .. 15: eight more than the elements.
HWY_INLINE __m256i LoadQuants(Q4Block, const std::byte* block) {
  const __m256i twice = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(block + 2)));
  const __m256i shifted = _mm256_srlv_epi32(twice, _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4));
  return _mm256_and_si256(shifted, _mm256_set1_epi8(15));
}

// What the quants being too large adds to the sums, the same for all rows: with VNNI negated, which the sums begin with; without it in
// 16 bits.
#ifdef FRUGAL_DPBUSD
HWY_INLINE __m256i Excess(Q8Block, __m256i x) {
  return _mm256_sub_epi32(_mm256_setzero_si256(), FRUGAL_DPBUSD(_mm256_setzero_si256(), _mm256_set1_epi8(-128), x));
}
HWY_INLINE __m256i Excess(Q4Block, __m256i x) {
  return _mm256_sub_epi32(_mm256_setzero_si256(), FRUGAL_DPBUSD(_mm256_setzero_si256(), _mm256_set1_epi8(8), x));
}

template <class Block>
HWY_INLINE __m256i BlockSums(Block, __m256i w, __m256i x, __m256i excess) {
  return FRUGAL_DPBUSD(excess, w, x);
}
#else
HWY_INLINE __m256i Excess(Q8Block, __m256i) { return _mm256_setzero_si256(); }
HWY_INLINE __m256i Excess(Q4Block, __m256i x) { return _mm256_maddubs_epi16(_mm256_set1_epi8(8), x); }

// |w| and x with w's sign.
HWY_INLINE __m256i BlockSums(Q8Block, __m256i w, __m256i x, __m256i) {
  return SumsOfFour(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
}
HWY_INLINE __m256i BlockSums(Q4Block, __m256i w, __m256i x, __m256i excess) {
  return _mm256_madd_epi16(_mm256_sub_epi16(_mm256_maddubs_epi16(w, x), excess), _mm256_set1_epi16(1));
}
#endif

// In all lanes; what follows the scale in memory is converted too and not used.
HWY_INLINE __m256 LoadScale(const std::byte* block) { return _mm256_broadcastss_ps(_mm_cvtph_ps(_mm_loadu_si32(block))); }

// acc[i] += acc[i + s] for s = 4, 2, 1.
HWY_INLINE float SumEightLanes(__m256 acc) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(acc), _mm256_extractf128_ps(acc, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

// Four of them at once.
HWY_INLINE __m128 SumEightLanes(__m256 a, __m256 b, __m256 c, __m256 d) {
  const auto halves = [](__m256 v) HWY_ATTR { return _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1)); };
  const __m128 a4 = halves(a), b4 = halves(b), c4 = halves(c), d4 = halves(d);
  const __m128 ab = _mm_add_ps(_mm_unpacklo_ps(a4, b4), _mm_unpackhi_ps(a4, b4));
  const __m128 cd = _mm_add_ps(_mm_unpacklo_ps(c4, d4), _mm_unpackhi_ps(c4, d4));
  return _mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab));
}

template <class Block, size_t kRows, size_t kTokens>
HWY_INLINE void QuantisedStep(__m256 (&acc)[kRows][kTokens], const std::byte* const (&rows)[kRows], size_t b,
                              size_t columns, const int8_t* q, const float* scales) {
  __m256i w[kRows];
  __m256 row_scales[kRows];
  FRUGAL_UNROLL
  for (size_t i = 0; i < kRows; ++i) {
    w[i] = LoadQuants(Block(), rows[i] + b * Block::kBytes);
    row_scales[i] = LoadScale(rows[i] + b * Block::kBytes);
  }
  FRUGAL_UNROLL
  for (size_t t = 0; t < kTokens; ++t) {
    const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q + t * columns + b * kQuantisedBlock));
    const __m256i excess = Excess(Block(), x);
    const __m256 x_scale = _mm256_broadcast_ss(scales + t * (columns / kQuantisedBlock) + b);
    FRUGAL_UNROLL
    for (size_t i = 0; i < kRows; ++i) {
      const __m256 sums = _mm256_cvtepi32_ps(BlockSums(Block(), w[i], x, excess));
      acc[i][t] = _mm256_fmadd_ps(sums, _mm256_mul_ps(row_scales[i], x_scale), acc[i][t]);
    }
  }
}

// kFirst .. kRows - 1 of the rows' scales in the elements from kFirst of a vector.
template <size_t kFirst, size_t kRows>
HWY_INLINE __m128i InsertScales(__m128i halves, const std::byte* const* rows, size_t offset) {
  if constexpr (kFirst < kRows) {
    uint16_t half;
    std::memcpy(&half, rows[kFirst] + offset, sizeof(half));
    return InsertScales<kFirst + 1, kRows>(_mm_insert_epi16(halves, half, kFirst), rows, offset);
  }
  return halves;
}

// A block of each row with one token. Scales are multiplied eight rows at once: one at a time that was half of the work.
template <class Block, size_t kRows>
HWY_INLINE void OneTokenStep(__m256 (&acc)[kRows][1], const std::byte* const (&rows)[kRows], size_t b, const int8_t* q,
                             const float* scales) {
  alignas(32) float both_scales[(kRows + 7) / 8 * 8];
  const __m256 x_scale = _mm256_broadcast_ss(scales + b);
  FRUGAL_UNROLL
  for (size_t i = 0; i + 8 <= kRows; i += 8) {
    const __m128i halves = InsertScales<0, 8>(_mm_setzero_si128(), rows + i, b * Block::kBytes);
    _mm256_store_ps(both_scales + i, _mm256_mul_ps(_mm256_cvtph_ps(halves), x_scale));
  }
  if constexpr (kRows % 8 != 0) {
    const __m128i halves = InsertScales<0, kRows % 8>(_mm_setzero_si128(), rows + kRows / 8 * 8, b * Block::kBytes);
    _mm256_store_ps(both_scales + kRows / 8 * 8, _mm256_mul_ps(_mm256_cvtph_ps(halves), x_scale));
  }
  const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q + b * kQuantisedBlock));
  const __m256i excess = Excess(Block(), x);
  FRUGAL_UNROLL
  for (size_t i = 0; i < kRows; ++i) {
    const __m256 sums = _mm256_cvtepi32_ps(BlockSums(Block(), LoadQuants(Block(), rows[i] + b * Block::kBytes), x, excess));
    acc[i][0] = _mm256_fmadd_ps(sums, _mm256_broadcast_ss(both_scales + i), acc[i][0]);
  }
}

// Each line of memory is asked for: behind the end of a row in the next tile's rows, since the prefetchers stop at a page's end and know
// nothing of gathered rows. Those are asked for again, into the L1 cache: all rows of a tile come to a new line at once.
template <size_t kRows>
struct LinesAhead {
  static constexpr bool kGathered = kRows > kStreams;

  explicit HWY_INLINE LinesAhead(size_t size_bytes)
      : row_bytes((size_bytes + kLineBytes - 1) / kLineBytes * kLineBytes),
        ahead(std::min(row_bytes, kGathered ? kGatheredPrefetchBytes : kPrefetchBytes)), asked(ahead) {}
  // Before bytes of `rows` are used, at most a line since the last time, that end with end_bytes. `next`: the next tile's.
  HWY_INLINE void AskBefore(size_t end_bytes, const std::byte* const (&rows)[kRows], const std::byte* const (&next)[kRows]) {
    if (asked < end_bytes + ahead) {
      const bool in_row = asked < row_bytes;
      const std::byte* const* const from = in_row ? rows : next;
      const size_t at = in_row ? asked : asked - row_bytes;
      FRUGAL_UNROLL
      for (size_t i = 0; i < kRows; ++i) {
        if constexpr (kGathered) AskFor(rows[i] + (asked - ahead) + kNearPrefetchBytes);
        kGathered ? AskForGathered(from[i] + at) : AskFor(from[i] + at);
      }
      asked += kLineBytes;
    }
  }

  const size_t row_bytes, ahead;
  size_t asked;
};

template <class Block, size_t kRows, size_t kTokens>
HWY_INLINE void QuantisedTile(const RowSet& set, const RowTile& tile, size_t columns, const int8_t* q,
                              const float* scales, float* out, size_t out_stride) {
  const size_t num_blocks = columns / kQuantisedBlock;
  const std::byte* rows[kRows];
  for (size_t i = 0; i < kRows; ++i) rows[i] = set.row(tile.row(i));
  __m256 acc[kRows][kTokens];
  FRUGAL_UNROLL
  for (size_t i = 0; i < kRows * kTokens; ++i) acc[i / kTokens][i % kTokens] = _mm256_setzero_ps();
  if constexpr (kTokens == 1) {
    const std::byte* next[kRows];
    for (size_t i = 0; i < kRows; ++i) next[i] = set.row(tile.next_row(i));
    LinesAhead<kRows> lines(num_blocks * Block::kBytes);
    for (size_t b = 0; b < num_blocks; ++b) {
      lines.AskBefore((b + 1) * Block::kBytes, rows, next);
      OneTokenStep<Block, kRows>(acc, rows, b, q, scales);
    }
  } else {
    for (size_t b = 0; b < num_blocks; ++b) QuantisedStep<Block, kRows, kTokens>(acc, rows, b, columns, q, scales);
  }
  if constexpr (kTokens > 1 && kRows == 4) {
    FRUGAL_UNROLL
    for (size_t t = 0; t < kTokens; ++t) {
      _mm_storeu_ps(out + t * out_stride + tile.first, SumEightLanes(acc[0][t], acc[1][t], acc[2][t], acc[3][t]));
    }
    return;
  }
  FRUGAL_UNROLL
  for (size_t i = 0; i < kRows; ++i) {
    FRUGAL_UNROLL
    for (size_t t = 0; t < kTokens; ++t) out[t * out_stride + tile.row(i)] = SumEightLanes(acc[i][t]);
  }
}
