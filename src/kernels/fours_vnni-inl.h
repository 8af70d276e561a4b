// Q4_0 with AVX-512 VNNI, a block of each of four rows in a vector, its bytes as the file has them. No include guard: included inside
// namespaces whose functions may use these instructions.

HWY_INLINE __m512i LowNibbles(__m512i v) { return _mm512_and_si512(v, _mm512_set1_epi8(15)); }
HWY_INLINE __m512i HighNibbles(__m512i v) { return LowNibbles(_mm512_srli_epi16(v, 4)); }

// A block of the input and what the quants being eight too large adds to the sums of four, negated, for each of the four rows.
struct InputOfFour {
  __m512i low, high, low_excess, high_excess;
};
HWY_INLINE __m512i ForEachRow(const void* sixteen_bytes) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(static_cast<const __m128i*>(sixteen_bytes)));
}

// Lanes 0 .. 3 of each row, and 4 .. 7.
struct SumsOfFour512 {
  __m512 low, high;
};
HWY_INLINE void Clear(SumsOfFour512& acc) { acc.low = acc.high = _mm512_setzero_ps(); }

// scales: of four blocks of each row, times the input's; kBlock: which of them this is.
template <size_t kBlock>
HWY_INLINE void AddProductsOfFour(__m512i low_nibbles, __m512i high_nibbles, const InputOfFour& x, __m512 scales, SumsOfFour512& acc) {
  const __m512 scale = _mm512_permute_ps(scales, kBlock * 0x55);
  const __m512i low = _mm512_dpbusd_epi32(x.low_excess, low_nibbles, x.low);
  const __m512i high = _mm512_dpbusd_epi32(x.high_excess, high_nibbles, x.high);
  acc.low = _mm512_fmadd_ps(_mm512_cvtepi32_ps(low), scale, acc.low);
  acc.high = _mm512_fmadd_ps(_mm512_cvtepi32_ps(high), scale, acc.high);
}

// acc[i] += acc[i + s] for s = 4, 2, 1. // dots [4]
HWY_INLINE void StoreDots(const SumsOfFour512& acc, float* dots) {
  const __m512 four = _mm512_add_ps(acc.low, acc.high);
  const __m512 two = _mm512_add_ps(four, _mm512_permute_ps(four, 0x4e));
  float sums[16];
  _mm512_storeu_ps(sums, _mm512_add_ps(two, _mm512_permute_ps(two, 0xb1)));
  for (size_t r = 0; r < 4; ++r) dots[r] = sums[4 * r];
}
