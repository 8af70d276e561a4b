#include "src/cli/product_speeds.h"

#include <gtest/gtest.h>

#include <cmath>
#include <iterator>

#include "src/tensor/dtype.h"

namespace frugal {
namespace {

TEST(ProductSpeedsTest, EveryTypeOfWeightsHasThem) {
  const Result<std::vector<ProductSpeed>> speeds = MeasureProductSpeeds();
  ASSERT_TRUE(speeds) << speeds.error().message;
  ASSERT_EQ(speeds->size(), std::size(kWeightTypes));
  for (size_t i = 0; i < speeds->size(); ++i) {
    const ProductSpeed& speed = (*speeds)[i];
    EXPECT_EQ(speed.dtype, kWeightTypes[i]);
    for (const double bytes_per_second : {speed.matrix, speed.rows, speed.sum}) {
      EXPECT_GT(bytes_per_second, 0) << DTypeName(speed.dtype);
      EXPECT_TRUE(std::isfinite(bytes_per_second)) << DTypeName(speed.dtype);
    }
  }
}

}  // namespace
}  // namespace frugal
