// Pieces of DotBlocksQuantised in vectors of 128 bits, like quantised_128-inl.h, whose sums this uses. Included by block_dots.cc inside
// the namespace of the instruction set; no include guard.

// Lanes 0..3 and 4..7 of a row and token.
using DotLanes = hn::Vec<hn::FixedTag<float, 4>>[2];

HWY_INLINE void ClearLanes(DotLanes& lanes) { lanes[0] = lanes[1] = hn::Zero(hn::FixedTag<float, 4>()); }

HWY_INLINE float SumOfLanes(const DotLanes& lanes) {
  const auto four = hn::Add(lanes[0], lanes[1]);
  const auto two = hn::Add(four, hn::Shuffle1032(four));
  return hn::GetLane(hn::Add(two, hn::Shuffle2301(two)));
}

HWY_INLINE float HalfAt(const std::byte* at) { return hn::GetLane(BlockScale(hn::FixedTag<float, 4>(), at)); }
HWY_INLINE void AskFor(const std::byte*) {}

template <class Format>
constexpr size_t kPartsTogether = 1;

template <class Format>
HWY_INLINE QuantsOfBlock LoadPart(const std::byte* block, size_t part) {
  const hn::FixedTag<int8_t, 16> d8;
  alignas(16) uint8_t quants[kPartElements];
  Format::Quants(block, part, quants);
  const int8_t* const stored = reinterpret_cast<const int8_t*>(quants);  // below 64 where they are not int8 anyway
  const auto offset = hn::Set(d8, static_cast<int8_t>(Format::kOffset));
  return {hn::Sub(hn::Load(d8, stored), offset), hn::Sub(hn::Load(d8, stored + 16), offset)};
}

template <class Format, size_t kWithin, size_t kRows, size_t kTokens>
HWY_INLINE void AddPart(DotLanes (&acc)[kRows][kTokens], const std::byte* const (&blocks)[kRows],
                        const BlockProducts<Format, kRows, kTokens>& products, size_t first, const int8_t* q, size_t columns) {
  const hn::FixedTag<float, 4> d;
  const hn::FixedTag<int8_t, 16> d8;
  const auto one = hn::Set(d8, 1);
  const size_t part = first + kWithin;
  const size_t group = part * kPartElements / Format::kGroupElements;
  const size_t next_group = (part * kPartElements + 16) / Format::kGroupElements;
  FRUGAL_UNROLL
  for (size_t i = 0; i < kRows; ++i) {
    const QuantsOfBlock w = LoadPart<Format>(blocks[i], part);
    FRUGAL_UNROLL
    for (size_t t = 0; t < kTokens; ++t) {
      const int8_t* const from = q + t * columns + part * kPartElements;
      const auto low = hn::LoadU(d8, from);
      const auto high = hn::LoadU(d8, from + 16);
      const float* const scales = products.scales[i][t];
      DotLanes& lanes = acc[i][t];
      lanes[0] = hn::MulAdd(SumsOfFour(w.low, low), hn::Set(d, scales[group]), lanes[0]);
      lanes[1] = hn::MulAdd(SumsOfFour(w.high, high), hn::Set(d, scales[next_group]), lanes[1]);
      if constexpr (Format::kHasMins) {
        const float* const mins = products.mins[i][t];
        lanes[0] = hn::MulAdd(SumsOfFour(one, low), hn::Set(d, mins[group]), lanes[0]);
        lanes[1] = hn::MulAdd(SumsOfFour(one, high), hn::Set(d, mins[next_group]), lanes[1]);
      }
    }
  }
}
