#include "src/engine/expectation.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "src/base/random.h"
#include "src/cache/bundle_cache.h"
#include "src/io/read_plan.h"

namespace frugal {
namespace {

PolicyOptions Policy(PolicyKind kind, uint32_t window_steps = 4) {
  PolicyOptions options;
  options.kind = kind;
  options.window_steps = window_steps;
  return options;
}

DeviceProfile TestProfile() {
  DeviceProfile profile;
  profile.sequential_bytes_per_second = 1e9;
  profile.random = {{4096, 1, 10e3, 40.96e6}, {4096, 32, 100e3, 409.6e6}, {65536, 32, 12e3, 786.4e6}};
  return profile;
}

NeuronUse Independent(std::vector<float> shares) {
  NeuronUse use;
  use.shares = std::move(shares);
  return use;
}

TEST(ExpectationTest, DecayKeepsTheMostUsedNeuronsAndMissesTheUseOfTheRest) {
  const NeuronUse use = Independent({0.1f, 0.9f, 0.5f, 0.2f});
  EXPECT_NEAR(ExpectedMisses(use, 0, Policy(PolicyKind::kDecay)), 1.7, 1e-6);
  EXPECT_NEAR(ExpectedMisses(use, 2, Policy(PolicyKind::kDecay)), 0.3, 1e-6);
  EXPECT_EQ(ExpectedMisses(use, 4, Policy(PolicyKind::kDecay)), 0.0);
  EXPECT_EQ(ExpectedMisses(use, 9, Policy(PolicyKind::kDecay)), 0.0);
}

TEST(ExpectationTest, LruOfEqualNeuronsHitsAsOftenAsTheyAreInMemory) {
  // By symmetry a neuron of 1,000 equal ones is in one of 300 slots with probability 0.3 when it is used.
  const NeuronUse use = Independent(std::vector<float>(1000, 0.01f));
  EXPECT_NEAR(ExpectedMisses(use, 300, Policy(PolicyKind::kLru)), 10 * 0.7, 0.05);
}

TEST(ExpectationTest, WhatNoTokenHasUsedYetIsMissedEvenWhenAllFits) {
  NeuronUse use = Independent(std::vector<float>(1000, 0.01f));
  EXPECT_NEAR(ExpectedMisses(use, 1000, Policy(PolicyKind::kDecay), 100), 10 * std::pow(0.99, 100), 1e-4);
  use.window_misses = {8, 4, 2, 1};  // of 1, 2, 4 and 8 tokens
  EXPECT_NEAR(ExpectedMisses(use, 1000, Policy(PolicyKind::kLru), 32), 0.25, 1e-9);
  // Few slots miss more than that.
  EXPECT_EQ(ExpectedMisses(use, 30, Policy(PolicyKind::kLru), 32), ExpectedMisses(use, 30, Policy(PolicyKind::kLru)));
}

TEST(ExpectationTest, LruMissesEverythingWhenATokensSetExceedsTheSlots) {
  const NeuronUse use = Independent(std::vector<float>(100, 1.0f));
  EXPECT_NEAR(ExpectedMisses(use, 99, Policy(PolicyKind::kLru)), 100, 1e-9);
  EXPECT_NEAR(ExpectedMisses(use, 100, Policy(PolicyKind::kLru)), 0, 1e-9);
}

TEST(ExpectationTest, AWindowMissesWhatItsTokensDidNotUse) {
  const NeuronUse use = Independent(std::vector<float>(10, 0.5f));
  EXPECT_NEAR(ExpectedMisses(use, 10, Policy(PolicyKind::kWindow, 3)), 10 * 0.5 * 0.125, 1e-9);
  EXPECT_NEAR(ExpectedMisses(use, 10, Policy(PolicyKind::kWindow, 0)), 5, 1e-9);
  // The slots end it before the window does.
  EXPECT_GT(ExpectedMisses(use, 6, Policy(PolicyKind::kWindow, 3)), 10 * 0.5 * 0.125);
}

TEST(ExpectationTest, WhereTheWindowsMissesAreKnownTheyCount) {
  // A token uses 100 of 1,000 bundles; a window of k tokens misses 64 / k of them.
  NeuronUse use = Independent(std::vector<float>(1000, 0.1f));
  for (size_t i = 0; i < kNumWindows; ++i) use.window_misses.push_back(64.0 / static_cast<double>(1 << i));
  EXPECT_NEAR(ExpectedMisses(use, 1000, Policy(PolicyKind::kWindow, 0)), 100, 1e-3);
  EXPECT_NEAR(ExpectedMisses(use, 1000, Policy(PolicyKind::kWindow, 4)), 16, 1e-9);
  EXPECT_NEAR(ExpectedMisses(use, 1000, Policy(PolicyKind::kWindow, 3)), 64.0 / 3, 1e-9);
  // Slots for 100 + 64 + 32: a window of 3.
  EXPECT_NEAR(ExpectedMisses(use, 196, Policy(PolicyKind::kLru)), 64.0 / 3, 0.01);
  EXPECT_NEAR(ExpectedMisses(use, 99, Policy(PolicyKind::kLru)), 100, 1e-3);
  EXPECT_LT(ExpectedMisses(use, 500, Policy(PolicyKind::kLru)), 1);
  // Popularity, which all neurons share alike, is no better.
  EXPECT_NEAR(ExpectedMisses(use, 196, Policy(PolicyKind::kDecay)), 64.0 / 3, 0.01);
}

TEST(ExpectationTest, SlotsForLessThanATokensBundlesHoldWhatComesBack) {
  // 100 of 1,000 equal bundles a token; a window of one misses 64 of 90 that chance would: a used one comes back with 0.1 + 0.9 * 26 / 90.
  NeuronUse use = Independent(std::vector<float>(1000, 0.1f));
  for (size_t i = 0; i < kNumWindows; ++i) use.window_misses.push_back(64.0 / static_cast<double>(1 << i));
  EXPECT_NEAR(ExpectedMisses(use, 50, Policy(PolicyKind::kDecay)), 100 - 50 * 0.36, 1e-3);
  EXPECT_NEAR(ExpectedMisses(use, 50, Policy(PolicyKind::kLru)), 100, 1e-3);
  // What is popular stays, used by the last token or not.
  use.shares.insert(use.shares.end(), 10, 0.9f);
  const double again = 1 - 64 / (90 + 0.9);
  EXPECT_NEAR(ExpectedMisses(use, 40, Policy(PolicyKind::kDecay)), 109 - 10 * 0.9 - 30 * (0.1 + 0.9 * again), 1e-3);
  // Where nothing comes back more than by chance, popularity is all that counts.
  use.window_misses.assign(kNumWindows, 90.9);
  EXPECT_NEAR(ExpectedMisses(use, 40, Policy(PolicyKind::kDecay)), 109 - 10 * 0.9 - 30 * 0.1, 1e-3);
}

TEST(ExpectationTest, MoreSlotsNeverMissMore) {
  NeuronUse use;
  for (int i = 1; i <= 200; ++i) use.shares.push_back(1.0f / static_cast<float>(i));
  for (const PolicyKind kind : {PolicyKind::kDecay, PolicyKind::kLru, PolicyKind::kWindow}) {
    double last = 1e9;
    for (uint32_t slots = 0; slots <= 200; slots += 10) {
      const double misses = ExpectedMisses(use, slots, Policy(kind));
      EXPECT_LE(misses, last + 1e-9) << slots;
      last = misses;
    }
  }
  const double one_token = ExpectedMisses(use, 0, Policy(PolicyKind::kLru));
  for (size_t i = 0; i < kNumWindows; ++i) use.window_misses.push_back(0.5 * one_token / static_cast<double>(1 << i));
  double last = 1e9;
  for (uint32_t slots = 0; slots <= 200; ++slots) {
    const double misses = ExpectedMisses(use, slots, Policy(PolicyKind::kDecay));
    EXPECT_LE(misses, last + 1e-5) << slots;  // the slots' threshold is sought in 20 steps
    last = misses;
  }
}

// What the cache does with bundles missed at random: the planner's reads, over gaps while there are scraps.
BundleReads Reads(uint32_t ffn_size, uint64_t stride_bytes, const CacheOptions& cache, double missed) {
  const ReadPlanner planner({.max_gap_bytes = BundleCache::LongestGapBytes(stride_bytes, cache),
                             .max_read_bytes = cache.max_read_bytes,
                             .max_segments = BundleCache::kMaxJoined});
  constexpr int kTrials = 200;
  Random random(11);
  BundleReads reads;
  for (int trial = 0; trial < kTrials; ++trial) {
    std::vector<uint32_t> positions;
    for (uint32_t i = 0; i < ffn_size; ++i) {
      if (random.Uniform() < missed / ffn_size) positions.push_back(i);
    }
    std::vector<PlannedRead> planned(positions.size());
    planned.resize(planner.Plan(positions, {0, stride_bytes}, planned));
    uint32_t free_scraps = BundleCache::kNumScraps;
    for (const PlannedRead& read : planned) {
      const uint64_t gaps = read.size_bytes / stride_bytes - read.count;
      if (gaps == 0 || free_scraps > 0) {
        if (gaps > 0) --free_scraps;
        reads.num_reads += 1;
        reads.gap_bundles += static_cast<double>(gaps);
        continue;
      }
      for (size_t i = read.first; i < read.first + read.count; ++i) {
        reads.num_reads += i == read.first || positions[i] != positions[i - 1] + 1 ? 1 : 0;
      }
    }
  }
  return {reads.num_reads / kTrials, reads.gap_bundles / kTrials};
}

TEST(ExpectationTest, BundleReadsAreThoseOfThePlannerAndItsScraps) {
  constexpr uint64_t kStride = 16384;
  struct Case {
    uint32_t num_slots;
    uint64_t max_gap_bytes;
    double missed;
  };
  constexpr uint64_t kLong = 96 * 1024, kShort = 32 * 1024;
  for (const Case& test : {Case{100'000, 0, 400}, Case{100'000, kLong, 40}, Case{100'000, kLong, 450},
                           Case{100'000, kShort, 3000}, Case{2'000, kLong, 450}, Case{1'000, kLong, 450}}) {
    CacheOptions cache;
    cache.num_slots = test.num_slots;
    cache.max_gap_bytes = test.max_gap_bytes;
    const BundleReads expected = ExpectBundleReads(16384, kStride, cache, test.missed);
    const BundleReads found = Reads(16384, kStride, cache, test.missed);
    SCOPED_TRACE(fmt::format("{} slots, gaps of {}, {} missed", test.num_slots, test.max_gap_bytes, test.missed));
    EXPECT_NEAR(expected.num_reads, found.num_reads, 0.05 * found.num_reads);
    EXPECT_NEAR(expected.gap_bundles, found.gap_bundles, 0.15 * found.gap_bundles + 1);
  }
}

TEST(ExpectationTest, TheReadBoundAddsSequentialBytesAndRandomReads) {
  const DeviceProfile profile = TestProfile();
  EXPECT_NEAR(ReadBoundSeconds(profile, 5e8, 0, 0), 0.5, 1e-9);
  EXPECT_NEAR(ReadBoundSeconds(profile, 0, 1000, 1000 * 4096.0), 0.01, 1e-6);
  EXPECT_NEAR(ReadBoundSeconds(profile, 5e8, 1000, 1000 * 4096.0), 0.51, 1e-6);
  // Fewer reads than one per token count in proportion.
  EXPECT_NEAR(ReadBoundSeconds(profile, 0, 0.5, 0.5 * 4096), 0.5e-5, 1e-9);
}

TEST(ExpectationTest, TimesFollowTheDevice) {
  Expectation expectation;
  expectation.streamed_bytes = 10e6;
  expectation.touched_bytes = 60e6;
  DeviceProfile profile = TestProfile();
  profile.memory_bytes_per_second = 10e9 / kProductsShareOfMemory;
  ExpectTimes(&profile, &expectation);
  EXPECT_NEAR(*expectation.read_seconds, 0.010, 1e-6);
  EXPECT_NEAR(expectation.compute_seconds, 0.006, 1e-9);
  EXPECT_NEAR(*expectation.token_seconds, 0.010, 1e-6);
  const DeviceProfile faster = ProfileAtSpeed(profile, 5);
  ExpectTimes(&faster, &expectation);
  EXPECT_NEAR(*expectation.read_seconds, 0.002, 1e-6);
  EXPECT_NEAR(*expectation.token_seconds, 0.006, 1e-6);
  expectation.overlap = false;
  ExpectTimes(&faster, &expectation);
  EXPECT_NEAR(*expectation.token_seconds, 0.008, 1e-6);
  // The system's work for reads is done while the device works, as long as it does.
  profile = faster;
  for (const double milliseconds : {0.5, 3.0}) {
    expectation.stream_reads = 100;
    profile.cpu_seconds_per_read = milliseconds / 100e3;
    ExpectTimes(&profile, &expectation);
    EXPECT_NEAR(expectation.compute_seconds, 0.006 + 1e-3 * milliseconds, 1e-9);
    EXPECT_NEAR(*expectation.token_seconds, 0.006 + 1e-3 * std::max(2.0, milliseconds), 1e-6);
  }
  ExpectTimes(nullptr, &expectation);
  EXPECT_FALSE(expectation.read_seconds || expectation.token_seconds);
}

// 60 MB take 6 ms at 10 GB/s; of them 20 MB are multiplied at 4 GB/s, which takes 3 ms more, and others faster than memory gives them.
TEST(ExpectationTest, WeightsAreGoneThroughNoFasterThanTheyAreMultiplied) {
  using When = TouchedWeights::When;
  DeviceProfile profile = TestProfile();
  profile.memory_bytes_per_second = 10e9 / kProductsShareOfMemory;
  for (const When when : {When::kBeforeReads, When::kBundles, When::kAfterReads, When::kOther}) {
    Expectation expectation;
    expectation.touched_bytes = 60e6;
    expectation.touched_weights = {{when, 20e6, 4e9}, {When::kOther, 10e6, 40e9}};
    ExpectTimes(&profile, &expectation);
    EXPECT_NEAR(expectation.slow_product_seconds, 3e-3, 1e-9);
    EXPECT_NEAR(expectation.compute_seconds, 9e-3, 1e-9);
    EXPECT_NEAR(*expectation.token_seconds, 9e-3, 1e-6);

    // Where reads take no time, each layer is the sum of its parts, whichever of them the slow weights are.
    expectation.touched_before_reads = expectation.touched_after_reads = 20e6;
    expectation.touched_of_bundles = 40e6;
    expectation.layer_shares = {0.25, 0.75};
    ExpectTimes(&profile, &expectation);
    EXPECT_NEAR(*expectation.token_seconds, 9e-3, 1e-6) << static_cast<int>(when);

    // Where they take long, what is multiplied meanwhile costs nothing.
    expectation.demand_reads = 10'000;
    expectation.demand_bytes = 4096e4;  // 100 ms
    ExpectTimes(&profile, &expectation);
    const double alone_seconds = when == When::kBeforeReads || when == When::kAfterReads ? 7e-3 : 4e-3;
    EXPECT_NEAR(*expectation.token_seconds, 100e-3 + alone_seconds + 2 * 100e-6, 1e-6) << static_cast<int>(when);

    // Memory slower than all products.
    DeviceProfile slow = profile;
    slow.memory_bytes_per_second = 2e9 / kProductsShareOfMemory;
    ExpectTimes(&slow, &expectation);
    EXPECT_EQ(expectation.slow_product_seconds, 0);
    EXPECT_NEAR(expectation.compute_seconds, 30e-3, 1e-9);
  }
}

TEST(ExpectationTest, ALayerWaitsForItsOwnReads) {
  Expectation expectation;
  expectation.demand_reads = 1000;
  expectation.demand_bytes = 4096e3;  // 10 ms
  expectation.touched_bytes = 60e6;
  expectation.touched_before_reads = 10e6;
  expectation.touched_of_bundles = 30e6;
  expectation.touched_after_reads = 10e6;
  expectation.layer_shares = {0.2, 0.8};
  DeviceProfile profile = TestProfile();
  profile.memory_bytes_per_second = 10e9 / kProductsShareOfMemory;
  profile.random[0].iops = 1e4;
  ExpectTimes(&profile, &expectation);
  // Each layer: 0.5 ms before its reads, their latency of 0.1 ms. Reads of 2 and 8 ms; behind them 1 ms, and of the bundles' 2 ms a fifth
  // and four fifths; then the down sum of 0.2 and 0.8 ms.
  EXPECT_NEAR(*expectation.token_seconds, 1e-3 * ((0.5 + 0.1 + 2 + 0.2) + (0.5 + 0.1 + 8 + 0.8)), 1e-6);
  expectation.demand_reads = 100;
  expectation.demand_bytes = 4096e2;
  ExpectTimes(&profile, &expectation);
  EXPECT_NEAR(*expectation.token_seconds, 1e-3 * ((0.5 + 0.1 + 1.4 + 0.2) + (0.5 + 0.1 + 2.6 + 0.8)), 1e-6);
  expectation.alone_seconds = 4e-3;  // nothing hides behind it
  ExpectTimes(&profile, &expectation);
  EXPECT_NEAR(expectation.compute_seconds, 6e-3 + 4e-3 + 100 * profile.cpu_seconds_per_read, 1e-9);
  EXPECT_NEAR(*expectation.token_seconds, 1e-3 * ((2.5 + 0.1 + 1.4 + 0.2) + (2.5 + 0.1 + 2.6 + 0.8)), 1e-6);
}

}  // namespace
}  // namespace frugal
