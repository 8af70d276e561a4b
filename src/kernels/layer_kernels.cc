#include "src/kernels/layer_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/kernels/layer_kernels.cc"
// The order is Highway's.
// clang-format off
#include "src/kernels/highway_targets.h"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include <cmath>

#include "src/kernels/activation_constants.h"
#include "src/kernels/scalar.h"
#include "src/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace frugal::HWY_NAMESPACE {
#if !FRUGAL_SCALAR_TARGET

template <class D, size_t n, class V = hn::Vec<D>>
HWY_INLINE V PolynomialVector(D d, const float (&coefficients)[n], V x) {
  V sum = hn::Set(d, coefficients[0]);
  FRUGAL_UNROLL
  for (size_t i = 1; i < n; ++i) sum = hn::MulAdd(sum, x, hn::Set(d, coefficients[i]));
  return sum;
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V ErfVector(D d, V x) {
  using namespace activation_constants;
  const V one = hn::Set(d, 1.0f), end = hn::Set(d, kErfEnd);
  const V magnitude = hn::Abs(x);
  const V small = hn::Mul(PolynomialVector(d, kErfSmall, hn::Mul(x, x)), x);
  const V t = hn::IfThenElse(hn::Gt(magnitude, end), end, magnitude);
  const V large = hn::CopySign(hn::Sub(one, ExpVector(d, PolynomialVector(d, kErfLarge, t))), x);
  return hn::IfThenElse(hn::Lt(magnitude, one), small, large);
}

void RmsNorm(const float* x, const float* weight, float epsilon, size_t size, float* y) {
  const float squares = SumOf(size, [x](auto d, size_t i) HWY_ATTR {
    const auto value = hn::LoadU(d, x + i);
    return hn::Mul(value, value);
  });
  const float inverse = 1.0f / std::sqrt(squares / static_cast<float>(size) + epsilon);
  ForEach(size, [=](auto d, size_t i) HWY_ATTR {
    hn::StoreU(hn::Mul(hn::Mul(hn::LoadU(d, x + i), hn::Set(d, inverse)), hn::LoadU(d, weight + i)), d, y + i);
  });
}

void RotateHalves(float* x, const float* cosines, const float* sines, size_t num_pairs) {
  ForEach(num_pairs, [=](auto d, size_t i) HWY_ATTR {
    const auto a = hn::LoadU(d, x + i), b = hn::LoadU(d, x + num_pairs + i);
    const auto cosine = hn::LoadU(d, cosines + i), sine = hn::LoadU(d, sines + i);
    hn::StoreU(hn::MulSub(a, cosine, hn::Mul(b, sine)), d, x + i);
    hn::StoreU(hn::MulAdd(b, cosine, hn::Mul(a, sine)), d, x + num_pairs + i);
  });
}

void RotateNeighbours(float* x, const float* cosines, const float* sines, size_t num_pairs) {
  const FloatTag d;
  size_t i = 0;
  for (; i + kWidth <= num_pairs; i += kWidth) {
    FloatVector a, b;
    hn::LoadInterleaved2(d, x + 2 * i, a, b);
    const FloatVector cosine = hn::LoadU(d, cosines + i), sine = hn::LoadU(d, sines + i);
    hn::StoreInterleaved2(hn::MulSub(a, cosine, hn::Mul(b, sine)), hn::MulAdd(b, cosine, hn::Mul(a, sine)), d, x + 2 * i);
  }
  scalar::RotateNeighbours(x + 2 * i, cosines + i, sines + i, num_pairs - i);
}

void ThresholdRelu(float* x, float threshold, size_t size) {
  ForEach(size, [=](auto d, size_t i) HWY_ATTR {
    const auto value = hn::LoadU(d, x + i);
    hn::StoreU(hn::IfThenZeroElse(hn::Le(value, hn::Set(d, threshold)), value), d, x + i);
  });
}

void SquaredRelu(float* x, size_t size) {
  ForEach(size, [=](auto d, size_t i) HWY_ATTR {
    const auto value = hn::LoadU(d, x + i);
    hn::StoreU(hn::IfThenZeroElse(hn::Le(value, hn::Zero(d)), hn::Mul(value, value)), d, x + i);
  });
}

void Silu(float* x, size_t size) {
  ForEach(size, [=](auto d, size_t i) HWY_ATTR {
    const auto value = hn::LoadU(d, x + i);
    hn::StoreU(hn::Div(value, hn::Add(hn::Set(d, 1.0f), ExpVector(d, hn::Neg(value)))), d, x + i);
  });
}

void Gelu(float* x, size_t size) {
  ForEach(size, [=](auto d, size_t i) HWY_ATTR {
    const auto value = hn::LoadU(d, x + i);
    const auto half = hn::Mul(hn::Set(d, 0.5f), value);
    hn::StoreU(hn::MulAdd(half, ErfVector(d, hn::Mul(value, hn::Set(d, activation_constants::kSqrtHalf))), half), d, x + i);
  });
}

void GeluTanh(float* x, size_t size) {
  using namespace activation_constants;
  ForEach(size, [=](auto d, size_t i) HWY_ATTR {
    const auto value = hn::LoadU(d, x + i);
    const auto inner = hn::MulAdd(hn::Mul(hn::Mul(value, value), value), hn::Set(d, kTanhCubic), value);
    const auto e = ExpVector(d, hn::Mul(inner, hn::Set(d, -kTwiceSqrtTwoOverPi)));
    hn::StoreU(hn::Div(value, hn::Add(hn::Set(d, 1.0f), e)), d, x + i);
  });
}

void Multiply(float* x, const float* y, size_t size) {
  ForEach(size, [=](auto d, size_t i)
                    HWY_ATTR { hn::StoreU(hn::Mul(hn::LoadU(d, x + i), hn::LoadU(d, y + i)), d, x + i); });
}

#else
using scalar::Gelu;
using scalar::GeluTanh;
using scalar::Multiply;
using scalar::RmsNorm;
using scalar::RotateHalves;
using scalar::RotateNeighbours;
using scalar::Silu;
using scalar::SquaredRelu;
using scalar::ThresholdRelu;
#endif  // !FRUGAL_SCALAR_TARGET
}  // namespace frugal::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace frugal {

HWY_EXPORT(Gelu);
HWY_EXPORT(GeluTanh);
HWY_EXPORT(Multiply);
HWY_EXPORT(RmsNorm);
HWY_EXPORT(RotateHalves);
HWY_EXPORT(RotateNeighbours);
HWY_EXPORT(Silu);
HWY_EXPORT(SquaredRelu);
HWY_EXPORT(ThresholdRelu);

void RmsNorm(const float* x, const float* weight, float epsilon, size_t size, float* y) {
  HWY_DYNAMIC_DISPATCH(RmsNorm)(x, weight, epsilon, size, y);
}
void RotateHalves(float* x, const float* cosines, const float* sines, size_t num_pairs) {
  HWY_DYNAMIC_DISPATCH(RotateHalves)(x, cosines, sines, num_pairs);
}
void RotateNeighbours(float* x, const float* cosines, const float* sines, size_t num_pairs) {
  HWY_DYNAMIC_DISPATCH(RotateNeighbours)(x, cosines, sines, num_pairs);
}
void ThresholdRelu(float* x, float threshold, size_t size) { HWY_DYNAMIC_DISPATCH(ThresholdRelu)(x, threshold, size); }
void SquaredRelu(float* x, size_t size) { HWY_DYNAMIC_DISPATCH(SquaredRelu)(x, size); }
void Silu(float* x, size_t size) { HWY_DYNAMIC_DISPATCH(Silu)(x, size); }
void Gelu(float* x, size_t size) { HWY_DYNAMIC_DISPATCH(Gelu)(x, size); }
void GeluTanh(float* x, size_t size) { HWY_DYNAMIC_DISPATCH(GeluTanh)(x, size); }
void Multiply(float* x, const float* y, size_t size) { HWY_DYNAMIC_DISPATCH(Multiply)(x, y, size); }

}  // namespace frugal
#endif  // HWY_ONCE
