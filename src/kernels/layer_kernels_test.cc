#include "src/kernels/layer_kernels.h"

#include <gtest/gtest.h>

// The order is Highway's.
// clang-format off
#include "src/kernels/highway_targets.h"
#include <hwy/highway.h>
// clang-format on

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "src/base/function_ref.h"
#include "src/base/random.h"
#include "src/kernels/scalar.h"

namespace frugal {
namespace {

constexpr uint64_t kSeed = 20250301;

std::vector<float> Draw(Random& random, size_t size) {
  std::vector<float> values(size);
  for (float& value : values) {
    value = static_cast<float>(random.Uniform() * 20 - 10);
    if (random.Below(50) == 0) value = random.Below(2) == 0 ? std::numeric_limits<float>::quiet_NaN() : std::copysign(1e30f, value);
    if (random.Below(20) == 0) value = std::copysign(0.0f, value);
  }
  return values;
}

// Every instruction set that this processor has.
void ForEachTarget(FunctionRef<void(const std::string& name)> test) {
  for (int64_t rest = HWY_SUPPORTED_TARGETS & HWY_TARGETS; rest != 0; rest &= rest - 1) {
    const int64_t target = rest & -rest;
#if (HWY_TARGETS & (HWY_TARGETS - 1)) != 0
    hwy::SetSupportedTargetsForTest(target);
#endif
    test(hwy::TargetName(target));
  }
#if (HWY_TARGETS & (HWY_TARGETS - 1)) != 0
  hwy::SetSupportedTargetsForTest(0);
#endif
}

// `run` and `specify` change their copy of x, with y as further input.
using Kernel = void (*)(float* x, const float* y, size_t size);

void ExpectSpecified(const char* what, Kernel run, Kernel specify) {
  ForEachTarget([&](const std::string& target) {
    Random random(kSeed);
    for (const size_t size : {1, 2, 7, 8, 16, 31, 32, 33, 64, 127, 1000}) {
      const std::vector<float> x = Draw(random, 2 * size), y = Draw(random, 2 * size);
      std::vector<float> got = x, expected = x;
      run(got.data(), y.data(), size);
      specify(expected.data(), y.data(), size);
      for (size_t i = 0; i < got.size(); ++i) {
        if (std::isnan(got[i]) && std::isnan(expected[i])) continue;
        ASSERT_EQ(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(expected[i]))
            << what << " at " << i << " of " << size << ", " << target << ": " << got[i] << " instead of " << expected[i] << ", seed "
            << kSeed;
      }
    }
  });
}

TEST(LayerKernelsTest, EveryInstructionSetGivesTheSpecifiedBits) {
  ExpectSpecified("RmsNorm", [](float* x, const float* y, size_t n) { RmsNorm(x, y, 1e-5f, n, x); },
                  [](float* x, const float* y, size_t n) { scalar::RmsNorm(x, y, 1e-5f, n, x); });
  ExpectSpecified("RotateHalves", [](float* x, const float* y, size_t n) { RotateHalves(x, y, y + n, n); },
                  [](float* x, const float* y, size_t n) { scalar::RotateHalves(x, y, y + n, n); });
  ExpectSpecified("RotateNeighbours", [](float* x, const float* y, size_t n) { RotateNeighbours(x, y, y + n, n); },
                  [](float* x, const float* y, size_t n) { scalar::RotateNeighbours(x, y, y + n, n); });
  ExpectSpecified("ThresholdRelu", [](float* x, const float*, size_t n) { ThresholdRelu(x, 0.5f, n); },
                  [](float* x, const float*, size_t n) { scalar::ThresholdRelu(x, 0.5f, n); });
  ExpectSpecified("SquaredRelu", [](float* x, const float*, size_t n) { SquaredRelu(x, n); },
                  [](float* x, const float*, size_t n) { scalar::SquaredRelu(x, n); });
  ExpectSpecified("Silu", [](float* x, const float*, size_t n) { Silu(x, n); },
                  [](float* x, const float*, size_t n) { scalar::Silu(x, n); });
  ExpectSpecified("Gelu", [](float* x, const float*, size_t n) { Gelu(x, n); },
                  [](float* x, const float*, size_t n) { scalar::Gelu(x, n); });
  ExpectSpecified("GeluTanh", [](float* x, const float*, size_t n) { GeluTanh(x, n); },
                  [](float* x, const float*, size_t n) { scalar::GeluTanh(x, n); });
  ExpectSpecified("Multiply", Multiply, scalar::Multiply);
}

TEST(LayerKernelsTest, ActivationsAreCloseToTheirDefinitions) {
  for (double x = -12; x <= 12; x += 1.0 / 512) {
    const auto value = [x](void (*activate)(float*, size_t)) {
      float y = static_cast<float>(x);
      activate(&y, 1);
      return static_cast<double>(y);
    };
    const double bound = 4e-7 * (1.0 + std::fabs(x));
    EXPECT_NEAR(value(Silu), x / (1 + std::exp(-x)), bound) << x;
    EXPECT_NEAR(value(Gelu), x * (1 + std::erf(x / std::sqrt(2.0))) / 2, bound) << x;
    EXPECT_NEAR(value(GeluTanh), x * (1 + std::tanh(std::sqrt(2 / 3.14159265358979) * (x + 0.044715 * x * x * x))) / 2, bound) << x;
    EXPECT_FLOAT_EQ(static_cast<float>(value(SquaredRelu)), static_cast<float>(x > 0 ? x * x : 0.0)) << x;
  }
}

TEST(LayerKernelsTest, ANanStaysANan) {
  for (void (*activate)(float*, size_t) : {SquaredRelu, Silu, Gelu, GeluTanh}) {
    float x = std::numeric_limits<float>::quiet_NaN();
    activate(&x, 1);
    EXPECT_TRUE(std::isnan(x));
  }
  float x = std::numeric_limits<float>::quiet_NaN();
  ThresholdRelu(&x, 0.5f, 1);
  EXPECT_TRUE(std::isnan(x));
}

TEST(LayerKernelsTest, TheThresholdItselfIsZero) {
  std::vector<float> x = {0.5f, 0.50001f, -1.0f};
  ThresholdRelu(x.data(), 0.5f, x.size());
  EXPECT_EQ(x, (std::vector<float>{0.0f, 0.50001f, 0.0f}));
}

}  // namespace
}  // namespace frugal
