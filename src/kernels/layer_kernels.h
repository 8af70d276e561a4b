// What the layers of other models than OPT need besides kernels.h: RMSNorm, rotary positions, activations. Plain spans, single-threaded,
// the same bits on every instruction set; scalar:: in scalar.h is the specification. A NaN stays one everywhere: it must reach the logits,
// where it is found.
#pragma once

#include <cstddef>

namespace frugal {

// y = x / sqrt(mean of x^2 + epsilon) * weight (Zhang and Sennrich, arXiv 1910.07467). x may equal y.
void RmsNorm(const float* x, const float* weight, float epsilon, size_t size, float* y);

// Rotary positions (Su et al., arXiv 2104.09864), in place: pair i (a, b) becomes (a cos[i] - b sin[i], b cos[i] + a sin[i]).
// Pair i is x[i] and x[num_pairs + i].
void RotateHalves(float* x, const float* cosines, const float* sines, size_t num_pairs);
// Pair i is x[2 i] and x[2 i + 1].
void RotateNeighbours(float* x, const float* cosines, const float* sines, size_t num_pairs);

// In place: 0 where x <= threshold, else x. A threshold of 0 is ReLU.
void ThresholdRelu(float* x, float threshold, size_t size);
// max(x, 0)^2 (So et al., arXiv 2109.08668).
void SquaredRelu(float* x, size_t size);
// x / (1 + e^-x).
void Silu(float* x, size_t size);
// x (1 + erf(x / sqrt 2)) / 2, where erf is within 2e-7.
void Gelu(float* x, size_t size);
// Its approximation (Hendrycks and Gimpel, arXiv 1606.08415): tanh instead of erf.
void GeluTanh(float* x, size_t size);
// x[i] *= y[i].
void Multiply(float* x, const float* y, size_t size);

}  // namespace frugal
