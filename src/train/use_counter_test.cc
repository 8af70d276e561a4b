#include "src/train/use_counter.h"

#include <gtest/gtest.h>

namespace frugal {
namespace {

UseCounter Count(const std::vector<std::vector<uint32_t>>& tokens, uint32_t ffn_size) {
  UseCounter counter(ffn_size);
  for (const std::vector<uint32_t>& token : tokens) {
    std::vector<uint64_t> bits((ffn_size + 63) / 64);
    for (const uint32_t neuron : token) bits[neuron / 64] |= uint64_t{1} << (neuron % 64);
    counter.AddToken(bits);
  }
  return counter;
}

TEST(UseCounterTest, PopularityIsTheShareOfTheTokens) {
  const UseCounter counter = Count({{0, 69}, {69}, {}, {69}}, 70);
  const std::vector<float> popularity = counter.Popularity();
  ASSERT_EQ(popularity.size(), 70u);
  EXPECT_EQ(popularity[0], 0.25f);
  EXPECT_EQ(popularity[69], 0.75f);
  EXPECT_EQ(popularity[1], 0.0f);
}

TEST(UseCounterTest, AWindowMissesWhatNoneOfItsTokensChose) {
  // Neuron 0 comes every second token, neuron 1 always, neuron 2 once. Tokens 1 to 6.
  const WindowMisses misses = Count({{0, 1}, {1}, {0, 1}, {1, 2}, {0, 1}, {1}}, 10).Misses();
  // Window 1, tokens 2 to 6: neuron 0 at 3 and 5, neuron 2 at 4.
  EXPECT_FLOAT_EQ(misses[0], 3.0f / (5 * 10));
  // Window 2, tokens 3 to 6: neuron 2 at 4. Window 4, tokens 5 and 6: none.
  EXPECT_FLOAT_EQ(misses[1], 1.0f / (4 * 10));
  EXPECT_EQ(misses[2], 0.0f);
  EXPECT_EQ(misses[kNumWindows - 1], 0.0f);
}

TEST(UseCounterTest, LongWindowsOfAShortTextAreTheLongestThatItFills) {
  const WindowMisses misses = Count({{0}, {1}, {2}}, 10).Misses();
  EXPECT_FLOAT_EQ(misses[0], 2.0f / (2 * 10));
  EXPECT_FLOAT_EQ(misses[1], 1.0f / 10);
  EXPECT_FLOAT_EQ(misses[6], 1.0f / 10);
  EXPECT_FLOAT_EQ(Count({{0, 1}}, 10).Misses()[3], 0.2f);
}

}  // namespace
}  // namespace frugal
