#include "src/select/chosen_counts.h"

#include <gtest/gtest.h>

#include <vector>

#include "src/base/random.h"

namespace frugal {
namespace {

TEST(ChosenCountsTest, AreThoseOfCountingOneByOne) {
  Random random(7);
  constexpr size_t kStride = 3;
  for (const uint32_t num_rows : {1u, 2u, 3u, 8u, 255u, 256u, 512u, 513u}) {
    std::vector<uint64_t> words(num_rows * kStride);
    uint32_t expected[64] = {};
    for (size_t row = 0; row < num_rows; ++row) {
      for (size_t bit = 0; bit < 64; ++bit) {
        // Bit 0 in no row, bit 63 in all, the others the more often the higher they are.
        if (random.Below(63) >= bit) continue;
        words[row * kStride] |= uint64_t{1} << bit;
        ++expected[bit];
      }
      words[row * kStride + 1] = ~uint64_t{0};  // of other neurons
    }
    uint32_t counts[64];
    for (uint32_t& count : counts) count = 12345;
    CountChosen(words.data(), kStride, num_rows, counts);
    for (size_t bit = 0; bit < 64; ++bit) EXPECT_EQ(counts[bit], expected[bit]) << num_rows << " rows, bit " << bit;
    EXPECT_EQ(counts[0], 0u);
    EXPECT_EQ(counts[63], num_rows);
  }
}

}  // namespace
}  // namespace frugal
