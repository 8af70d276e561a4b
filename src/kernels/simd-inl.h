// Pieces of the SIMD kernels, compiled once for each instruction set: loads of rows as float, the 32 lanes
// and their sum, loops over elements, and e^x. The guard is Highway's: the file is included once for each target.
#if defined(FRUGAL_KERNELS_SIMD_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef FRUGAL_KERNELS_SIMD_INL_H
#undef FRUGAL_KERNELS_SIMD_INL_H
#else
#define FRUGAL_KERNELS_SIMD_INL_H
#endif

#include <hwy/highway.h>

#include <cstring>
#include <type_traits>

#include "src/base/check.h"
#include "src/kernels/exp_constants.h"
#include "src/kernels/scalar.h"
#include "src/kernels/unroll.h"

// Targets that run the scalar code.
#undef FRUGAL_SCALAR_TARGET
#define FRUGAL_SCALAR_TARGET (HWY_TARGET == HWY_EMU128 || HWY_TARGET == HWY_SCALAR || !HWY_NATIVE_FMA)

HWY_BEFORE_NAMESPACE();
namespace frugal::HWY_NAMESPACE {
#if !FRUGAL_SCALAR_TARGET
namespace hn = hwy::HWY_NAMESPACE;

using scalar::kLanes;
using FloatTag = hn::CappedTag<float, kLanes>;
using FloatVector = hn::Vec<FloatTag>;
using OneTag = hn::CappedTag<float, 1>;                     // for the last columns of elementwise work
inline constexpr size_t kWidth = hn::MaxLanes(FloatTag());  // floats in a vector
inline constexpr size_t kParts = kLanes / kWidth;           // vectors that hold the 32 lanes

// How a row of each dtype is read: Load gives elements k, k + 1, ... as float. Rows need alignment of 2 bytes
// only.
struct F32Row {
  static constexpr size_t kGroupBytes = kLanes * 4;
  static size_t Offset(size_t k) { return k * 4; }
  template <class D>
  static HWY_INLINE hn::Vec<D> Load(D d, const std::byte* row, size_t k) {
    if constexpr (hn::MaxLanes(D()) == 1) {
      float value;  // a row may be misaligned, which only loads of whole vectors allow
      std::memcpy(&value, row + Offset(k), sizeof(value));
      return hn::Set(d, value);
    } else {
      return hn::LoadU(d, reinterpret_cast<const float*>(row) + k);
    }
  }
};

struct F16Row {
  static constexpr size_t kGroupBytes = kLanes * 2;
  static size_t Offset(size_t k) { return k * 2; }
  template <class D>
  static HWY_INLINE hn::Vec<D> Load(D d, const std::byte* row, size_t k) {
    const hn::Rebind<hwy::float16_t, D> dh;
    return hn::PromoteTo(d, hn::LoadU(dh, reinterpret_cast<const hwy::float16_t*>(row) + k));
  }
};

struct BF16Row {
  static constexpr size_t kGroupBytes = kLanes * 2;
  static size_t Offset(size_t k) { return k * 2; }
  template <class D>
  static HWY_INLINE hn::Vec<D> Load(D d, const std::byte* row, size_t k) {
    const hn::Rebind<uint16_t, D> d16;
    const hn::Rebind<uint32_t, D> d32;
    const auto bits = hn::PromoteTo(d32, hn::LoadU(d16, reinterpret_cast<const uint16_t*>(row) + k));
    return hn::BitCast(d, hn::ShiftLeft<16>(bits));
  }
};

// The scale of the quantised block, in all lanes.
template <class D>
HWY_INLINE hn::Vec<D> BlockScale(D d, const std::byte* block) {
  const hn::Rebind<hwy::float16_t, D> dh;
  const hn::Rebind<uint16_t, D> d16;
  uint16_t bits;
  std::memcpy(&bits, block, sizeof(bits));
  return hn::PromoteTo(d, hn::BitCast(dh, hn::Set(d16, bits)));
}

// Quantised blocks of 32: an F16 scale, then the elements, which Quants gives without the scale. A vector's
// elements lie in one block (in one half of a Q4_0 block).
template <class Format>
struct QuantisedRow : Format {
  static constexpr size_t kGroupBytes = Format::kBlockBytes;
  static size_t Offset(size_t k) { return k / kLanes * kGroupBytes; }
  template <class D>
  static HWY_INLINE hn::Vec<D> Load(D d, const std::byte* row, size_t k) {
    const std::byte* block = row + Offset(k);
    return hn::Mul(Format::Quants(d, block, k % kLanes), BlockScale(d, block));
  }
};

struct Q8Format {  // 32 int8
  static constexpr size_t kBlockBytes = 34;
  template <class D>
  static HWY_INLINE hn::Vec<D> Quants(D d, const std::byte* block, size_t i) {
    const hn::Rebind<int8_t, D> d8;
    const hn::Rebind<int32_t, D> d32;
    const auto q = hn::LoadU(d8, reinterpret_cast<const int8_t*>(block) + 2 + i);
    return hn::ConvertTo(d, hn::PromoteTo(d32, q));
  }
};

struct Q4Format {  // 16 bytes: elements 0 to 15 in the low nibbles, 16 to 31 in the high ones, 8 more than they are
  static constexpr size_t kBlockBytes = 18;
  template <class D>
  static HWY_INLINE hn::Vec<D> Quants(D d, const std::byte* block, size_t i) {
    const hn::Rebind<uint8_t, D> d8;
    const hn::Rebind<int32_t, D> d32;
    const auto pairs = hn::PromoteTo(d32, hn::LoadU(d8, reinterpret_cast<const uint8_t*>(block) + 2 + i % 16));
    // The nibble where it lies, in the mantissa of a float whose exponent makes it a number of ones: 2^23 or 2^19 plus the nibble.
    const auto bits = i < 16 ? hn::OrAnd(hn::Set(d32, 0x4b000000), pairs, hn::Set(d32, 0x0f))
                             : hn::OrAnd(hn::Set(d32, 0x49000000), pairs, hn::Set(d32, 0xf0));
    return hn::Sub(hn::BitCast(d, bits), hn::Set(d, i < 16 ? 0x1p23f + 8 : 0x1p19f + 8));
  }
};

using Q8Row = QuantisedRow<Q8Format>;
using Q4Row = QuantisedRow<Q4Format>;

template <class Row>
constexpr bool kIsQuantisedRow = std::is_same_v<Row, Q8Row> || std::is_same_v<Row, Q4Row>;

// f(row) with the type's struct: F32, F16 or BF16.
template <class F>
HWY_INLINE void WithFloatRow(DType dtype, const F& f) {
  switch (dtype) {
    case DType::kF32:
      return f(F32Row());
    case DType::kF16:
      return f(F16Row());
    case DType::kBF16:
      return f(BF16Row());
    default:
      CHECK(false);
  }
}

// Those, Q8_0 or Q4_0.
template <class F>
HWY_INLINE void WithRow(DType dtype, const F& f) {
  if (dtype == DType::kQ8_0) return f(Q8Row());
  if (dtype == DType::kQ4_0) return f(Q4Row());
  WithFloatRow(dtype, f);
}

// The last columns, fewer than 32, copied behind each other and padded so that a step with the padding
// changes no lane: weights with +0, x with -0: their product is -0, and acc + -0 is acc, whatever its sign.
template <class Row>
struct RowTail {
  alignas(64) std::byte bytes[Row::kGroupBytes];
  void Fill(const std::byte* row, size_t full, size_t columns) {
    std::memset(bytes, 0, sizeof(bytes));
    std::memcpy(bytes, row + Row::Offset(full), Row::Offset(columns) - Row::Offset(full));
  }
};

struct TokenTail {
  alignas(64) float values[kLanes];
  void Fill(const float* x, size_t full, size_t columns) {
    for (float& value : values) value = -0.0f;
    std::memcpy(values, x + full, (columns - full) * sizeof(float));
  }
};

// Bit i: a[i] is not 0. `count` is at most 32. A NaN is not 0; Highway's Ne says otherwise.
HWY_INLINE uint32_t NonZeroBits(const float* a, size_t count) {
  uint32_t bits = 0;
  if (count < kLanes) {
    for (size_t i = 0; i < count; ++i) bits |= uint32_t{a[i] != 0.0f} << i;
    return bits;
  }
  const FloatTag d;
  FRUGAL_UNROLL
  for (size_t p = 0; p < kParts; ++p) {
    uint8_t bytes[8] = {};
    hn::StoreMaskBits(d, hn::Not(hn::Eq(hn::LoadU(d, a + p * kWidth), hn::Zero(d))), bytes);
    uint32_t part;
    std::memcpy(&part, bytes, sizeof(part));
    bits |= part << (p * kWidth);
  }
  return bits;
}

// The upper half added to the lower one until four lanes are left.
template <size_t kFloats, class V>
HWY_INLINE hn::Vec<hn::CappedTag<float, 4>> AddHalves(V v) {
  if constexpr (kFloats > 4) {
    const hn::CappedTag<float, kFloats / 2> half;
    return AddHalves<kFloats / 2>(hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
  } else {
    return v;
  }
}

// The first steps of the tree acc[i] += acc[i + s]: s = 16, 8, 4.
HWY_INLINE hn::Vec<hn::CappedTag<float, 4>> SumToFour(FloatVector (&parts)[kParts]) {
  FRUGAL_UNROLL
  for (size_t s = kParts / 2; s > 0; s /= 2) {
    FRUGAL_UNROLL
    for (size_t i = 0; i < s; ++i) parts[i] = hn::Add(parts[i], parts[i + s]);
  }
  return AddHalves<kWidth>(parts[0]);
}

// Four sums at once, from what SumToFour gives for each.
HWY_INLINE hn::Vec<hn::CappedTag<float, 4>> SumFour(const hn::Vec<hn::CappedTag<float, 4>> (&v)[4]) {
  const hn::CappedTag<float, 4> d;
  const auto ab = hn::Add(hn::InterleaveLower(d, v[0], v[1]), hn::InterleaveUpper(d, v[0], v[1]));
  const auto cd = hn::Add(hn::InterleaveLower(d, v[2], v[3]), hn::InterleaveUpper(d, v[2], v[3]));
  return hn::Add(hn::ConcatLowerLower(d, cd, ab), hn::ConcatUpperUpper(d, cd, ab));
}

// Lane sums of the tree acc[i] += acc[i + s], s = 16, 8, 4, 2, 1.
HWY_INLINE float SumLanes(FloatVector (&parts)[kParts]) {
  const auto v4 = SumToFour(parts);
  const auto v2 = hn::Add(v4, hn::Shuffle1032(v4));
  return hn::GetLane(hn::Add(v2, hn::Shuffle2301(v2)));
}

// function(tag, i) for whole vectors, then for the rest one element at a time.
template <class Function>
HWY_INLINE void ForEach(size_t size, const Function& function) {
  size_t i = 0;
  for (; i + kWidth <= size; i += kWidth) function(FloatTag(), i);
  for (; i < size; ++i) function(OneTag(), i);
}

// The sum of value(tag, i) in 32 lanes; a lane without an element in the last group adds -0, which changes no
// sum.
template <class Value>
HWY_INLINE float SumOf(size_t size, const Value& value) {
  const FloatTag d;
  FloatVector parts[kParts];
  FRUGAL_UNROLL
  for (size_t p = 0; p < kParts; ++p) parts[p] = hn::Zero(d);
  size_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    FRUGAL_UNROLL
    for (size_t p = 0; p < kParts; ++p) parts[p] = hn::Add(parts[p], value(d, i + p * kWidth));
  }
  if (i < size) {
    alignas(64) float rest[kLanes];
    for (float& lane : rest) lane = -0.0f;
    for (size_t lane = 0; i < size; ++i, ++lane) rest[lane] = hn::GetLane(value(OneTag(), i));
    FRUGAL_UNROLL
    for (size_t p = 0; p < kParts; ++p) parts[p] = hn::Add(parts[p], hn::Load(d, rest + p * kWidth));
  }
  return SumLanes(parts);
}

// scalar::Exp in vectors: the same operations in the same order.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V ExpVector(D d, V x) {
  using namespace exp_constants;
  const hn::Rebind<int32_t, D> di;
  const V shifted = hn::MulAdd(x, hn::Set(d, kInverseLn2), hn::Set(d, kRound));
  const V n = hn::Sub(shifted, hn::Set(d, kRound));
  V r = hn::MulAdd(n, hn::Set(d, -kLn2High), x);
  r = hn::MulAdd(n, hn::Set(d, -kLn2Low), r);
  V p = hn::Set(d, kTaylor[0]);
  FRUGAL_UNROLL
  for (size_t i = 1; i < sizeof(kTaylor) / sizeof(kTaylor[0]); ++i)
    p = hn::MulAdd(p, r, hn::Set(d, kTaylor[i]));
  const auto power = hn::Sub(hn::BitCast(di, shifted), hn::BitCast(di, hn::Set(d, kRound)));
  const auto half = hn::ShiftRight<1>(power);
  const auto bias = hn::Set(di, 127);
  const V scale_1 = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(half, bias)));
  const V scale_2 = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(hn::Sub(power, half), bias)));
  V result = hn::Mul(hn::Mul(p, scale_1), scale_2);
  result = hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, kLowest)), result);
  result = hn::IfThenElse(hn::Ge(x, hn::Set(d, kHighest)), hn::Inf(d), result);
  return hn::IfThenElse(hn::Ne(x, x), x, result);
}
#endif  // !FRUGAL_SCALAR_TARGET
}  // namespace frugal::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // FRUGAL_KERNELS_SIMD_INL_H
