#include "src/cli/product_speeds.h"

#include <gtest/gtest.h>

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
      // A machine that does less than 10 MB or more than 10 TB a second with one thread is not one that was measured.
      EXPECT_GT(bytes_per_second, 1e7) << DTypeName(speed.dtype);
      EXPECT_LT(bytes_per_second, 1e13) << DTypeName(speed.dtype);
    }
  }
}

}  // namespace
}  // namespace frugal
