// DotRowsQuantised with AVX2, and with the integer dot product of AVX-512 VNNI: the same source, included once for
// each inside a namespace whose functions may use these instructions. FRUGAL_QUANTISED_VNNI: 0 or 1. No include
// guard, therefore; dot_rows_quantised.cc includes what is used here.

// Eight int32: the sums of four neighbouring products of |w| (0 .. 128) and x with w's sign (-127 .. 127). Two
// products are at most 32512, so that the saturating 16-bit sums of AVX2 are exact.
HWY_INLINE __m256i SumsOfFour(__m256i magnitudes, __m256i signed_x) {
#if FRUGAL_QUANTISED_VNNI
  return _mm256_dpbusd_epi32(_mm256_setzero_si256(), magnitudes, signed_x);
#else
  return _mm256_madd_epi16(_mm256_maddubs_epi16(magnitudes, signed_x), _mm256_set1_epi16(1));
#endif
}

HWY_INLINE __m256i LoadQuants(Q8Block, const std::byte* block) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + 2));
}

HWY_INLINE __m256i LoadQuants(Q4Block, const std::byte* block) {
  const __m128i pairs = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block + 2));
  const __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(pairs), _mm_srli_epi16(pairs, 4), 1);
  return _mm256_sub_epi8(_mm256_and_si256(both, _mm256_set1_epi8(15)), _mm256_set1_epi8(8));
}

HWY_INLINE __m128 LoadScale(const std::byte* block) {
  uint16_t bits;
  std::memcpy(&bits, block, sizeof(bits));
  return _mm_cvtph_ps(_mm_cvtsi32_si128(bits));
}

// acc[i] += acc[i + s] for s = 4, 2, 1.
HWY_INLINE float SumEightLanes(__m256 acc) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(acc), _mm256_extractf128_ps(acc, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

template <class Block, size_t kRows, size_t kTokens>
HWY_INLINE void QuantisedTile(const RowSet& set, size_t row, size_t columns, const int8_t* q, const float* scales,
                              float* out, size_t out_stride) {
  const size_t num_blocks = columns / kQuantisedBlock;
  const std::byte* rows[kRows];
  for (size_t i = 0; i < kRows; ++i) rows[i] = set.row(row + i);
  __m256 acc[kRows][kTokens];
  FRUGAL_UNROLL
  for (size_t i = 0; i < kRows * kTokens; ++i) acc[i / kTokens][i % kTokens] = _mm256_setzero_ps();
  for (size_t b = 0; b < num_blocks; ++b) {
    FRUGAL_UNROLL
    for (size_t i = 0; i < kRows; ++i) {
      const std::byte* const block = rows[i] + b * Block::kBytes;
      if constexpr (kTokens == 1) _mm_prefetch(reinterpret_cast<const char*>(block) + kPrefetchBytes, _MM_HINT_T0);
      const __m256i w = LoadQuants(Block(), block);
      const __m256i magnitudes = _mm256_abs_epi8(w);
      const __m128 scale = LoadScale(block);
      FRUGAL_UNROLL
      for (size_t t = 0; t < kTokens; ++t) {
        const __m256i x =
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q + t * columns + b * kQuantisedBlock));
        const __m256i sums = SumsOfFour(magnitudes, _mm256_sign_epi8(x, w));
        const __m128 both = _mm_mul_ss(scale, _mm_load_ss(scales + t * num_blocks + b));
        acc[i][t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), _mm256_broadcastss_ps(both), acc[i][t]);
      }
    }
  }
  FRUGAL_UNROLL
  for (size_t i = 0; i < kRows; ++i) {
    FRUGAL_UNROLL
    for (size_t t = 0; t < kTokens; ++t) out[t * out_stride + row + i] = SumEightLanes(acc[i][t]);
  }
}
