// The blocks of quantised types against gguf-py (tests/data/quantised) and against blocks written by hand.
#include "src/kernels/block_formats.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cctype>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <vector>

#include "src/base/random.h"
#include "src/kernels/kernels.h"
#include "src/kernels/scalar.h"
#include "src/tensor/half.h"

namespace frugal {
namespace {

constexpr DType kTypes[] = {DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kQ2_K,  DType::kQ3_K,
                            DType::kQ4_K, DType::kQ5_K, DType::kQ6_K, DType::kIQ4_NL};

void SetHalf(std::vector<std::byte>& block, size_t at, float value) {
  const uint16_t bits = FloatToHalf(value);
  std::memcpy(block.data() + at, &bits, sizeof(bits));
}

std::vector<float> ToFloat(DType dtype, const std::vector<std::byte>& blocks) {
  const DTypeTraits traits = TraitsOf(dtype);
  std::vector<float> result(blocks.size() / traits.block_bytes * traits.block_elements);
  scalar::ConvertToFloat(dtype, blocks.data(), result.size(), result.data());
  return result;
}

class BlockFormatsTest : public testing::TestWithParam<DType> {};

INSTANTIATE_TEST_SUITE_P(Types, BlockFormatsTest, testing::ValuesIn(kTypes),
                         [](const auto& type) { return std::string(DTypeName(type.param)); });

TEST_P(BlockFormatsTest, TraitsAndStructAgree) {
  const DTypeTraits traits = TraitsOf(GetParam());
  const std::span<const uint8_t> offsets = ScaleOffsets(GetParam());
  WithBlockFormat(GetParam(), [&](auto format) {
    using Format = decltype(format);
    EXPECT_EQ(Format::kType, GetParam());
    EXPECT_EQ(Format::kBytes, traits.block_bytes);
    EXPECT_EQ(Format::kElements, traits.block_elements);
    EXPECT_EQ(offsets.size(), Format::kHasMins ? 2u : 1u);
    EXPECT_EQ(offsets.front(), Format::kScaleAt);
    if (Format::kHasMins) {
      EXPECT_EQ(offsets.back(), Format::kMinAt);
    }
  });
}

TEST_P(BlockFormatsTest, GivesTheBitsOfGgufPy) {
  std::string name(DTypeName(GetParam()));
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  std::ifstream file(std::string(FRUGAL_SOURCE_DIR) + "/tests/data/quantised/" + name + ".bin", std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  constexpr size_t kElements = 768;
  const size_t size_bytes = RowBytes(GetParam(), kElements).value();
  ASSERT_EQ(bytes.size(), size_bytes + kElements * sizeof(float));
  std::vector<std::byte> blocks(size_bytes);
  std::memcpy(blocks.data(), bytes.data(), size_bytes);
  std::vector<float> expected(kElements), dispatched(kElements);
  std::memcpy(expected.data(), bytes.data() + size_bytes, kElements * sizeof(float));
  const std::vector<float> got = ToFloat(GetParam(), blocks);
  ConvertToFloat(GetParam(), blocks.data(), kElements, dispatched.data());
  for (size_t i = 0; i < kElements; ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(expected[i])) << i << ": " << got[i] << ", expected " << expected[i];
    ASSERT_EQ(std::bit_cast<uint32_t>(dispatched[i]), std::bit_cast<uint32_t>(expected[i])) << i;
  }
}

// Both quantised: the distance from the product in double is that of rounding alone.
TEST_P(BlockFormatsTest, QuantisedDotRowsMultipliesWhatTheBlocksSay) {
  constexpr size_t kColumns = 512;
  Random random(3);
  std::vector<std::byte> row(RowBytes(GetParam(), kColumns).value());
  for (std::byte& byte : row) byte = static_cast<std::byte>(random.Below(256));
  for (size_t b = 0; b < row.size(); b += TraitsOf(GetParam()).block_bytes) {
    for (uint8_t offset : ScaleOffsets(GetParam())) SetHalf(row, b + offset, static_cast<float>(random.Uniform()) / 256);
  }
  const std::vector<float> weights = ToFloat(GetParam(), row);
  std::vector<float> x(kColumns), scales(kColumns / 32);
  std::vector<int8_t> q(kColumns);
  for (float& value : x) value = static_cast<float>(random.Uniform() - 0.5);
  scalar::QuantiseInput(x.data(), kColumns, q.data(), scales.data());
  double exact = 0, magnitude = 0;
  for (size_t k = 0; k < kColumns; ++k) {
    exact += double{weights[k]} * q[k] * scales[k / 32];
    magnitude += std::fabs(double{weights[k]} * q[k] * scales[k / 32]);
  }
  float got = 0;
  scalar::DotRowsQuantised(GetParam(), {row.data(), 0, nullptr}, 0, 1, kColumns, {q.data(), scales.data()}, 1, &got, 1);
  EXPECT_NEAR(got, exact, 1e-6 * magnitude);
}

// What one product loses by quantised inputs: at most what blocks of 32 in int8 lose, as with Q8_0. (llama.cpp has one scale for 256.)
TEST_P(BlockFormatsTest, QuantisedInputsLoseLittle) {
  constexpr size_t kColumns = 2048, kRows = 64;
  Random random(4);
  const size_t row_bytes = RowBytes(GetParam(), kColumns).value();
  std::vector<std::byte> rows(kRows * row_bytes);
  for (std::byte& byte : rows) byte = static_cast<std::byte>(random.Below(256));
  for (size_t b = 0; b < rows.size(); b += TraitsOf(GetParam()).block_bytes) {
    const std::span<const uint8_t> offsets = ScaleOffsets(GetParam());
    SetHalf(rows, b + offsets.front(), 0.01f);
    // As quantisers choose it, so that elements are about 0 on average.
    if (offsets.size() > 1) SetHalf(rows, b + offsets.back(), GetParam() == DType::kQ4_1 || GetParam() == DType::kQ5_1 ? -0.1f : 0.05f);
  }
  std::vector<float> x(kColumns), scales(kColumns / 32), exact(kRows), got(kRows);
  std::vector<int8_t> q(kColumns);
  for (float& value : x) value = static_cast<float>(random.Uniform() - 0.5);
  scalar::QuantiseInput(x.data(), kColumns, q.data(), scales.data());
  const RowSet set{rows.data(), row_bytes, nullptr};
  scalar::DotRows(GetParam(), set, 0, kRows, kColumns, x.data(), 0, 1, exact.data(), 0);
  scalar::DotRowsQuantised(GetParam(), set, 0, kRows, kColumns, {q.data(), scales.data()}, 1, got.data(), 0);
  double error = 0, size = 0;
  for (size_t i = 0; i < kRows; ++i) {
    error += std::pow(double{got[i]} - exact[i], 2);
    size += std::pow(double{exact[i]}, 2);
  }
  EXPECT_LT(std::sqrt(error / size), 5e-3);
}

// A row that ends where its memory does, as the last one of a mapped file may.
TEST_P(BlockFormatsTest, ReadsNothingBehindARow) {
  constexpr size_t kColumns = 512;
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* const memory = mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  ASSERT_EQ(mprotect(static_cast<std::byte*>(memory) + page, page, PROT_NONE), 0);
  const size_t row_bytes = RowBytes(GetParam(), kColumns).value();
  const std::byte* const row = static_cast<std::byte*>(memory) + page - row_bytes;
  const RowSet rows{row, 0, nullptr};
  const std::vector<float> x(4 * kColumns, 1.0f), scales(4 * kColumns / 32, 1.0f), a(8, 1.0f);
  const std::vector<int8_t> q(4 * kColumns, 1);
  std::vector<float> out(kColumns, 0.0f);
  for (size_t num_tokens : {1, 4}) {
    DotRows(GetParam(), rows, 0, 4, kColumns, x.data(), kColumns, num_tokens, out.data(), 4);
    DotRowsQuantised(GetParam(), rows, 0, 4, kColumns, {q.data(), scales.data()}, num_tokens, out.data(), 4);
  }
  AddScaledRows(GetParam(), rows, a.size(), a.data(), 0, kColumns, out.data());
  ConvertToFloat(GetParam(), row, kColumns, out.data());
  EXPECT_EQ(munmap(memory, 2 * page), 0);
}

TEST(BlockFormatsByHandTest, Q51HasTheFifthBitInAWord) {
  std::vector<std::byte> block(24);
  SetHalf(block, 0, 0.5f);
  SetHalf(block, 2, -3.0f);
  block[4 + 0] = std::byte{0x02};  // bit 1
  block[4 + 3] = std::byte{0x80};  // bit 31
  block[8 + 1] = std::byte{0x4f};  // elements 1 and 17
  block[8 + 15] = std::byte{0x30};  // elements 15 and 31
  const std::vector<float> got = ToFloat(DType::kQ5_1, block);
  EXPECT_EQ(got[0], -3.0f);
  EXPECT_EQ(got[1], 31 * 0.5f - 3);
  EXPECT_EQ(got[17], 4 * 0.5f - 3);
  EXPECT_EQ(got[31], 19 * 0.5f - 3);
}

TEST(BlockFormatsByHandTest, Q4KSplitsItsLastFourScales) {
  std::vector<std::byte> block(144);
  SetHalf(block, 0, 0.25f);
  SetHalf(block, 2, 2.0f);
  block[4 + 1] = std::byte{0x80 | 5};   // scale 1 is 5; scale 5 has the upper bits 10
  block[4 + 5] = std::byte{0x40 | 3};   // min 1 is 3; min 5 has the upper bits 01
  block[4 + 9] = std::byte{0x76};       // scale 5 is 0b10'0110 = 38, min 5 is 0b01'0111 = 23
  block[16 + 31] = std::byte{0xa0};     // element 63 is 10
  block[16 + 64] = std::byte{0x90};     // element 160, of sub-block 5, is 9
  const std::vector<float> got = ToFloat(DType::kQ4_K, block);
  EXPECT_EQ(got[0], 0.0f);
  EXPECT_EQ(got[63], 0.25f * 5 * 10 - 2 * 3);
  EXPECT_EQ(got[62], -6.0f);
  EXPECT_EQ(got[160], 0.25f * 38 * 9 - 2 * 23);
}

TEST(BlockFormatsByHandTest, Q6KHasSignedScalesForSixteen) {
  std::vector<std::byte> block(210);
  SetHalf(block, 208, 0.5f);
  block[192 + 1] = std::byte{0x9c};  // -100, of elements 16 .. 31
  block[192 + 15] = std::byte{7};                         // of elements 240 .. 255
  block[16] = std::byte{0x0d};                            // element 16: low bits
  block[128 + 16] = std::byte{0x03};                      // and high ones: 61 - 32
  block[64 + 63] = std::byte{0x10};                       // element 255: 1 - 32
  const std::vector<float> got = ToFloat(DType::kQ6_K, block);
  EXPECT_EQ(got[16], 0.5f * -100 * 29);
  EXPECT_EQ(got[17], 0.5f * -100 * -32);
  EXPECT_EQ(got[32], 0.0f);
  EXPECT_EQ(got[255], 0.5f * 7 * -31);
}

TEST(BlockFormatsByHandTest, Q3KHasScalesAroundZeroAndAnInvertedThirdBit) {
  std::vector<std::byte> block(110);
  SetHalf(block, 108, 1.0f);
  block[96] = std::byte{0xf1};       // low nibbles of scales 0 and 8
  block[96 + 8] = std::byte{0x23};   // upper bits of scales 0, 4, 8, 12: 3, 0, 2, 0: scale 0 is 49 - 32, scale 8 is 47 - 32
  block[0] = std::byte{0x01};        // element 0 has its third bit: not 4 less
  block[32] = std::byte{0x02};
  block[32 + 32 + 1] = std::byte{0x03};  // element 129, of sub-block 8
  const std::vector<float> got = ToFloat(DType::kQ3_K, block);
  EXPECT_EQ(got[0], 17.0f * 2);
  EXPECT_EQ(got[1], 17.0f * -4);
  EXPECT_EQ(got[16], -32.0f * -4);
  EXPECT_EQ(got[129], 15.0f * -1);
}

}  // namespace
}  // namespace frugal
