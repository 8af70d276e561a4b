// Pieces of DotBlocksQuantised with AVX2, and with AVX-512 VNNI, like quantised_x86-inl.h, whose sums this uses: included once for each
// by block_dots.cc. No include guard.

// Eight lanes of a row and token.
using DotLanes = __m256[1];

HWY_INLINE void ClearLanes(DotLanes& lanes) { lanes[0] = _mm256_setzero_ps(); }
HWY_INLINE float SumOfLanes(const DotLanes& lanes) { return SumEightLanes(lanes[0]); }
// An F16 scale, in all lanes. Just its two bytes are read: it may be the last of a block, and that the last of the memory.
HWY_INLINE __m256 ScaleAt(const std::byte* at) {
  uint16_t bits;
  std::memcpy(&bits, at, sizeof(bits));
  return _mm256_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)));
}
HWY_INLINE __m256 Negative(__m256 v) { return _mm256_xor_ps(v, _mm256_set1_ps(-0.0f)); }
HWY_INLINE float FirstOf(__m256 v) { return _mm256_cvtss_f32(v); }

// Parts that are unpacked with shifts that the compiler knows, beginning at a multiple of it.
template <class Format>
constexpr size_t kPartsTogether = 1;
template <>
constexpr size_t kPartsTogether<Q4KFormat> = 2;
template <>
constexpr size_t kPartsTogether<Q6KFormat> = 4;

// The stored quants of part `first` + kWithin. Types that few files consist of are left to the compiler.
template <size_t kWithin, class Format>
HWY_INLINE __m256i LoadPart(Format, const std::byte* block, size_t first) {
  EightBytes quants[4];
  Format::Quants(block, first + kWithin, quants);
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(quants));
}

HWY_INLINE __m256i Load32(const std::byte* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }

HWY_INLINE __m256i LoadNibbles(const std::byte* from) {
  const __m256i twice = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  const __m256i shifted = _mm256_srlv_epi32(twice, _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4));
  return _mm256_and_si256(shifted, _mm256_set1_epi8(15));
}

template <size_t kWithin>
HWY_INLINE __m256i LoadPart(Q41Format, const std::byte* block, size_t) {
  return LoadNibbles(block + Q41Format::kQuantsAt);
}

template <size_t kWithin>
HWY_INLINE __m256i LoadPart(Iq4NlFormat, const std::byte* block, size_t) {
  const __m128i values = _mm_loadu_si128(reinterpret_cast<const __m128i*>(Iq4NlFormat::kValues));
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(values), LoadNibbles(block + Iq4NlFormat::kQuantsAt));
}

template <size_t kWithin>
HWY_INLINE __m256i LoadPart(Q4KFormat, const std::byte* block, size_t first) {
  const __m256i pairs = Load32(block + Q4KFormat::kQuantsAt + first / 2 * 32);
  return _mm256_and_si256(kWithin == 0 ? pairs : _mm256_srli_epi16(pairs, 4), _mm256_set1_epi8(15));
}

template <size_t kWithin>
HWY_INLINE __m256i LoadPart(Q6KFormat, const std::byte* block, size_t first) {
  const __m256i pairs = Load32(block + first / 4 * 64 + kWithin % 2 * 32);
  const __m256i low = _mm256_and_si256(kWithin < 2 ? pairs : _mm256_srli_epi16(pairs, 4), _mm256_set1_epi8(15));
  const __m256i fours = Load32(block + Q6KFormat::kHighBitsAt + first / 4 * 32);
  const __m256i moved = kWithin < 3 ? _mm256_slli_epi16(fours, 4 - 2 * static_cast<int>(kWithin % 3)) : _mm256_srli_epi16(fours, 2);
  return _mm256_or_si256(low, _mm256_and_si256(moved, _mm256_set1_epi8(0x30)));
}

HWY_INLINE __m256 Floats(EightBytes integers) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(integers))));
}

// factor * integers * scales of the inputs, in this order, for all groups of a block of 256.
template <class Format>
HWY_INLINE void MultiplyGroups(const EightBytes* integers, __m256 factor, const float* x_scales, float* out) {
  const __m256 x = _mm256_loadu_ps(x_scales);
  if constexpr (Format::kGroupElements == kPartElements) {
    _mm256_storeu_ps(out, _mm256_mul_ps(_mm256_mul_ps(Floats(integers[0]), factor), x));
  } else {
    const __m256 low = _mm256_unpacklo_ps(x, x), high = _mm256_unpackhi_ps(x, x);  // 0 0 1 1 | 4 4 5 5, 2 2 3 3 | 6 6 7 7
    _mm256_storeu_ps(out, _mm256_mul_ps(_mm256_mul_ps(Floats(integers[0]), factor), _mm256_permute2f128_ps(low, high, 0x20)));
    _mm256_storeu_ps(out + 8, _mm256_mul_ps(_mm256_mul_ps(Floats(integers[1]), factor), _mm256_permute2f128_ps(low, high, 0x31)));
  }
}

// The scale that counts for each lane: lanes 0 .. 3 hold elements 0 .. 15 of a part.
template <class Format>
HWY_INLINE __m256 ScaleLanes(const float* scales, size_t part) {
  if constexpr (Format::kGroupElements == kPartElements) {
    return _mm256_broadcast_ss(scales + part);
  } else {
    const __m128i two = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(scales + 2 * part));
    return _mm256_permutevar_ps(_mm256_castsi256_ps(_mm256_broadcastq_epi64(two)), _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1));
  }
}

// A part of all rows and tokens. Where quants are stored kOffset too large, or there are minima, the sums of the inputs are needed too;
// they are the same for all rows.
template <class Format, size_t kWithin, size_t kRows, size_t kTokens>
HWY_INLINE void AddPart(DotLanes (&acc)[kRows][kTokens], const std::byte* const (&blocks)[kRows],
                        const BlockProducts<Format, kRows, kTokens>& products, size_t first, const int8_t* q, size_t columns) {
  constexpr int kOffsetBits = std::countr_zero(static_cast<unsigned>(Format::kOffset));
  __m256i w[kRows];
  FRUGAL_UNROLL
  for (size_t i = 0; i < kRows; ++i) w[i] = LoadPart<kWithin>(Format(), blocks[i], first);
  FRUGAL_UNROLL
  for (size_t t = 0; t < kTokens; ++t) {
    const __m256i x = Load32(reinterpret_cast<const std::byte*>(q + t * columns + (first + kWithin) * kPartElements));
    const __m256i sums_of_x = SumsOfFour(_mm256_set1_epi8(1), x);
    FRUGAL_UNROLL
    for (size_t i = 0; i < kRows; ++i) {
      __m256i sums;
      if constexpr (Format::kSigned) {
        sums = SumsOfFour(_mm256_abs_epi8(w[i]), _mm256_sign_epi8(x, w[i]));
      } else {
        sums = SumsOfFour(w[i], x);
      }
      if constexpr (Format::kOffset != 0) sums = _mm256_sub_epi32(sums, _mm256_slli_epi32(sums_of_x, kOffsetBits));
      __m256& lanes = acc[i][t][0];
      lanes = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), ScaleLanes<Format>(products.scales[i][t], first + kWithin), lanes);
      if constexpr (Format::kHasMins) {
        lanes = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums_of_x), ScaleLanes<Format>(products.mins[i][t], first + kWithin), lanes);
      }
    }
  }
}
