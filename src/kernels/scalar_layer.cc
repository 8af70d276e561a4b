// The specification of layer_kernels.h.
#include <cmath>
#include <iterator>

#include "src/kernels/activation_constants.h"
#include "src/kernels/scalar.h"

namespace frugal::scalar {
namespace {

using namespace activation_constants;

float ExpOf(float x) {
  Exp(&x, 1);
  return x;
}

template <size_t n>
float Polynomial(const float (&coefficients)[n], float x) {
  float sum = coefficients[0];
  for (size_t i = 1; i < n; ++i) sum = std::fma(sum, x, coefficients[i]);
  return sum;
}

float Erf(float x) {
  const float magnitude = std::fabs(x);
  if (magnitude < 1.0f) return Polynomial(kErfSmall, x * x) * x;
  const float t = magnitude > kErfEnd ? kErfEnd : magnitude;
  return std::copysign(1.0f - ExpOf(Polynomial(kErfLarge, t)), x);
}

void Rotate(float& a, float& b, float cosine, float sine) {
  const float first = a, second = b;
  a = std::fma(first, cosine, -(second * sine));
  b = std::fma(second, cosine, first * sine);
}

}  // namespace

void RmsNorm(const float* x, const float* weight, float epsilon, size_t size, float* y) {
  float lanes[kLanes] = {};
  for (size_t i = 0; i < size; ++i) lanes[i % kLanes] += x[i] * x[i];
  for (size_t s = kLanes / 2; s > 0; s /= 2) {
    for (size_t i = 0; i < s; ++i) lanes[i] += lanes[i + s];
  }
  const float inverse = 1.0f / std::sqrt(lanes[0] / static_cast<float>(size) + epsilon);
  for (size_t i = 0; i < size; ++i) y[i] = x[i] * inverse * weight[i];
}

void RotateHalves(float* x, const float* cosines, const float* sines, size_t num_pairs) {
  for (size_t i = 0; i < num_pairs; ++i) Rotate(x[i], x[num_pairs + i], cosines[i], sines[i]);
}

void RotateNeighbours(float* x, const float* cosines, const float* sines, size_t num_pairs) {
  for (size_t i = 0; i < num_pairs; ++i) Rotate(x[2 * i], x[2 * i + 1], cosines[i], sines[i]);
}

void ThresholdRelu(float* x, float threshold, size_t size) {
  for (size_t i = 0; i < size; ++i) x[i] = x[i] <= threshold ? 0.0f : x[i];
}

void SquaredRelu(float* x, size_t size) {
  for (size_t i = 0; i < size; ++i) x[i] = x[i] <= 0.0f ? 0.0f : x[i] * x[i];
}

void Silu(float* x, size_t size) {
  for (size_t i = 0; i < size; ++i) x[i] = x[i] / (1.0f + ExpOf(-x[i]));
}

void Gelu(float* x, size_t size) {
  for (size_t i = 0; i < size; ++i) {
    const float half = 0.5f * x[i];
    x[i] = std::fma(half, Erf(x[i] * kSqrtHalf), half);
  }
}

void GeluTanh(float* x, size_t size) {
  for (size_t i = 0; i < size; ++i) {
    const float inner = std::fma(x[i] * x[i] * x[i], kTanhCubic, x[i]);
    x[i] = x[i] / (1.0f + ExpOf(inner * -kTwiceSqrtTwoOverPi));
  }
}

void Multiply(float* x, const float* y, size_t size) {
  for (size_t i = 0; i < size; ++i) x[i] *= y[i];
}

}  // namespace frugal::scalar
