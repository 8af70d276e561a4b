#include "src/tensor/dtype.h"

#include <gtest/gtest.h>

#include <cmath>

#include "src/tensor/half.h"

namespace frugal {
namespace {

TEST(DTypeTest, RowBytesRefusesPartialQuantisedBlocks) {
  EXPECT_EQ(RowBytes(DType::kQ8_0, 64), 68u);
  EXPECT_EQ(RowBytes(DType::kQ4_0, 64), 36u);
  EXPECT_FALSE(RowBytes(DType::kQ4_0, 16).has_value());
  EXPECT_EQ(RowBytes(DType::kF16, 7), 14u);
  EXPECT_FALSE(RowBytes(DType::kQ8_0, 33).has_value());
  EXPECT_FALSE(RowBytes(DType::kF32, uint64_t{1} << 63).has_value());
}

TEST(DTypeTest, RowsOfKTypesAreWholeBlocksOf256) {
  EXPECT_EQ(RowBytes(DType::kQ4_K, 512), 288u);
  EXPECT_EQ(RowBytes(DType::kQ6_K, 256), 210u);
  EXPECT_FALSE(RowBytes(DType::kQ2_K, 32).has_value());
  EXPECT_FALSE(RowBytes(DType::kQ3_K, 384).has_value());
}

TEST(DTypeTest, ScalesLieInTheirBlock) {
  for (uint32_t number = 0; number < 64; ++number) {
    const std::optional<DTypeTraits> traits = FindDTypeTraits(number);
    if (!traits) continue;
    const DType dtype = static_cast<DType>(number);
    EXPECT_EQ(IsQuantised(dtype), !ScaleOffsets(dtype).empty()) << traits->name;
    EXPECT_EQ(IsQuantised(dtype), traits->block_elements > 1) << traits->name;
    for (uint8_t offset : ScaleOffsets(dtype)) EXPECT_LE(offset + 2u, traits->block_bytes) << traits->name;
  }
}

TEST(DTypeTest, UnknownNumbersAreNoType) {
  EXPECT_FALSE(FindDTypeTraits(31).has_value());
  EXPECT_FALSE(FindDTypeTraits(23).has_value());  // IQ4_XS
  EXPECT_EQ(ParseDType("bf16"), DType::kBF16);
  EXPECT_FALSE(ParseDType("f8").has_value());
}

TEST(HalfTest, EveryHalfSurvivesTheWayThroughFloat) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const uint16_t half = static_cast<uint16_t>(bits);
    const float value = HalfToFloat(half);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(HalfToFloat(FloatToHalf(value))));
    } else {
      EXPECT_EQ(FloatToHalf(value), half);
    }
  }
}

TEST(HalfTest, RoundsToNearestEven) {
  EXPECT_EQ(FloatToHalf(1.0f + 0x1.0p-11f), 0x3c00);              // a tie goes to the even mantissa
  EXPECT_EQ(FloatToHalf(1.0f + 0x1.8p-10f), 0x3c02);              // a tie goes up to the even mantissa
  EXPECT_EQ(FloatToHalf(65519.0f), 0x7bff);
  EXPECT_EQ(FloatToHalf(65520.0f), 0x7c00);
  EXPECT_EQ(FloatToHalf(0x1.0p-25f), 0x0000);
  EXPECT_EQ(FloatToHalf(0x1.8p-25f), 0x0001);
  EXPECT_EQ(FloatToBf16(1.0f + 0x1.0p-8f), 0x3f80);
  EXPECT_EQ(FloatToBf16(1.0f + 0x1.8p-7f), 0x3f82);
}

}  // namespace
}  // namespace frugal
