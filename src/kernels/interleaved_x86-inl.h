// DotInterleavedRows with AVX2, two rows to a vector, and with AVX-512 VNNI (FRUGAL_DPBUSD is defined), four: included once for each by
// interleaved_rows.cc. No include guard.

// How far ahead of its use memory is asked for, with one token.
constexpr size_t kInterleavedPrefetchBytes = 1024;

#ifdef FRUGAL_DPBUSD
using Integers = __m512i;
using Floats = __m512;
constexpr size_t kRowsOfVector = 4;
constexpr size_t kFoursTogether = 1;

HWY_INLINE Floats Zero() { return _mm512_setzero_ps(); }
HWY_INLINE Floats Add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
HWY_INLINE Floats Multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
HWY_INLINE Floats MultiplyAdd(Integers a, Floats b, Floats c) { return _mm512_fmadd_ps(_mm512_cvtepi32_ps(a), b, c); }
template <int kControl>
HWY_INLINE Floats Permute(Floats v) { return _mm512_permute_ps(v, kControl); }
HWY_INLINE Integers Load(const void* at) { return _mm512_loadu_si512(at); }
HWY_INLINE Integers SixteenBytesForEachRow(const void* at) { return _mm512_broadcast_i32x4(_mm_loadu_si128(static_cast<const __m128i*>(at))); }
HWY_INLINE Floats FourFloatsForEachRow(const float* at) { return _mm512_broadcast_f32x4(_mm_loadu_ps(at)); }
HWY_INLINE Floats LoadHalves(const void* at) { return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(at))); }
HWY_INLINE Integers LowNibbles(Integers v) { return _mm512_and_si512(v, _mm512_set1_epi8(15)); }
HWY_INLINE Integers HighNibbles(Integers v) { return LowNibbles(_mm512_srli_epi16(v, 4)); }
HWY_INLINE Integers SumsOfFour(Integers w, Integers x, Integers excess) { return FRUGAL_DPBUSD(excess, w, x); }
HWY_INLINE void Store(Floats v, float* to) { _mm512_storeu_ps(to, v); }

// What the quants being eight too large adds to the sums of four, negated; computed once for all rows.
template <size_t kTokens>
class Excess {
 public:
  HWY_INLINE Excess(const int8_t* q, size_t size) {
    for (size_t k = 0; k < size; k += 64) {
      const __m512i sums = FRUGAL_DPBUSD(_mm512_setzero_si512(), _mm512_set1_epi8(8), _mm512_loadu_si512(q + k));
      _mm512_store_si512(values_ + k / 4, _mm512_sub_epi32(_mm512_setzero_si512(), sums));
    }
  }
  // Of the 16 elements of q from k, which x holds for each row.
  HWY_INLINE Integers Of(Integers, size_t k) const { return SixteenBytesForEachRow(values_ + k / 4); }

 private:
  alignas(64) int32_t values_[kTokens * kMostInterleavedColumns / 4];
};
#else
using Integers = __m256i;
using Floats = __m256;
constexpr size_t kRowsOfVector = 2;
constexpr size_t kFoursTogether = 2;  // two long streams get nearer to memory's speed than one

HWY_INLINE Floats Zero() { return _mm256_setzero_ps(); }
HWY_INLINE Floats Add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
HWY_INLINE Floats Multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
HWY_INLINE Floats MultiplyAdd(Integers a, Floats b, Floats c) { return _mm256_fmadd_ps(_mm256_cvtepi32_ps(a), b, c); }
template <int kControl>
HWY_INLINE Floats Permute(Floats v) { return _mm256_permute_ps(v, kControl); }
HWY_INLINE Integers Load(const void* at) { return _mm256_loadu_si256(static_cast<const __m256i*>(at)); }
HWY_INLINE Integers SixteenBytesForEachRow(const void* at) { return _mm256_broadcastsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(at))); }
HWY_INLINE Floats FourFloatsForEachRow(const float* at) { return _mm256_broadcast_ps(reinterpret_cast<const __m128*>(at)); }
HWY_INLINE Floats LoadHalves(const void* at) { return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(at))); }
HWY_INLINE Integers LowNibbles(Integers v) { return _mm256_and_si256(v, _mm256_set1_epi8(15)); }
HWY_INLINE Integers HighNibbles(Integers v) { return LowNibbles(_mm256_srli_epi16(v, 4)); }
HWY_INLINE Integers SumsOfFour(Integers w, Integers x, Integers excess) {
  return _mm256_madd_epi16(_mm256_sub_epi16(_mm256_maddubs_epi16(w, x), excess), _mm256_set1_epi16(1));
}
HWY_INLINE void Store(Floats v, float* to) { _mm256_storeu_ps(to, v); }

// What the quants being eight too large adds to the sums of two: less work than to read it from where it was kept.
template <size_t kTokens>
class Excess {
 public:
  HWY_INLINE Excess(const int8_t*, size_t) {}
  HWY_INLINE Integers Of(Integers x, size_t) const { return _mm256_maddubs_epi16(_mm256_set1_epi8(8), x); }
};
#endif

constexpr size_t kVectorsOfFour = kInterleavedRows / kRowsOfVector;

// Lanes 0 .. 3 of each of a vector's rows, from the low nibbles, and 4 .. 7, from the high ones.
template <size_t kFours, size_t kVectors, size_t kTokens>
struct RowSums {
  Floats low[kFours][kVectors][kTokens], high[kFours][kVectors][kTokens];
};

// Block kBlock of the parts of kFours times four rows, of each four vectors [first, first + kVectors). The part's columns begin with k, where q
// begins; its scales times the inputs' are both_scales.
template <int kBlock, size_t kFours, size_t kVectors, size_t kTokens>
HWY_INLINE void AddBlock(RowSums<kFours, kVectors, kTokens>& acc, const std::byte* const (&parts)[kFours], size_t first, const int8_t* q,
                         const Excess<kTokens>& excess, size_t columns, size_t k,
                         const Floats (&both_scales)[kFours][kVectors][kTokens]) {
  const size_t nibbles_at = kPartScaleBytes + (kBlock * kInterleavedRows + first * kRowsOfVector) * kNibbleBytes;
  FRUGAL_UNROLL
  for (size_t i = 0; i < kFours * kVectors; ++i) {
    const size_t f = i / kVectors, v = i % kVectors;
    const Integers w = Load(parts[f] + nibbles_at + v * kRowsOfVector * kNibbleBytes);
    const Integers w_low = LowNibbles(w), w_high = HighNibbles(w);
    FRUGAL_UNROLL
    for (size_t t = 0; t < kTokens; ++t) {
      const size_t low = t * columns + kBlock * kQuantisedBlock, high = low + kQuantisedBlock / 2;
      const Integers x_low = SixteenBytesForEachRow(q + low), x_high = SixteenBytesForEachRow(q + high);
      const Floats scale = Permute<kBlock * 0x55>(both_scales[f][v][t]);
      acc.low[f][v][t] = MultiplyAdd(SumsOfFour(w_low, x_low, excess.Of(x_low, k + low)), scale, acc.low[f][v][t]);
      acc.high[f][v][t] = MultiplyAdd(SumsOfFour(w_high, x_high, excess.Of(x_high, k + high)), scale, acc.high[f][v][t]);
    }
  }
}

// Of each four of rows vectors [first, first + kVectors). // dots [kFours][kTokens][kInterleavedRows]
template <size_t kFours, size_t kVectors, size_t kTokens>
HWY_INLINE void DotVectors(const std::byte* const (&fours)[kFours], size_t first, size_t columns, const QuantisedInput& x,
                           const Excess<kTokens>& excess, float (&dots)[kFours][kTokens][kInterleavedRows]) {
  RowSums<kFours, kVectors, kTokens> acc;
  const std::byte* parts[kFours];
  FRUGAL_UNROLL
  for (size_t f = 0; f < kFours; ++f) {
    parts[f] = fours[f];
    FRUGAL_UNROLL
    for (size_t i = 0; i < kVectors * kTokens; ++i) {
      acc.low[f][i / kTokens][i % kTokens] = acc.high[f][i / kTokens][i % kTokens] = Zero();
    }
  }
  for (size_t k = 0; k < columns; k += kPartColumns) {
    Floats both_scales[kFours][kVectors][kTokens];
    FRUGAL_UNROLL
    for (size_t f = 0; f < kFours; ++f) {
      if constexpr (kTokens == 1) {
        FRUGAL_UNROLL
        for (size_t line = 0; line < kPartBytes; line += kLineBytes) AskFor(parts[f] + kInterleavedPrefetchBytes + line);
      }
      FRUGAL_UNROLL
      for (size_t v = 0; v < kVectors; ++v) {
        const Floats row_scales = LoadHalves(parts[f] + (first + v) * kRowsOfVector * kPartBlocks * kScaleBytes);
        FRUGAL_UNROLL
        for (size_t t = 0; t < kTokens; ++t) {
          both_scales[f][v][t] = Multiply(row_scales, FourFloatsForEachRow(x.scales + (t * columns + k) / kQuantisedBlock));
        }
      }
    }
    AddBlock<0>(acc, parts, first, x.q + k, excess, columns, k, both_scales);
    AddBlock<1>(acc, parts, first, x.q + k, excess, columns, k, both_scales);
    AddBlock<2>(acc, parts, first, x.q + k, excess, columns, k, both_scales);
    AddBlock<3>(acc, parts, first, x.q + k, excess, columns, k, both_scales);
    FRUGAL_UNROLL
    for (size_t f = 0; f < kFours; ++f) parts[f] += kPartBytes;
  }
  FRUGAL_UNROLL
  for (size_t i = 0; i < kFours * kVectors * kTokens; ++i) {
    const size_t f = i / (kVectors * kTokens), v = i / kTokens % kVectors, t = i % kTokens;
    // acc[i] += acc[i + s] for s = 4, 2, 1, of each row.
    const Floats four = Add(acc.low[f][v][t], acc.high[f][v][t]);
    const Floats two = Add(four, Permute<0x4e>(four));
    float sums[4 * kRowsOfVector];
    Store(Add(two, Permute<0xb1>(two)), sums);
    for (size_t r = 0; r < kRowsOfVector; ++r) dots[f][t][(first + v) * kRowsOfVector + r] = sums[4 * r];
  }
}

// Of the four rows from each of first_rows, those within [begin, end). Of many tokens' sums the registers hold one vector's.
template <size_t kFours, size_t kTokens>
HWY_INLINE void DotFours(const std::byte* rows, const size_t (&first_rows)[kFours], size_t begin, size_t end, size_t columns,
                         const QuantisedInput& x, const Excess<kTokens>& excess, float* out, size_t out_stride) {
  constexpr size_t kVectors = kTokens == 1 ? kVectorsOfFour : 1;
  const std::byte* fours[kFours];
  for (size_t f = 0; f < kFours; ++f) fours[f] = rows + first_rows[f] * RowBytesOf(columns);
  float dots[kFours][kTokens][kInterleavedRows];
  for (size_t v = 0; v < kVectorsOfFour; v += kVectors) DotVectors<kFours, kVectors, kTokens>(fours, v, columns, x, excess, dots);
  for (size_t f = 0; f < kFours; ++f) {
    const size_t from = std::max(first_rows[f], begin), to = std::min(first_rows[f] + kInterleavedRows, end);
    for (size_t t = 0; t < kTokens; ++t) std::copy_n(dots[f][t] + (from - first_rows[f]), to - from, out + t * out_stride + from);
  }
}

// Rows [begin, end), which need not begin or end with four.
template <size_t kTokens>
void DotTokens(const std::byte* rows, size_t begin, size_t end, size_t columns, const QuantisedInput& x, float* out, size_t out_stride) {
  const Excess<kTokens> excess(x.q, kTokens * columns);
  size_t row = begin / kInterleavedRows * kInterleavedRows;
  if constexpr (kTokens == 1 && kFoursTogether == 2) {
    const size_t step = (end - row + kInterleavedRows - 1) / kInterleavedRows / 2 * kInterleavedRows;
    for (const size_t half = row + step; row < half; row += kInterleavedRows) {
      DotFours<2, 1>(rows, {row, row + step}, begin, end, columns, x, excess, out, out_stride);
    }
    row += step;
  }
  for (; row < end; row += kInterleavedRows) DotFours<1, kTokens>(rows, {row}, begin, end, columns, x, excess, out, out_stride);
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
