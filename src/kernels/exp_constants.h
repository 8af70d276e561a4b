// The exponential function of the kernels, in float, with the same steps in scalar and SIMD code:
//   n = round(x / ln 2), r = x - n ln 2 (Cody and Waite: ln 2 in two parts), e^x = 2^n e^r,
// and e^r by its Taylor series to r^7: |r| <= ln(2)/2, so the first term left out, r^8 / 8!, is below 6e-9.
// 2^n is multiplied in two steps, since 2^n itself may be no normal number where the result is denormal.
#pragma once

namespace frugal::exp_constants {

inline constexpr float kInverseLn2 = 0x1.715476p+0f;
inline constexpr float kLn2High = 0x1.62e4p-1f;    // 15 significant bits: n * kLn2High is exact
inline constexpr float kLn2Low = 0x1.7f7d1cp-20f;  // ln 2 - kLn2High
inline constexpr float kRound = 0x1.8p+23f;  // adding it rounds to an integer, in the low bits of the sum
inline constexpr float kLowest = -104.0f;    // e^-104 < 2^-150: rounds to 0
inline constexpr float kHighest = 89.0f;     // e^89 > FLT_MAX
inline constexpr float kTaylor[] = {1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24,
                                    1.0f / 6,    0.5f,       1.0f,       1.0f};

}  // namespace frugal::exp_constants
