#include "src/kernels/plain_read.h"

#include <gtest/gtest.h>

namespace frugal {
namespace {

TEST(PlainReadTest, TouchesEveryByte) {
  alignas(64) static std::byte bytes[1024];
  ASSERT_EQ(PlainRead(bytes, sizeof(bytes)), 0u);
  for (std::byte& byte : bytes) {
    byte = std::byte{1};
    EXPECT_NE(PlainRead(bytes, sizeof(bytes)), 0u) << &byte - bytes;
    byte = std::byte{0};
  }
}

}  // namespace
}  // namespace frugal
