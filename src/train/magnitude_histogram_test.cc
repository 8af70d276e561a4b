#include "src/train/magnitude_histogram.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "src/base/random.h"

namespace frugal {
namespace {

double ShareAtOrBelow(const std::vector<float>& values, float threshold) {
  const auto is_small = [threshold](float value) { return std::fabs(value) <= threshold; };
  return static_cast<double>(std::count_if(values.begin(), values.end(), is_small)) / static_cast<double>(values.size());
}

TEST(MagnitudeHistogramTest, TheAskedShareDoesNotPassTheThreshold) {
  Random random(7);
  std::vector<float> values(100'000);
  for (float& value : values) value = static_cast<float>(std::exp(20 * random.Uniform() - 15) * (random.Uniform() < 0.5 ? -1 : 1));
  MagnitudeHistogram histogram;
  histogram.Add(values);
  for (const double share : {0.01, 0.25, 0.5, 0.9, 0.99}) {
    const float threshold = histogram.Threshold(share);
    EXPECT_GE(ShareAtOrBelow(values, threshold), share);
    // Within what one bucket, 1 / 2048 wide, holds of 20 e-folds.
    EXPECT_LE(ShareAtOrBelow(values, threshold), share + 1e-3);
    EXPECT_LT(ShareAtOrBelow(values, threshold * (1 - 1.0f / 1024)), share) << "it is the least such bound";
  }
}

TEST(MagnitudeHistogramTest, OrderAndPiecesDoNotMatter) {
  Random random(8);
  std::vector<float> values(1000);
  for (float& value : values) value = static_cast<float>(random.Uniform() - 0.5);
  MagnitudeHistogram whole, pieces;
  whole.Add(values);
  std::reverse(values.begin(), values.end());
  pieces.Add(std::span(values).first(300));
  pieces.Add(std::span(values).subspan(300));
  EXPECT_EQ(whole.Threshold(0.37), pieces.Threshold(0.37));
}

TEST(MagnitudeHistogramTest, ZerosAndWhatIsNotFiniteHaveTheirPlace) {
  MagnitudeHistogram histogram;
  EXPECT_EQ(histogram.Threshold(0.5), 0.0f) << "of nothing";
  const float inf = std::numeric_limits<float>::infinity();
  histogram.Add(std::vector<float>{0.0f, -0.0f, 0.0f, 1.0f, -inf, std::nanf("")});
  EXPECT_LT(histogram.Threshold(0.5), 1e-30f) << "half of them are zero";
  EXPECT_GE(histogram.Threshold(0.6), 1.0f);
  EXPECT_LT(histogram.Threshold(0.6), 1.001f);
  EXPECT_FALSE(std::isfinite(histogram.Threshold(0.9)));
}

}  // namespace
}  // namespace frugal
