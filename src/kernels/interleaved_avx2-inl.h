// The vectors of interleaved_dots-inl.h with AVX2. No include guard.

// A vector is two blocks of one of the four rows, in the order of PlacePairs.
using Integers = __m256i;
constexpr size_t kRowsOfVector = 1;
constexpr size_t kStepColumns = 2 * kQuantisedBlock;
constexpr size_t kFoursTogether = 2;  // two long streams get nearer to memory's speed than one

HWY_INLINE Integers Load(const void* at) { return _mm256_loadu_si256(static_cast<const __m256i*>(at)); }
HWY_INLINE Integers LowNibbles(Integers v) { return _mm256_and_si256(v, _mm256_set1_epi8(15)); }
HWY_INLINE Integers HighNibbles(Integers v) { return LowNibbles(_mm256_srli_epi16(v, 4)); }

constexpr int kZero = 1 << 15;  // added to the sums of four, so that none is negative

// Of each four of the inputs the first pair, the second pair, and kZero less what the quants being eight too large adds to their sum.
template <size_t kTokens>
class Input {
 public:
  HWY_INLINE Input(const int8_t* q, size_t size) {
    const __m256i pair = _mm256_set1_epi32(0xffff);
    for (size_t k = 0; k < size; k += 2 * kQuantisedBlock) {
      const __m256i a = Load(q + k), b = Load(q + k + kQuantisedBlock);
      const __m256i excess = _mm256_packs_epi32(EightTimesFour(a), EightTimesFour(b));
      Store(_mm256_packus_epi32(_mm256_and_si256(a, pair), _mm256_and_si256(b, pair)), first_ + k / 2);
      Store(_mm256_packus_epi32(_mm256_srli_epi32(a, 16), _mm256_srli_epi32(b, 16)), second_ + k / 2);
      Store(_mm256_sub_epi16(_mm256_set1_epi16(static_cast<int16_t>(kZero)), excess), zeros_ + k / 4);
    }
  }

  struct Step {
    Integers first, second, zeros;
  };
  HWY_INLINE Step At(size_t k) const { return {Load(first_ + k / 2), Load(second_ + k / 2), Load(zeros_ + k / 4)}; }

 private:
  static HWY_INLINE __m256i EightTimesFour(__m256i x) {
    return _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(8), x), _mm256_set1_epi16(1));
  }
  static HWY_INLINE void Store(__m256i v, void* to) { _mm256_store_si256(static_cast<__m256i*>(to), v); }

  alignas(32) int8_t first_[kTokens * kMostInterleavedColumns / 2];
  alignas(32) int8_t second_[kTokens * kMostInterleavedColumns / 2];
  alignas(32) int16_t zeros_[kTokens * kMostInterleavedColumns / 4];
};

// The scales of a part of rows [first, first + kVectors) times the input's.
template <size_t kVectors>
struct Scales {
  HWY_INLINE void Multiply(const std::byte* part, size_t first, const float* of_input) {
    const __m128 x = _mm_loadu_ps(of_input);
    FRUGAL_UNROLL
    for (size_t v = 0; v < kVectors; ++v) {
      const __m128i halves = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(part + (first + v) * kPartBlocks * kScaleBytes));
      _mm_store_ps(both[v], _mm_mul_ps(_mm_cvtph_ps(halves), x));
    }
  }
  alignas(16) float both[kVectors][kPartBlocks];
};

// A row's lanes.
struct Sums {
  __m256 lanes;
};
HWY_INLINE void Clear(Sums& acc) { acc.lanes = _mm256_setzero_ps(); }

// The sums of four need 16 bits; behind an exponent of 2^23 these are the last bits of floats.
template <size_t kStep, size_t kVectors>
HWY_INLINE void AddProducts(const Integers (&w_first)[kVectors], const Integers (&w_second)[kVectors], const auto& x,
                            const Scales<kVectors>& scales, Sums (&acc)[kVectors]) {
  const __m256i exponent = _mm256_set1_epi16(0x4b00);
  const __m256 zero = _mm256_set1_ps((1 << 23) + kZero);
  Integers sums[kVectors];
  __m256 block[kVectors], next_block[kVectors];
  FRUGAL_UNROLL
  for (size_t v = 0; v < kVectors; ++v) sums[v] = _mm256_add_epi16(_mm256_maddubs_epi16(w_first[v], x.first), x.zeros);
  FRUGAL_UNROLL
  for (size_t v = 0; v < kVectors; ++v) sums[v] = _mm256_add_epi16(sums[v], _mm256_maddubs_epi16(w_second[v], x.second));
  FRUGAL_UNROLL
  for (size_t v = 0; v < kVectors; ++v) {
    block[v] = _mm256_sub_ps(_mm256_castsi256_ps(_mm256_unpacklo_epi16(sums[v], exponent)), zero);
    next_block[v] = _mm256_sub_ps(_mm256_castsi256_ps(_mm256_unpackhi_epi16(sums[v], exponent)), zero);
  }
  FRUGAL_UNROLL
  for (size_t v = 0; v < kVectors; ++v) {
    acc[v].lanes = _mm256_fmadd_ps(block[v], _mm256_broadcast_ss(scales.both[v] + 2 * kStep), acc[v].lanes);
    acc[v].lanes = _mm256_fmadd_ps(next_block[v], _mm256_broadcast_ss(scales.both[v] + 2 * kStep + 1), acc[v].lanes);
  }
}

// acc[i] += acc[i + s] for s = 4, 2, 1. // dots [kRowsOfVector]
HWY_INLINE void StoreDots(const Sums& acc, float* dots) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(acc.lanes), _mm256_extractf128_ps(acc.lanes, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  *dots = _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
