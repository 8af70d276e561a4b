#include "src/kernels/fma_loop.h"

#include <gtest/gtest.h>

namespace frugal {
namespace {

TEST(FmaLoopTest, CountsWhatItDoes) {
  const uint64_t of_one_step = FmaLoop(1);
  EXPECT_GE(of_one_step, 24u);
  EXPECT_EQ(FmaLoop(1000), 1000 * of_one_step);
}

}  // namespace
}  // namespace frugal
