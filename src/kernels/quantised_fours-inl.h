// Q4_0 rows as they lie in the file times one token, four in a vector (fours_vnni-inl.h): over quantised_x86-inl.h, before
// quantised_rows-inl.h. No include guard.

// Scales are converted and multiplied for so many blocks of a row at once.
constexpr size_t kBlocksOfFour = 4;

// Of kBlocks neighbouring blocks, by integer instructions: the units of vectors are busy.
template <size_t kBlocks>
HWY_INLINE int64_t ScaleBits(const std::byte* block) {
  uint64_t bits = 0;
  FRUGAL_UNROLL
  for (size_t i = 0; i < kBlocks; ++i) {
    uint16_t half;
    std::memcpy(&half, block + i * Q4Block::kBytes, sizeof(half));
    bits |= uint64_t{half} << (16 * i);
  }
  return static_cast<int64_t>(bits);
}

HWY_INLINE __m512i LoadFour(const std::byte* const* rows, size_t offset) {
  const auto quants = [&](size_t i) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[i] + offset + 2)); };
  __m512i four = _mm512_castsi128_si512(quants(0));
  four = _mm512_inserti32x4(four, quants(1), 1);
  four = _mm512_inserti32x4(four, quants(2), 2);
  return _mm512_inserti32x4(four, quants(3), 3);
}

template <size_t kBlock, size_t kBlocks>
HWY_INLINE void AddBlocksOfFour(SumsOfFour512& acc, const std::byte* const* rows, size_t b, const int8_t* q, const int32_t* excess,
                                __m512 scales) {
  if constexpr (kBlock < kBlocks) {
    const int8_t* const inputs = q + (b + kBlock) * kQuantisedBlock;
    const InputOfFour x{ForEachRow(inputs), ForEachRow(inputs + kQuantisedBlock / 2), ForEachRow(excess + 8 * kBlock),
                        ForEachRow(excess + 8 * kBlock + 4)};
    const __m512i four = LoadFour(rows, (b + kBlock) * Q4Block::kBytes);
    AddProductsOfFour<kBlock>(LowNibbles(four), HighNibbles(four), x, scales, acc);
    AddBlocksOfFour<kBlock + 1, kBlocks>(acc, rows, b, q, excess, scales);
  }
}

// Blocks [b, b + kBlocks) of all rows.
template <size_t kBlocks, size_t kVectors>
HWY_INLINE void StepOfFours(SumsOfFour512 (&acc)[kVectors], const std::byte* const (&rows)[4 * kVectors], size_t b, const int8_t* q,
                            const float* scales) {
  alignas(32) int32_t excess[kBlocks * 8];
  FRUGAL_UNROLL
  for (size_t k = 0; k < kBlocks; ++k) {
    const __m256i inputs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q + (b + k) * kQuantisedBlock));
    _mm256_store_si256(reinterpret_cast<__m256i*>(excess + 8 * k), Excess(Q4Block(), inputs));
  }
  __m512 x_scales = _mm512_set1_ps(scales[b]);
  if constexpr (kBlocks == kBlocksOfFour) x_scales = _mm512_broadcast_f32x4(_mm_loadu_ps(scales + b));
  FRUGAL_UNROLL
  for (size_t v = 0; v < kVectors; ++v) {
    const auto bits = [&](size_t i) { return ScaleBits<kBlocks>(rows[4 * v + i] + b * Q4Block::kBytes); };
    const __m512 both = _mm512_mul_ps(_mm512_cvtph_ps(_mm256_setr_epi64x(bits(0), bits(1), bits(2), bits(3))), x_scales);
    AddBlocksOfFour<0, kBlocks>(acc[v], rows + 4 * v, b, q, excess, both);
  }
}

// Not inlined, so that the compiler leaves the pointers in memory, from where instructions take them at no cost.
template <size_t kRows>
HWY_NOINLINE void DotFours(const std::byte* const (&rows)[kRows], const std::byte* const (&next)[kRows], size_t num_blocks,
                           const QuantisedInput& x, float (&dots)[kRows]) {
  LinesAhead<kRows> lines(num_blocks * Q4Block::kBytes);
  SumsOfFour512 acc[kRows / 4];
  FRUGAL_UNROLL
  for (size_t v = 0; v < kRows / 4; ++v) Clear(acc[v]);
  size_t b = 0;
  for (; b + kBlocksOfFour <= num_blocks; b += kBlocksOfFour) {
    // Four blocks are more than a line, two are less.
    lines.AskBefore((b + 2) * Q4Block::kBytes, rows, next);
    lines.AskBefore((b + 4) * Q4Block::kBytes, rows, next);
    StepOfFours<kBlocksOfFour>(acc, rows, b, x.q, x.scales);
  }
  for (; b < num_blocks; ++b) {
    lines.AskBefore((b + 1) * Q4Block::kBytes, rows, next);
    StepOfFours<1>(acc, rows, b, x.q, x.scales);
  }
  FRUGAL_UNROLL
  for (size_t v = 0; v < kRows / 4; ++v) StoreDots(acc[v], dots + 4 * v);
}

template <class Block, size_t kRows>
  requires(std::is_same_v<Block, Q4Block> && kRows > kStreams)
HWY_INLINE void OneTokenTile(const RowSet& set, const RowTile& tile, size_t columns, const QuantisedInput& x, float* out) {
  const std::byte* rows[kRows];
  const std::byte* next[kRows];
  for (size_t i = 0; i < kRows; ++i) {
    rows[i] = set.row(tile.row(i));
    next[i] = set.row(tile.next_row(i));
  }
  float dots[kRows];
  DotFours(rows, next, columns / kQuantisedBlock, x, dots);
  for (size_t i = 0; i < kRows; ++i) out[tile.row(i)] = dots[i];
}
