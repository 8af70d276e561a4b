#include "src/train/co_activation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "src/base/random.h"
#include "src/format/neuron_order.h"

namespace frugal {
namespace {

std::vector<uint32_t> ListOf(std::span<const uint32_t> neurons) { return {neurons.begin(), neurons.end()}; }

std::unique_ptr<ThreadPool> MakePool(int num_threads) {
  auto pool = ThreadPool::Create(num_threads);
  EXPECT_TRUE(pool);
  return *std::move(pool);
}

TEST(MissReplayTest, WhatWasUsedMostStays) {
  MissReplay replay(8, 0.25);  // two neurons
  EXPECT_EQ(ListOf(replay.Step(std::vector<uint32_t>{1, 5})), (std::vector<uint32_t>{1, 5}));
  EXPECT_FALSE(replay.was_full());
  EXPECT_TRUE(replay.Step(std::vector<uint32_t>{1, 5}).empty());
  EXPECT_TRUE(replay.was_full());
  EXPECT_TRUE(replay.Step(std::vector<uint32_t>{1}).empty());
  // 3 was used less often than the others and goes at once; then again.
  EXPECT_EQ(ListOf(replay.Step(std::vector<uint32_t>{3})), (std::vector<uint32_t>{3}));
  EXPECT_EQ(ListOf(replay.Step(std::vector<uint32_t>{1, 3})), (std::vector<uint32_t>{3}));
  EXPECT_TRUE(replay.Step(std::vector<uint32_t>{1, 3}).empty());  // by now used oftener than 5
  EXPECT_EQ(ListOf(replay.Step(std::vector<uint32_t>{5})), (std::vector<uint32_t>{5}));
}

TEST(MissReplayTest, OldUsesCountLess) {
  MissReplay replay(4, 0.25);  // one neuron
  for (int i = 0; i < 3; ++i) replay.Step(std::vector<uint32_t>{0});
  for (int i = 0; i < 40; ++i) replay.Step({});
  EXPECT_EQ(ListOf(replay.Step(std::vector<uint32_t>{2})), (std::vector<uint32_t>{2}));
  EXPECT_TRUE(replay.Step(std::vector<uint32_t>{2}).empty());
  // Many half-lives: the weights are scaled down and nothing is forgotten.
  for (int i = 0; i < 40000; ++i) EXPECT_TRUE(replay.Step(std::vector<uint32_t>{2}).empty());
}

// Groups of 8 neurons that are missed together, scattered as a checkpoint's are, among neurons that are
// missed at random.
TokenSets Planted(uint32_t ffn_size, uint32_t num_groups, size_t num_tokens, uint64_t seed) {
  Random random(seed);
  TokenSets misses(ffn_size);
  for (size_t token = 0; token < num_tokens; ++token) {
    std::vector<uint32_t> set;
    for (int k = 0; k < 2; ++k) {
      const uint32_t group = static_cast<uint32_t>(random.Below(num_groups));
      for (uint32_t member = 0; member < 8; ++member) set.push_back(group + member * num_groups);
    }
    for (int k = 0; k < 3; ++k)
      set.push_back(8 * num_groups + static_cast<uint32_t>(random.Below(ffn_size - 8 * num_groups)));
    std::sort(set.begin(), set.end());
    set.erase(std::unique(set.begin(), set.end()), set.end());
    misses.Add(set);
  }
  return misses;
}

TEST(OrderByMissesTest, WhatIsMissedTogetherBecomesOneRead) {
  constexpr uint32_t kSize = 640, kGroups = 40;
  const auto pool = MakePool(2);
  const std::vector<uint32_t> uses(kSize, 1);
  const std::vector<uint32_t> order = OrderByMisses(Planted(kSize, kGroups, 1500, 1), uses, *pool);
  EXPECT_EQ(WhyNoPermutation(order), "");
  ASSERT_EQ(order.size(), kSize);
  // Of another text.
  const TokenSets misses = Planted(kSize, kGroups, 500, 2);
  std::vector<uint32_t> source(kSize);
  std::iota(source.begin(), source.end(), 0u);
  const uint64_t before = CountReads(misses, source), now = CountReads(misses, order);
  EXPECT_GT(before, 500u * 16);
  EXPECT_LT(now, 500u * 6);  // two groups and three others
}

TEST(OrderByMissesTest, ThreadsDoNotChangeIt) {
  const TokenSets misses = Planted(640, 40, 400, 3);
  const std::vector<uint32_t> uses(640, 1);
  const std::vector<uint32_t> order = OrderByMisses(misses, uses, *MakePool(1));
  EXPECT_EQ(OrderByMisses(misses, uses, *MakePool(3)), order);
}

TEST(OrderByMissesTest, WhatIsNeverMissedComesLastByPopularity) {
  TokenSets misses(6);
  for (int i = 0; i < 10; ++i) misses.Add(std::vector<uint32_t>{1, 4});
  const std::vector<uint32_t> uses = {3, 10, 50, 0, 10, 7};
  const std::vector<uint32_t> order = OrderByMisses(misses, uses, *MakePool(1));
  EXPECT_EQ(order, (std::vector<uint32_t>{1, 4, 2, 5, 0, 3}));
}

TEST(OrderByMissesTest, ATextWithoutMissesLeavesPopularity) {
  const std::vector<uint32_t> uses = {1, 2, 3};
  EXPECT_EQ(OrderByMisses(TokenSets(3), uses, *MakePool(1)), (std::vector<uint32_t>{2, 1, 0}));
}

TEST(CountReadsTest, NeighboursAreOneRead) {
  TokenSets misses(6);
  misses.Add(std::vector<uint32_t>{0, 1, 2, 5});
  misses.Add({});
  misses.Add(std::vector<uint32_t>{0, 2, 4});
  EXPECT_EQ(CountReads(misses, std::vector<uint32_t>{0, 1, 2, 3, 4, 5}), 2u + 3u);
  EXPECT_EQ(CountReads(misses, std::vector<uint32_t>{4, 2, 0, 1, 5, 3}), 1u + 1u);
}

}  // namespace
}  // namespace frugal
