#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/kernels/elementwise.cc"
// The order is Highway's.
// clang-format off
#include "src/kernels/highway_targets.h"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include <cmath>
#include <limits>

#include "src/base/check.h"
#include "src/kernels/block_formats.h"
#include "src/kernels/block_rows.h"
#include "src/kernels/kernels.h"
#include "src/kernels/scalar.h"
#include "src/kernels/simd-inl.h"
#include "src/kernels/training_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace frugal::HWY_NAMESPACE {
#if !FRUGAL_SCALAR_TARGET

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

float MaxOf(const float* x, size_t size) {
  const FloatTag d;
  FloatVector largest = hn::Set(d, -std::numeric_limits<float>::infinity());
  size_t i = 0;
  for (; i + kWidth <= size; i += kWidth) {
    const FloatVector v = hn::LoadU(d, x + i);
    largest = hn::IfThenElse(hn::Gt(v, largest), v, largest);
  }
  alignas(64) float lanes[kWidth];
  hn::Store(largest, d, lanes);
  float result = lanes[0];
  for (float lane : lanes) result = lane > result ? lane : result;
  for (; i < size; ++i) result = x[i] > result ? x[i] : result;
  return result;
}

void LayerNorm(const float* x, const float* weight, const float* bias, float epsilon, size_t size, float* y) {
  const float count = static_cast<float>(size);
  const float mean = SumOf(size, [x](auto d, size_t i) HWY_ATTR { return hn::LoadU(d, x + i); }) / count;
  const float squares = SumOf(size, [x, mean](auto d, size_t i) HWY_ATTR {
    const auto difference = hn::Sub(hn::LoadU(d, x + i), hn::Set(d, mean));
    return hn::Mul(difference, difference);
  });
  const float inverse = 1.0f / std::sqrt(squares / count + epsilon);
  ForEach(size, [=](auto d, size_t i) HWY_ATTR {
    const auto normal = hn::Mul(hn::Sub(hn::LoadU(d, x + i), hn::Set(d, mean)), hn::Set(d, inverse));
    hn::StoreU(hn::MulAdd(normal, hn::LoadU(d, weight + i), hn::LoadU(d, bias + i)), d, y + i);
  });
}

void Softmax(float* x, size_t size) {
  const float largest = MaxOf(x, size);
  const float sum = SumOf(size, [x, largest](auto d, size_t i) HWY_ATTR {
    const auto e = ExpVector(d, hn::Sub(hn::LoadU(d, x + i), hn::Set(d, largest)));
    hn::StoreU(e, d, x + i);
    return e;
  });
  ForEach(size, [=](auto d, size_t i)
                    HWY_ATTR { hn::StoreU(hn::Div(hn::LoadU(d, x + i), hn::Set(d, sum)), d, x + i); });
}

void AddBiasRelu(float* x, const float* bias, size_t size) {
  ForEach(size, [=](auto d, size_t i) HWY_ATTR {
    auto value = hn::LoadU(d, x + i);
    if (bias != nullptr) value = hn::Add(value, hn::LoadU(d, bias + i));
    hn::StoreU(hn::IfThenZeroElse(hn::Le(value, hn::Zero(d)), value), d, x + i);
  });
}

void Add(float* x, const float* y, size_t size) {
  ForEach(size, [=](auto d, size_t i)
                    HWY_ATTR { hn::StoreU(hn::Add(hn::LoadU(d, x + i), hn::LoadU(d, y + i)), d, x + i); });
}

void Scale(float* x, float scale, size_t size) {
  ForEach(size, [=](auto d, size_t i)
                    HWY_ATTR { hn::StoreU(hn::Mul(hn::LoadU(d, x + i), hn::Set(d, scale)), d, x + i); });
}

void Exp(float* x, size_t size) {
  ForEach(size, [=](auto d, size_t i) HWY_ATTR { hn::StoreU(ExpVector(d, hn::LoadU(d, x + i)), d, x + i); });
}

void Sigmoid(float* x, size_t size) {
  ForEach(size, [=](auto d, size_t i) HWY_ATTR {
    const auto e = ExpVector(d, hn::Neg(hn::LoadU(d, x + i)));
    const auto one = hn::Set(d, 1.0f);
    hn::StoreU(hn::Div(one, hn::Add(one, e)), d, x + i);
  });
}

template <class Row>
void ConvertRow(const std::byte* from, size_t size, float* to) {
  ForEach(size, [=](auto d, size_t i) HWY_ATTR { hn::StoreU(Row::Load(d, from, i), d, to + i); });
}

void ConvertToFloat(DType dtype, const std::byte* from, size_t size, float* to) {
  switch (dtype) {
    case DType::kF32:
      return ConvertRow<F32Row>(from, size, to);
    case DType::kF16:
      return ConvertRow<F16Row>(from, size, to);
    case DType::kBF16:
      return ConvertRow<BF16Row>(from, size, to);
    case DType::kQ8_0:
      return ConvertRow<Q8Row>(from, size, to);
    case DType::kQ4_0:
      return ConvertRow<Q4Row>(from, size, to);
    default:
      CHECK(false);
  }
}

void FloatToHalves(const float* from, size_t size, std::byte* to) {
  ForEach(size, [=](auto d, size_t i) HWY_ATTR {
    const hn::Rebind<hwy::float16_t, decltype(d)> dh;
    hn::StoreU(hn::DemoteTo(dh, hn::LoadU(d, from + i)), dh, reinterpret_cast<hwy::float16_t*>(to) + i);
  });
}

void ConvertFromFloat(DType dtype, const float* from, size_t size, std::byte* to) {
  if (dtype == DType::kF16) return FloatToHalves(from, size, to);
  scalar::ConvertFromFloat(dtype, from, size, to);
}

bool AllFinite(const float* x, size_t size) {
  const FloatTag d;
  const hn::RebindToUnsigned<FloatTag> du;
  const auto exponent = hn::Set(du, 0x7f800000u);
  auto bad = hn::Zero(du);
  size_t i = 0;
  for (; i + kWidth <= size; i += kWidth) {
    const auto bits = hn::And(hn::BitCast(du, hn::LoadU(d, x + i)), exponent);
    bad = hn::Or(bad, hn::VecFromMask(du, hn::Eq(bits, exponent)));
  }
  return hn::AllTrue(du, hn::Eq(bad, hn::Zero(du))) && scalar::AllFinite(x + i, size - i);
}

const char* InstructionSetName() { return hwy::TargetName(HWY_TARGET); }

#else
using scalar::Add;
using scalar::AddBiasRelu;
using scalar::AllFinite;
using scalar::ConvertFromFloat;
using scalar::ConvertToFloat;
using scalar::Exp;
using scalar::LayerNorm;
using scalar::Scale;
using scalar::Sigmoid;
using scalar::Softmax;
const char* InstructionSetName() { return "scalar"; }
#endif  // !FRUGAL_SCALAR_TARGET
}  // namespace frugal::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace frugal {

HWY_EXPORT(Add);
HWY_EXPORT(AddBiasRelu);
HWY_EXPORT(AllFinite);
HWY_EXPORT(ConvertFromFloat);
HWY_EXPORT(ConvertToFloat);
HWY_EXPORT(Exp);
HWY_EXPORT(InstructionSetName);
HWY_EXPORT(LayerNorm);
HWY_EXPORT(Scale);
HWY_EXPORT(Sigmoid);
HWY_EXPORT(Softmax);

void LayerNorm(const float* x, const float* weight, const float* bias, float epsilon, size_t size, float* y) {
  HWY_DYNAMIC_DISPATCH(LayerNorm)(x, weight, bias, epsilon, size, y);
}
void Softmax(float* x, size_t size) { HWY_DYNAMIC_DISPATCH(Softmax)(x, size); }
void AddBiasRelu(float* x, const float* bias, size_t size) {
  HWY_DYNAMIC_DISPATCH(AddBiasRelu)(x, bias, size);
}
void Add(float* x, const float* y, size_t size) { HWY_DYNAMIC_DISPATCH(Add)(x, y, size); }
void Scale(float* x, float scale, size_t size) { HWY_DYNAMIC_DISPATCH(Scale)(x, scale, size); }
void Exp(float* x, size_t size) { HWY_DYNAMIC_DISPATCH(Exp)(x, size); }
void Sigmoid(float* x, size_t size) { HWY_DYNAMIC_DISPATCH(Sigmoid)(x, size); }
void ConvertToFloat(DType dtype, const std::byte* from, size_t size, float* to) {
  CHECK(!IsQuantised(dtype) || size % TraitsOf(dtype).block_elements == 0);
  if (HasBlockFormat(dtype)) return BlocksToFloat(dtype, from, size, to);
  HWY_DYNAMIC_DISPATCH(ConvertToFloat)(dtype, from, size, to);
}
void ConvertFromFloat(DType dtype, const float* from, size_t size, std::byte* to) {
  HWY_DYNAMIC_DISPATCH(ConvertFromFloat)(dtype, from, size, to);
}
bool AllFinite(const float* x, size_t size) { return HWY_DYNAMIC_DISPATCH(AllFinite)(x, size); }
const char* InstructionSetName() { return HWY_DYNAMIC_DISPATCH(InstructionSetName)(); }

}  // namespace frugal
#endif  // HWY_ONCE
