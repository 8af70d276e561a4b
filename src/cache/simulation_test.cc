#include "src/cache/simulation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "src/base/random.h"

namespace frugal {
namespace {

// One layer; each list is a token's set.
AccessTrace OneLayer(const std::vector<std::vector<uint32_t>>& sets, uint32_t ffn_size = 16) {
  std::vector<std::vector<std::vector<uint32_t>>> tokens;
  for (const auto& set : sets) tokens.push_back({set});
  return AccessTrace::FromSets({0, 1, ffn_size}, tokens);
}

uint64_t Misses(const AccessTrace& trace, const PolicyOptions& policy, uint32_t num_slots) {
  return SimulatePolicy(trace, policy, {num_slots, 0}).num_misses;
}

constexpr PolicyOptions kLru = {PolicyKind::kLru, 0, 0};

TEST(SimulationTest, LruGivesUpTheBundleThatWasUsedLongestAgo) {
  // 3 pushes 1 out, which is then missed; 2 stays.
  EXPECT_EQ(Misses(OneLayer({{1}, {2}, {3}, {2}, {1}}), kLru, 2), 4u);
  EXPECT_EQ(Misses(OneLayer({{1}, {2}, {3}, {2}, {1}}), kLru, 3), 3u);
}

TEST(SimulationTest, LruFailsOnACyclicScanAndBeladyDoesNot) {
  std::vector<std::vector<uint32_t>> sets;
  for (uint32_t i = 0; i < 30; ++i) sets.push_back({i % 3});
  const AccessTrace trace = OneLayer(sets);
  EXPECT_EQ(Misses(trace, kLru, 2), 30u);
  // Two of three stay for good, the third is always missed.
  EXPECT_EQ(SimulateOptimum(trace, {2, 0}).num_misses, 2u + 10u);
}

TEST(SimulationTest, WindowDropsWhatTheLastTokensDidNotUse) {
  const AccessTrace trace = OneLayer({{1}, {2}, {1}, {3}, {4}, {1}});
  // Enough slots for all: only the window decides. 1 is used again after 2 tokens, then after 3.
  EXPECT_EQ(Misses(trace, {PolicyKind::kWindow, 2, 0}, 16), 5u);
  EXPECT_EQ(Misses(trace, {PolicyKind::kWindow, 3, 0}, 16), 4u);
  EXPECT_EQ(Misses(trace, {PolicyKind::kWindow, 1, 0}, 16), 6u);
}

TEST(SimulationTest, DecayKeepsTheFrequentBundleThatLruGivesUp) {
  const AccessTrace trace = OneLayer({{1}, {1}, {1}, {1}, {2}, {3}, {1}});
  EXPECT_EQ(Misses(trace, kLru, 2), 4u);
  EXPECT_EQ(Misses(trace, {PolicyKind::kDecay, 0, 32}, 2), 3u);
}

TEST(SimulationTest, PinnedKeepsWhatTheWarmUpUsedMost) {
  const AccessTrace trace = OneLayer({{1, 2}, {1, 3}, {1}, {2}, {3}});
  const SimulationResult result = SimulatePinned(trace, {1, 2});
  EXPECT_EQ(result.num_tokens, 3u);
  EXPECT_EQ(result.num_uses, 3u);
  EXPECT_EQ(result.num_misses, 2u);  // 1 is pinned
}

TEST(SimulationTest, SetsLargerThanAllSlotsGoThroughInWaves) {
  const AccessTrace trace = OneLayer({{0, 1, 2, 3, 4, 5}, {0, 1, 2, 3, 4, 5}});
  EXPECT_EQ(Misses(trace, kLru, 2), 12u);
  EXPECT_EQ(Misses(trace, kLru, 0), 12u);
  EXPECT_EQ(SimulateOptimum(trace, {2, 0}).num_misses, 10u);
  EXPECT_EQ(SimulateOptimum(trace, {0, 0}).num_misses, 12u);
}

TEST(SimulationTest, WarmUpTokensFillTheSlotsAndAreNotCounted) {
  const AccessTrace trace = OneLayer({{1, 2}, {1, 2}, {1, 3}});
  const SimulationResult result = SimulatePolicy(trace, kLru, {4, 1});
  EXPECT_EQ(result.num_tokens, 2u);
  EXPECT_EQ(result.num_uses, 4u);
  EXPECT_EQ(result.num_misses, 1u);
}

TEST(SimulationTest, WindowSizesAreTheMeanUnionsOfTheLastTokens) {
  const AccessTrace trace = OneLayer({{1, 2}, {2, 3}, {2, 3}, {4, 5}});
  const std::vector<double> sizes = WindowSizes(trace, 3, 1);
  EXPECT_DOUBLE_EQ(sizes[1], 2.0);
  EXPECT_DOUBLE_EQ(sizes[2], 2.0 + 1.0);  // of the last three tokens: 3; nothing; 4 and 5
  EXPECT_EQ(WindowFor(sizes, 1), 0u);
  EXPECT_EQ(WindowFor(sizes, 2), 1u);
  EXPECT_EQ(WindowFor(sizes, 3), 2u);
  EXPECT_EQ(WindowFor(sizes, 4), 3u);
}

// Popular and rare bundles in two layers, with neighbours in time that resemble each other.
AccessTrace RandomTrace(uint64_t seed) {
  constexpr uint32_t kFfn = 64;
  Random random(seed);
  std::vector<std::vector<std::vector<uint32_t>>> tokens;
  for (int token = 0; token < 200; ++token) {
    std::vector<std::vector<uint32_t>> layers(2);
    for (uint32_t layer = 0; layer < 2; ++layer) {
      for (uint32_t i = 0; i < kFfn; ++i) {
        const bool lingers = token > 0 && random.Below(2) == 0 &&
                             std::count(tokens.back()[layer].begin(), tokens.back()[layer].end(), i) > 0;
        if (lingers || random.Below(4 + i) == 0) layers[layer].push_back(i);
      }
    }
    tokens.push_back(std::move(layers));
  }
  return AccessTrace::FromSets({0, 2, kFfn}, tokens);
}

TEST(SimulationTest, NothingBeatsBelady) {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    const AccessTrace trace = RandomTrace(seed);
    const std::vector<double> window_sizes = WindowSizes(trace, 32, 20);
    for (const uint32_t num_slots : {1u, 4u, 10u, 20u, 40u, 80u, 128u}) {
      const SimulationOptions options = {num_slots, 0};
      const uint64_t best = SimulateOptimum(trace, options).num_misses;
      const std::vector<uint64_t> others = {
          SimulatePolicy(trace, kLru, options).num_misses,
          SimulatePolicy(trace, {PolicyKind::kDecay, 0, 2}, options).num_misses,
          SimulatePolicy(trace, {PolicyKind::kDecay, 0, 32}, options).num_misses,
          SimulatePolicy(trace, {PolicyKind::kWindow, WindowFor(window_sizes, num_slots), 0}, options)
              .num_misses,
          SimulatePolicy(trace, {PolicyKind::kWindow, 4, 0}, options).num_misses};
      for (size_t i = 0; i < others.size(); ++i) {
        EXPECT_LE(best, others[i]) << "seed " << seed << ", " << num_slots << " slots, policy " << i;
      }
    }
  }
}

TEST(SimulationTest, AllPoliciesMissEachBundleOnceWhenEveryBundleHasASlot) {
  const AccessTrace trace = RandomTrace(9);
  const SimulationOptions options = {128, 0};
  const uint64_t once = SimulateOptimum(trace, options).num_misses;
  EXPECT_LE(once, 128u);
  EXPECT_EQ(SimulatePolicy(trace, kLru, options).num_misses, once);
  EXPECT_EQ(SimulatePolicy(trace, {PolicyKind::kDecay, 0, 32}, options).num_misses, once);
}

}  // namespace
}  // namespace frugal
