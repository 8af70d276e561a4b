// The specification itself against plain mathematics in double.
#include "src/kernels/scalar.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "src/base/random.h"
#include "src/tensor/half.h"

namespace frugal {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

float ExpOf(float x) {
  scalar::Exp(&x, 1);
  return x;
}

TEST(ScalarTest, ExpIsWithinOneUnitInTheLastPlace) {
  double worst = 0;
  for (uint32_t bits = 0; bits < 0x43000000u; bits += 997) {  // |x| below 128
    for (uint32_t sign : {0u, 0x80000000u}) {
      const float x = std::bit_cast<float>(bits | sign);
      const double exact = std::exp(static_cast<double>(x));
      const float rounded = static_cast<float>(exact);
      const float got = ExpOf(x);
      if (std::isinf(rounded)) {
        ASSERT_EQ(got, rounded) << x;
        continue;
      }
      const double unit = std::nextafter(std::fabs(rounded), kInfinity) - std::fabs(rounded);
      worst = std::max(worst, std::fabs(static_cast<double>(got) - exact) / unit);
    }
  }
  EXPECT_LE(worst, 1.0);
}

TEST(ScalarTest, ExpAtTheEnds) {
  EXPECT_EQ(ExpOf(0.0f), 1.0f);
  EXPECT_EQ(ExpOf(-0.0f), 1.0f);
  EXPECT_EQ(ExpOf(-kInfinity), 0.0f);
  EXPECT_EQ(ExpOf(-1e30f), 0.0f);
  EXPECT_EQ(ExpOf(kInfinity), kInfinity);
  EXPECT_EQ(ExpOf(3e38f), kInfinity);
  EXPECT_TRUE(std::isnan(ExpOf(kNaN)));
}

TEST(ScalarTest, DotRowsIsNearTheExactSum) {
  Random random(3);
  std::vector<float> row(1000);
  std::vector<float> x(1000);
  double exact = 0;
  for (size_t i = 0; i < row.size(); ++i) {
    row[i] = static_cast<float>(random.Uniform() - 0.5);
    x[i] = static_cast<float>(random.Uniform() - 0.5);
    exact += static_cast<double>(row[i]) * x[i];
  }
  float got = 0;
  scalar::DotRows(DType::kF32, {reinterpret_cast<const std::byte*>(row.data()), 0, nullptr}, 0, 1, row.size(),
                  x.data(), 0, 1, &got, 1);
  EXPECT_NEAR(got, exact, 1e-5);
}

// The order of the sum is a promise to stored results: 1 in lane 0 and 2^-24 in lanes 1 to 31 come out as the
// tree says, not as a sum from left to right (1) or an exact one (1 + 31 * 2^-24).
TEST(ScalarTest, DotRowsSumsByTheTree) {
  std::vector<float> row(32, 0x1.0p-24f);
  row[0] = 1.0f;
  const std::vector<float> x(32, 1.0f);
  float got = 0;
  scalar::DotRows(DType::kF32, {reinterpret_cast<const std::byte*>(row.data()), 0, nullptr}, 0, 1, 32,
                  x.data(), 0, 1, &got, 1);
  // Lane 0 stays 1 at s = 16 (a tie to even); at s = 8 it adds 2 * 2^-24, at s = 4 4, at s = 2 8, at s =
  // 1 16.
  EXPECT_EQ(got, 1.0f + 30 * 0x1.0p-24f);
}

TEST(ScalarTest, SoftmaxSumsToOneAndKeepsNaNVisible) {
  std::vector<float> x = {1.0f, 2.0f, 3.0f, -kInfinity, 1000.0f, 999.0f};
  scalar::Softmax(x.data(), x.size());
  EXPECT_EQ(x[3], 0.0f);
  EXPECT_NEAR(x[4], 1 / (1 + std::exp(-1.0)), 1e-6);
  EXPECT_NEAR(x[5], 1 - 1 / (1 + std::exp(-1.0)), 1e-6);
  x[1] = kNaN;
  scalar::Softmax(x.data(), x.size());
  for (float value : x) EXPECT_TRUE(std::isnan(value));
}

TEST(ScalarTest, LayerNormHasMeanZeroAndVarianceOne) {
  const std::vector<float> x = {1, 2, 3, 4, 5, 6, 7, 8};
  const std::vector<float> weight(8, 2.0f);
  const std::vector<float> bias(8, 1.0f);
  std::vector<float> y(8);
  scalar::LayerNorm(x.data(), weight.data(), bias.data(), 0.0f, 8, y.data());
  for (size_t i = 0; i < 8; ++i) EXPECT_NEAR(y[i], (x[i] - 4.5) / std::sqrt(5.25) * 2 + 1, 1e-6);
}

TEST(ScalarTest, ReluShowsNaNAndGivesPlusZero) {
  std::vector<float> x = {-1.0f, -0.0f, kNaN, 2.0f, -kInfinity, kInfinity};
  scalar::AddBiasRelu(x.data(), nullptr, x.size());
  EXPECT_EQ(std::bit_cast<uint32_t>(x[0]), 0u);
  EXPECT_EQ(std::bit_cast<uint32_t>(x[1]), 0u);
  EXPECT_TRUE(std::isnan(x[2]));
  EXPECT_EQ(x[3], 2.0f);
  EXPECT_EQ(x[4], 0.0f);
  EXPECT_EQ(x[5], kInfinity);
}

TEST(ScalarTest, QuantisingRoundsHalfAwayFromZero) {
  std::vector<float> from(32, 0.0f);
  from[0] = -127.0f;  // scale 1
  from[1] = 0.5f;
  from[2] = -1.5f;
  from[3] = 2.4f;
  std::byte block[34];
  scalar::ConvertFromFloat(DType::kQ8_0, from.data(), 32, block);
  std::vector<float> back(32);
  scalar::ConvertToFloat(DType::kQ8_0, block, 32, back.data());
  EXPECT_EQ(back[0], -127.0f);
  EXPECT_EQ(back[1], 1.0f);
  EXPECT_EQ(back[2], -2.0f);
  EXPECT_EQ(back[3], 2.0f);
  EXPECT_EQ(back[4], 0.0f);
}

TEST(ScalarTest, QuantisingShowsWhatIsNotFinite) {
  for (float bad : {kNaN, kInfinity, -kInfinity}) {
    std::vector<float> from(32, 1.0f);
    from[9] = bad;
    std::byte block[34];
    scalar::ConvertFromFloat(DType::kQ8_0, from.data(), 32, block);
    scalar::ConvertToFloat(DType::kQ8_0, block, 32, from.data());
    for (float value : from) EXPECT_TRUE(std::isnan(value));
  }
}

TEST(ScalarTest, QuantisingTinyBlocksGivesZeros) {
  std::vector<float> from(32, 0x1.0p-148f);
  std::byte block[34];
  scalar::ConvertFromFloat(DType::kQ8_0, from.data(), 32, block);
  scalar::ConvertToFloat(DType::kQ8_0, block, 32, from.data());
  for (float value : from) EXPECT_EQ(value, 0.0f);
}

// By llama.cpp's quantize_row_q4_0_ref: the extreme element becomes -8 of a scale with its sign, the others
// round half up.
TEST(ScalarTest, QuantisingToFourBitsMapsTheExtremeToMinusEight) {
  std::vector<float> from(32, 0.0f);
  from[0] = 1.0f;
  from[1] = 0.5f;
  from[2] = -1.5f;
  from[16] = 4.0f;  // scale -0.5
  from[17] = -4.0f;
  std::byte block[18];
  scalar::ConvertFromFloat(DType::kQ4_0, from.data(), 32, block);
  const uint8_t expected[] = {0x00, 0xb8, 0x06, 0xf7, 0x8b, 0x88};
  EXPECT_EQ(std::memcmp(block, expected, sizeof(expected)), 0);
  std::vector<float> back(32);
  scalar::ConvertToFloat(DType::kQ4_0, block, 32, back.data());
  EXPECT_EQ(back[0], 1.0f);
  EXPECT_EQ(back[1], 0.5f);
  EXPECT_EQ(back[2], -1.5f);
  EXPECT_EQ(back[16], 4.0f);
  EXPECT_EQ(back[17], -3.5f);  // cut
  EXPECT_EQ(back[18], 0.0f);
}

TEST(ScalarTest, QuantisedInputsRoundToNearestEven) {
  std::vector<float> x(64, 0.0f);
  x[0] = -127.0f;  // scale 1
  x[1] = 0.5f;
  x[2] = 1.5f;
  x[3] = -2.5f;
  x[40] = kNaN;
  x[41] = 1.0f;
  std::vector<int8_t> q(64);
  std::vector<float> scales(2);
  scalar::QuantiseInput(x.data(), x.size(), q.data(), scales.data());
  EXPECT_EQ(scales[0], 1.0f);
  EXPECT_EQ(std::vector<int8_t>(q.begin(), q.begin() + 5), (std::vector<int8_t>{-127, 0, 2, -2, 0}));
  EXPECT_TRUE(std::isnan(scales[1]));
  EXPECT_EQ(q[41], 0);
  std::vector<float> tiny(32, 0x1.0p-140f);
  scalar::QuantiseInput(tiny.data(), tiny.size(), q.data(), scales.data());
  EXPECT_EQ(q[0], 0);
  EXPECT_TRUE(std::isfinite(scales[0]));
}

// Both quantised: the distance from the product in double is that of the quantised values only.
TEST(ScalarTest, QuantisedDotRowsMultipliesWhatTheBlocksSay) {
  constexpr size_t kColumns = 256;
  Random random(3);
  for (DType dtype : {DType::kQ8_0, DType::kQ4_0}) {
    std::vector<float> weights(kColumns), x(kColumns);
    for (float& value : weights) value = static_cast<float>(random.Uniform() - 0.5);
    for (float& value : x) value = static_cast<float>(random.Uniform() - 0.5);
    std::vector<std::byte> row(RowBytes(dtype, kColumns).value());
    scalar::ConvertFromFloat(dtype, weights.data(), kColumns, row.data());
    scalar::ConvertToFloat(dtype, row.data(), kColumns, weights.data());
    std::vector<int8_t> q(kColumns);
    std::vector<float> scales(kColumns / 32);
    scalar::QuantiseInput(x.data(), kColumns, q.data(), scales.data());
    double exact = 0;
    for (size_t k = 0; k < kColumns; ++k) exact += double{weights[k]} * q[k] * scales[k / 32];
    float got = 0;
    scalar::DotRowsQuantised(dtype, {row.data(), 0, nullptr}, 0, 1, kColumns, {q.data(), scales.data()}, 1, &got, 1);
    EXPECT_NEAR(got, exact, 1e-5);
  }
}

TEST(ScalarTest, SigmoidOfTheEnds) {
  std::vector<float> x = {0.0f, -kInfinity, kInfinity, -200.0f, 200.0f};
  scalar::Sigmoid(x.data(), x.size());
  EXPECT_EQ(x, (std::vector<float>{0.5f, 0.0f, 1.0f, 0.0f, 1.0f}));
}

}  // namespace
}  // namespace frugal
