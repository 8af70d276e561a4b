#include "src/engine/sparsity_meter.h"

#include <gtest/gtest.h>

#include <array>

namespace frugal {
namespace {

TEST(SparsityMeterTest, CountsActiveNeuronsAmongAllOfALayer) {
  SparsityMeter meter(2, 8);
  EXPECT_LT(meter.active_share(), 0);
  const std::array<uint32_t, 4> positions = {0, 3, 4, 7};  // what a predictor chose
  const std::array<float, 10> activations = {1, 0, 0, 2, 9, -1, 0, 0, 0, 9};
  LayerObservation observation;
  observation.num_rows = 2;
  observation.positions = positions;
  observation.activations = activations.data();
  observation.activation_stride = 5;
  meter.Observe(observation);
  EXPECT_LT(meter.active_share(), 0) << "before the last layer";
  observation.layer = 1;
  meter.Observe(observation);
  EXPECT_DOUBLE_EQ(meter.active_share(), 3.0 / 16);
  EXPECT_FALSE(meter.done());
  for (uint32_t token = 2; token < SparsityMeter::kTokens; token += 2) meter.Observe(observation);
  EXPECT_TRUE(meter.done());
}

}  // namespace
}  // namespace frugal
