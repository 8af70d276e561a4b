// The vectors of interleaved_dots-inl.h with AVX-512 VNNI, over fours_vnni-inl.h, which is included before it. No include guard.

using Integers = __m512i;
constexpr size_t kRowsOfVector = 4;
constexpr size_t kStepColumns = kQuantisedBlock;
constexpr size_t kFoursTogether = 1;
using Sums = SumsOfFour512;

HWY_INLINE Integers Load(const void* at) { return _mm512_loadu_si512(at); }

// The inputs, and their excess of all columns.
template <size_t kTokens>
class Input {
 public:
  HWY_INLINE Input(const int8_t* q, size_t size) : q_(q) {
    for (size_t k = 0; k < size; k += 64) {
      const __m512i sums = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(8), _mm512_loadu_si512(q + k));
      _mm512_store_si512(excess_ + k / 4, _mm512_sub_epi32(_mm512_setzero_si512(), sums));
    }
  }

  HWY_INLINE InputOfFour At(size_t k) const {
    const size_t half = k + kQuantisedBlock / 2;
    return {ForEachRow(q_ + k), ForEachRow(q_ + half), ForEachRow(excess_ + k / 4), ForEachRow(excess_ + half / 4)};
  }

 private:
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

template <size_t kStep>
HWY_INLINE void AddProducts(const Integers (&w_low)[1], const Integers (&w_high)[1], const InputOfFour& x, const Scales<1>& scales,
                            Sums (&acc)[1]) {
  AddProductsOfFour<kStep>(w_low[0], w_high[0], x, scales.both, acc[0]);
}
