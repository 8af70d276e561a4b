// The vectors of interleaved_dots-inl.h with AVX-512 VNNI. No include guard.

// A vector is a block of each of the four rows, its bytes as the file has them.
using Integers = __m512i;
constexpr size_t kRowsOfVector = 4;
constexpr size_t kStepColumns = kQuantisedBlock;
constexpr size_t kFoursTogether = 1;

HWY_INLINE Integers Load(const void* at) { return _mm512_loadu_si512(at); }
HWY_INLINE Integers LowNibbles(Integers v) { return _mm512_and_si512(v, _mm512_set1_epi8(15)); }
HWY_INLINE Integers HighNibbles(Integers v) { return LowNibbles(_mm512_srli_epi16(v, 4)); }

// The inputs, and what the quants being eight too large adds to the sums of four, negated.
template <size_t kTokens>
class Input {
 public:
  HWY_INLINE Input(const int8_t* q, size_t size) : q_(q) {
    for (size_t k = 0; k < size; k += 64) {
      const __m512i sums = FRUGAL_DPBUSD(_mm512_setzero_si512(), _mm512_set1_epi8(8), _mm512_loadu_si512(q + k));
      _mm512_store_si512(excess_ + k / 4, _mm512_sub_epi32(_mm512_setzero_si512(), sums));
    }
  }

  struct Step {
    Integers low, high, low_excess, high_excess;
  };
  HWY_INLINE Step At(size_t k) const {
    const size_t half = k + kQuantisedBlock / 2;
    return {ForEachRow(q_ + k), ForEachRow(q_ + half), ForEachRow(excess_ + k / 4), ForEachRow(excess_ + half / 4)};
  }

 private:
  static HWY_INLINE Integers ForEachRow(const void* sixteen_bytes) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128(static_cast<const __m128i*>(sixteen_bytes)));
  }

  const int8_t* q_;
  alignas(64) int32_t excess_[kTokens * kMostInterleavedColumns / 4];
};

// A part's scales times the input's.
template <size_t kVectors>
struct Scales {
  HWY_INLINE void Multiply(const std::byte* part, size_t, const float* of_input) {
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(part));
    both = _mm512_mul_ps(_mm512_cvtph_ps(halves), _mm512_broadcast_f32x4(_mm_loadu_ps(of_input)));
  }
  __m512 both;
};

// Lanes 0 .. 3 of each row, and 4 .. 7.
struct Sums {
  __m512 low, high;
};
HWY_INLINE void Clear(Sums& acc) { acc.low = acc.high = _mm512_setzero_ps(); }

template <size_t kStep>
HWY_INLINE void AddProducts(const Integers (&w_low)[1], const Integers (&w_high)[1], const auto& x, const Scales<1>& scales,
                            Sums (&acc)[1]) {
  const __m512 scale = _mm512_permute_ps(scales.both, kStep * 0x55);
  const Integers low = FRUGAL_DPBUSD(x.low_excess, w_low[0], x.low), high = FRUGAL_DPBUSD(x.high_excess, w_high[0], x.high);
  acc[0].low = _mm512_fmadd_ps(_mm512_cvtepi32_ps(low), scale, acc[0].low);
  acc[0].high = _mm512_fmadd_ps(_mm512_cvtepi32_ps(high), scale, acc[0].high);
}

// acc[i] += acc[i + s] for s = 4, 2, 1. // dots [kRowsOfVector]
HWY_INLINE void StoreDots(const Sums& acc, float* dots) {
  const __m512 four = _mm512_add_ps(acc.low, acc.high);
  const __m512 two = _mm512_add_ps(four, _mm512_permute_ps(four, 0x4e));
  float sums[16];
  _mm512_storeu_ps(sums, _mm512_add_ps(two, _mm512_permute_ps(two, 0xb1)));
  for (size_t r = 0; r < kRowsOfVector; ++r) dots[r] = sums[4 * r];
}
