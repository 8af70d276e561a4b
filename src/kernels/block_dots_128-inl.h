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

HWY_INLINE float ScaleAt(const std::byte* at) { return hn::GetLane(BlockScale(hn::FixedTag<float, 4>(), at)); }
HWY_INLINE float Negative(float v) { return -v; }
HWY_INLINE float FirstOf(float v) { return v; }

template <class Format>
constexpr size_t kPartsTogether = 1;

// factor * integers * scales of the inputs, in this order, for all groups of a block of 256.
template <class Format>
HWY_INLINE void MultiplyGroups(const EightBytes* integers, float factor, const float* x_scales, float* out) {
  const hn::FixedTag<float, 4> d;
  const hn::FixedTag<int8_t, 4> d8;
  const hn::FixedTag<int32_t, 4> d32;
  const int8_t* const from = reinterpret_cast<const int8_t*>(integers);
  const auto multiply = [&](size_t g, auto x) HWY_ATTR {
    const auto scale = hn::Mul(hn::ConvertTo(d, hn::PromoteTo(d32, hn::LoadU(d8, from + g))), hn::Set(d, factor));
    hn::StoreU(hn::Mul(scale, x), d, out + g);
  };
  for (size_t part = 0; part < Format::kElements / kPartElements; part += 4) {
    const auto x = hn::LoadU(d, x_scales + part);
    if constexpr (Format::kGroupElements == kPartElements) {
      multiply(part, x);
    } else {
      multiply(2 * part, hn::InterleaveLower(d, x, x));
      multiply(2 * part + 4, hn::InterleaveUpper(d, x, x));
    }
  }
}

HWY_INLINE QuantsOfBlock LoadPart(Iq4NlFormat, const std::byte* block, size_t) {
  const hn::FixedTag<uint8_t, 16> du8;
  const hn::FixedTag<int8_t, 16> d8;
  const auto values = hn::LoadU(d8, Iq4NlFormat::kValues);
  const auto pairs = hn::LoadU(du8, reinterpret_cast<const uint8_t*>(block) + Iq4NlFormat::kQuantsAt);
  return {hn::TableLookupBytes(values, hn::BitCast(d8, hn::And(pairs, hn::Set(du8, 15)))),
          hn::TableLookupBytes(values, hn::BitCast(d8, hn::ShiftRight<4>(pairs)))};
}

template <class Format>
HWY_INLINE QuantsOfBlock LoadPart(Format, const std::byte* block, size_t part) {
  const hn::FixedTag<int8_t, 16> d8;
  EightBytes quants[4];
  Format::Quants(block, part, quants);
  const int8_t* const stored = reinterpret_cast<const int8_t*>(quants);  // below 64
  const auto offset = hn::Set(d8, static_cast<int8_t>(Format::kOffset));
  return {hn::Sub(hn::LoadU(d8, stored), offset), hn::Sub(hn::LoadU(d8, stored + 16), offset)};
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
    const QuantsOfBlock w = LoadPart(Format(), blocks[i], part);
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
