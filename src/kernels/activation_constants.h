// Constants of the activations, shared by scalar and SIMD code.
//   |x| < 1: erf(x) = x P(x^2); else erf(x) = sign(x) (1 - e^Q(|x|)), 1 from 4 on, where 1 - erf < 2^-25.
// P and Q interpolate at Chebyshev's nodes of [0, 1] and [1, 4]; their own errors are below 1e-9.
#pragma once

namespace frugal::activation_constants {

// Highest power first.
inline constexpr float kErfSmall[] = {-9.667044650996104e-06f, 0.00011265958892181516f, -0.0008484080317430198f, 0.005221031606197357f,
                                      -0.026865430176258087f,  0.11283782124519348f,    -0.37612637877464294f,   1.128379225730896f};
inline constexpr float kErfLarge[] = {1.6371513993362896e-06f, -4.605804133461788e-05f, 0.0005968056502752006f,
                                      -0.004759596195071936f,  0.026421135291457176f,   -0.11008008569478989f,
                                      -0.6318260431289673f,    -1.1302334070205688f,    0.0003201380604878068f};
inline constexpr float kErfEnd = 4.0f;

inline constexpr float kSqrtHalf = 0.70710678118654752440f;
inline constexpr float kTwiceSqrtTwoOverPi = 1.5957691216057308f;  // 2 sqrt(2 / pi)
inline constexpr float kTanhCubic = 0.044715f;

}  // namespace frugal::activation_constants
