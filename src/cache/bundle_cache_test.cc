#include "src/cache/bundle_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "src/base/random.h"
#include "src/cache/bundle_cache_for_test.h"

namespace frugal {
namespace {

TEST_F(BundleCacheTest, ReadsWhatIsAskedForOnceAndKeepsIt) {
  Open(Options(16));
  EXPECT_EQ(Use(0, {1, 2, 3, 9}), 4u);
  EXPECT_EQ(Use(0, {1, 2, 3, 9}), 0u);
  EXPECT_EQ(Use(1, {1, 2, 3, 9}), 4u);
  EXPECT_EQ(cache_->statistics().num_hits, 4u);
  // Neighbours come with one read: 1..3 and 9, twice.
  EXPECT_EQ(reader_->statistics().num_reads, 4u);
}

TEST_F(BundleCacheTest, FreesAheadWhatWasUsedLongestAgo) {
  constexpr uint32_t kSlots = 128;  // for all bundles: a sixty-fourth of them is kept free
  Open(Options(kSlots));
  for (uint32_t position = 0; position < kPerLayer; ++position) {
    EXPECT_EQ(Use(0, {position}), 1u);
    EXPECT_EQ(Use(1, {position}), 1u);
    cache_->EndStep();
  }
  cache_->BeginUse();
  EXPECT_EQ(cache_->PinPresent(1, std::vector<uint32_t>{0}, 1), 1u);
  cache_->FreeAhead();
  cache_->FreeAhead();  // enough are free
  EXPECT_FALSE(cache_->Contains(0, 0));
  EXPECT_TRUE(cache_->Contains(1, 0));  // pinned
  EXPECT_NE(cache_->Contains(0, 1), cache_->Contains(1, 1));
  for (uint32_t position = 2; position < kPerLayer; ++position) {
    EXPECT_TRUE(cache_->Contains(0, position));
    EXPECT_TRUE(cache_->Contains(1, position));
  }
  cache_->EndUse();
  EXPECT_EQ(Use(0, {0}), 1u);
  cache_->FreeAhead();
  EXPECT_FALSE(cache_->Contains(1, 0));
}

TEST_F(BundleCacheTest, SmallGapsAreReadOver) {
  Open(Gaps(2 * kStride));
  EXPECT_EQ(Use(0, {1, 3, 4, 7, 11, 20}), 6u);
  // 1 to 7 in one read over gaps of 1 and 2; a gap of 3 is too long.
  EXPECT_EQ(reader_->statistics().num_reads, 3u);
  EXPECT_EQ(cache_->statistics().gap_bytes, 3 * kStride);
  EXPECT_FALSE(cache_->Contains(0, 2));
  EXPECT_EQ(Use(0, {1, 3, 4, 7, 11, 20}), 0u);
  EXPECT_EQ(Use(0, {5, 6}), 2u);
  EXPECT_EQ(cache_->statistics().gap_bytes, 3 * kStride);
}

TEST_F(BundleCacheTest, WithoutScrapsAReadIsSplitAtItsGaps) {
  FaultOptions late;
  late.max_delay_reaps = 20;
  Open(Gaps(kStride), late);
  // Twenty pairs with a gap of one, each pair far from the next, over both layers: only kNumScraps have their gap read.
  uint64_t num_misses = 0;
  std::vector<uint32_t> positions, slots[kLayers];
  for (uint32_t pair = 0; pair < 10; ++pair) positions.insert(positions.end(), {pair * 6, pair * 6 + 2});
  for (uint32_t layer = 0; layer < kLayers; ++layer) {
    slots[layer].resize(positions.size());
    ASSERT_EQ(cache_->Acquire(layer, positions, slots[layer]), positions.size());
    num_misses += positions.size();
  }
  ASSERT_TRUE(Wait());
  EXPECT_EQ(num_misses, 40u);
  EXPECT_EQ(cache_->statistics().gap_bytes, BundleCache::kNumScraps * kStride);
  EXPECT_EQ(reader_->statistics().num_reads, BundleCache::kNumScraps + 2 * (20 - BundleCache::kNumScraps));
  for (uint32_t layer = 0; layer < kLayers; ++layer) {
    for (size_t i = 0; i < slots[layer].size(); ++i) {
      const std::byte expected{static_cast<unsigned char>(layer * kPerLayer + positions[i] + 1)};
      EXPECT_EQ(cache_->slots_base()[slots[layer][i] * kStride + 100], expected);
    }
    cache_->Unpin(layer, positions);
  }
}

TEST_F(BundleCacheTest, GapsNeedMemoryThatIsSmallBesideTheSlots) {
  CacheOptions options = Options(16);
  options.max_gap_bytes = 2 * kStride;
  Open(options);
  Use(0, {1, 3});
  EXPECT_EQ(reader_->statistics().num_reads, 2u);
}

TEST_F(BundleCacheTest, EvictsOnlyUnpinnedSlots) {
  Open(Options(8));
  const std::vector<uint32_t> pinned = {0, 1, 2, 3};
  std::vector<uint32_t> pinned_slots(4), slots(8);
  ASSERT_EQ(cache_->Acquire(0, pinned, pinned_slots), 4u);
  ASSERT_TRUE(Wait());
  const std::vector<uint32_t> others = {10, 11, 12, 13, 14, 15, 16, 17};
  EXPECT_EQ(cache_->Acquire(0, others, slots), 4u);  // no slot is left for the other four
  ASSERT_TRUE(Wait());
  for (uint32_t position : pinned) EXPECT_TRUE(cache_->Contains(0, position));
  cache_->Unpin(0, std::span(others).first(4));
  cache_->Unpin(0, pinned);
  EXPECT_EQ(Use(0, {10, 11, 12, 13}), 0u);
}

TEST_F(BundleCacheTest, TheEndOfAUseUnpinsAllButWhatIsPinnedForGood) {
  Open(Options(8));
  std::vector<uint32_t> slots(8);
  ASSERT_EQ(cache_->PinForGood(0, std::vector<uint32_t>{60, 61}, slots), 2u);
  ASSERT_TRUE(Wait());
  cache_->EndUse();
  // Many uses: marks of uses come again. Each takes all slots that are left, half of them first as guesses.
  for (uint32_t use = 0; use < 70'000; ++use) {
    const uint32_t first = use % 9 * 6;
    std::vector<uint32_t> positions(6);
    for (uint32_t i = 0; i < 6; ++i) positions[i] = first + i;
    if (use > 20 && use < 69'980) {
      cache_->EndUse();
      continue;
    }
    cache_->Prefetch(0, std::span(positions).first(3));
    cache_->StartPrefetched();
    cache_->BeginUse();
    ASSERT_EQ(cache_->Acquire(0, positions, slots), 6u) << use;
    ASSERT_TRUE(Wait());
    EXPECT_EQ(cache_->Acquire(1, std::vector<uint32_t>{9}, slots), 0u);  // every slot is pinned
    cache_->EndUse();
    EXPECT_TRUE(cache_->Contains(0, 60) && cache_->Contains(0, 61));
  }
}

TEST_F(BundleCacheTest, AReadInFlightIsNeverOverwritten) {
  FaultOptions late;
  late.max_delay_reaps = 20;
  Open(Options(8), late);
  Random random(5);
  for (int round = 0; round < 200; ++round) {
    std::vector<uint32_t> guesses, wanted;
    for (uint32_t i = 0; i < kPerLayer; ++i) {
      if (random.Below(16) == 0) guesses.push_back(i);
      if (random.Below(16) == 0 && wanted.size() < 4) wanted.push_back(i);
    }
    cache_->Prefetch(round % 2, guesses);
    cache_->StartPrefetched();
    if (round % 7 < 3) cache_->Prefetch(round % 2, std::span(wanted).first(wanted.size() / 2), Need::kCertain);
    if (round % 5 != 0) cache_->BeginUse();  // else they are for the use after this one
    if (round % 3 == 0) cache_->UnpinGuesses();  // still being read
    std::vector<uint32_t> slots(wanted.size());
    const size_t taken = cache_->Acquire(round % 2, wanted, slots);
    ASSERT_TRUE(Wait());
    for (size_t i = 0; i < taken; ++i) {
      const std::byte expected{static_cast<unsigned char>(round % 2 * kPerLayer + wanted[i] + 1)};
      ASSERT_EQ(cache_->slots_base()[slots[i] * kStride + 100], expected);
    }
    if (round % 2 == 0) cache_->Unpin(round % 2, std::span(wanted).first(taken));
    cache_->EndUse();
    cache_->EndStep();
  }
}

TEST_F(BundleCacheTest, LruGivesUpTheLeastRecent) {
  Open(Options(8));
  Use(0, {0, 1, 2, 3, 4, 5, 6, 7});
  cache_->EndStep();
  Use(0, {0, 1, 2, 3});
  cache_->EndStep();
  Use(0, {20, 21, 22, 23});
  EXPECT_EQ(Use(0, {0, 1, 2, 3}), 0u);
  EXPECT_FALSE(cache_->Contains(0, 4));
}

// Rounds begin at the first bundle: what is given up must not depend on where a bundle lies.
TEST_F(BundleCacheTest, RoundsGiveUpTheLeastRecentWhereverItLies) {
  constexpr uint32_t kSlots = 48;
  Open(Options(kSlots));
  std::vector<uint32_t> order(kLayers * kPerLayer);
  std::iota(order.begin(), order.end(), 0u);
  Random random(3);
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.Below(i)]);
  for (size_t i = 0; i < order.size(); ++i) {
    EXPECT_EQ(Use(order[i] / kPerLayer, {order[i] % kPerLayer}), 1u);
    cache_->EndStep();
    for (size_t before = 0; before <= i; ++before) {
      EXPECT_EQ(cache_->Contains(order[before] / kPerLayer, order[before] % kPerLayer), i - before < kSlots) << before << " of " << i;
    }
  }
}

TEST_F(BundleCacheTest, KeepsCopiesInThePlaceOfWhatWasUsedLongestAgo) {
  Open(Options(2));
  EXPECT_EQ(Use(0, {1, 2}), 2u);
  cache_->EndStep();
  EXPECT_EQ(Use(0, {2}), 0u);
  cache_->EndStep();
  const std::vector<std::byte> copy(kStride, std::byte{kPerLayer + 5 + 1});
  const std::vector<uint32_t> positions = {5}, counts = {1};
  cache_->NoteUses(1, positions, counts);
  EXPECT_TRUE(cache_->Keep(1, 5, copy.data()));
  EXPECT_FALSE(cache_->Contains(0, 1));
  EXPECT_EQ(Use(1, {5}), 0u);
  EXPECT_EQ(Use(0, {2}), 0u);
  std::vector<uint32_t> slots(1);
  EXPECT_EQ(cache_->Acquire(0, std::vector<uint32_t>{2}, slots), 1u);
  EXPECT_EQ(cache_->Acquire(1, positions, slots), 1u);
  EXPECT_TRUE(cache_->Keep(1, 5, copy.data()));
  EXPECT_FALSE(cache_->Keep(1, 6, copy.data()));  // both slots are pinned
  EXPECT_TRUE(cache_->Contains(0, 2));
}

TEST_F(BundleCacheTest, LendsTheLastSlotsAndTakesThemBack) {
  constexpr uint32_t kSlots = 64, kMost = kSlots / 8;
  Open(Options(kSlots));
  for (uint32_t position = 0; position < kSlots; ++position) EXPECT_EQ(Use(0, {position}), 1u);  // slot by slot
  const std::span<std::byte> lent = cache_->Lend(~uint64_t{0});
  EXPECT_EQ(cache_->num_lent(), kMost);
  EXPECT_EQ(lent.data() + lent.size(), cache_->slots_base() + kSlots * kStride);
  EXPECT_EQ(lent.size(), kMost * kStride);
  std::fill(lent.begin(), lent.end(), std::byte{0});
  for (uint32_t position = 0; position < kSlots; ++position) EXPECT_EQ(cache_->Contains(0, position), position < kSlots - kMost);
  // Meanwhile nothing is put there.
  for (uint32_t position = 0; position < kMost; ++position) EXPECT_EQ(Use(1, {position}), 1u);
  EXPECT_TRUE(std::all_of(lent.begin(), lent.end(), [](std::byte b) { return b == std::byte{0}; }));
  cache_->TakeBack();
  EXPECT_EQ(cache_->num_lent(), 0u);
  uint32_t num_there = 0;
  for (uint32_t position = 0; position < kPerLayer; ++position) num_there += cache_->Contains(0, position) ? 1 : 0;
  for (uint32_t position = kMost; position < 2 * kMost; ++position) EXPECT_EQ(Use(1, {position}), 1u);
  for (uint32_t position = 0; position < kPerLayer; ++position) num_there -= cache_->Contains(0, position) ? 1 : 0;
  EXPECT_EQ(num_there, 0u) << "given up while slots were empty";
}

TEST_F(BundleCacheTest, LendsNothingThatIsPinnedOrBeingRead) {
  constexpr uint32_t kSlots = kPerLayer;
  Open(Options(kSlots));
  std::vector<uint32_t> all(kSlots), slots(kSlots);
  std::iota(all.begin(), all.end(), 0u);
  EXPECT_EQ(cache_->Acquire(0, all, slots), kSlots);
  EXPECT_TRUE(cache_->Lend(~uint64_t{0}).empty());  // being read
  EXPECT_TRUE(Wait());
  EXPECT_TRUE(cache_->Lend(~uint64_t{0}).empty());  // pinned
  EXPECT_EQ(cache_->num_lent(), 0u);
  cache_->EndUse();
  EXPECT_EQ(cache_->Lend(~uint64_t{0}).size(), kSlots / 8 * kStride);
}

TEST_F(BundleCacheTest, LendsNoMoreThanItIsAskedForAndTakesWhatComesBackLast) {
  constexpr uint32_t kSlots = 128, kLent = 8;
  Open(Options(kSlots));
  EXPECT_EQ(cache_->Lend(kLent * kStride).size(), kLent * kStride);
  EXPECT_EQ(cache_->num_lent(), kLent);
  cache_->TakeBack();
  std::vector<uint32_t> all(kPerLayer), slots(kPerLayer);
  std::iota(all.begin(), all.end(), 0u);
  EXPECT_EQ(cache_->Acquire(0, all, slots), kPerLayer);
  for (const uint32_t slot : slots) EXPECT_LT(slot, kSlots - kLent);
  EXPECT_TRUE(Wait());
}

TEST_F(BundleCacheTest, TheWindowDropsWhatTheLastStepsDidNotUse) {
  CacheOptions options = Options(64, PolicyKind::kWindow);
  options.policy.window_steps = 2;
  Open(options);
  Use(0, {1});
  cache_->EndStep();
  Use(0, {2});
  cache_->EndStep();
  EXPECT_TRUE(cache_->Contains(0, 1));  // the last two steps used 1 and 2
  Use(0, {3});
  cache_->EndStep();
  EXPECT_FALSE(cache_->Contains(0, 1));
  EXPECT_TRUE(cache_->Contains(0, 2));
}

TEST_F(BundleCacheTest, AWindowOfNothingKeepsNothing) {
  CacheOptions options = Options(64, PolicyKind::kWindow);
  options.policy.window_steps = 0;
  Open(options);
  EXPECT_EQ(Use(0, {1, 2}), 2u);
  cache_->EndStep();
  EXPECT_EQ(Use(0, {1, 2}), 2u);
}

TEST_F(BundleCacheTest, DecayKeepsTheFrequentOverTheRecent) {
  Open(Options(8, PolicyKind::kDecay));
  for (int i = 0; i < 10; ++i) {
    Use(0, {0, 1, 2, 3});
    cache_->EndStep();
  }
  for (uint32_t once = 10; once < 30; once += 4) {
    Use(0, {once, once + 1, once + 2, once + 3});
    cache_->EndStep();
  }
  EXPECT_EQ(Use(0, {0, 1, 2, 3}), 0u);
}

TEST_F(BundleCacheTest, HalvesGiveTheSameBytesWithTwoReadsEach) {
  CacheOptions options = Options(16);
  options.bundling = Bundling::kHalves;
  Open(options);
  EXPECT_EQ(Use(0, {1, 2, 3}), 3u);
  EXPECT_EQ(reader_->statistics().num_reads, 6u);
}

TEST_F(BundleCacheTest, ADamagedBundleIsNamed) {
  hashes_[kPerLayer + 5] ^= 1;
  Open(Options(16));
  std::vector<uint32_t> slots(1);
  ASSERT_EQ(cache_->Acquire(1, std::vector<uint32_t>{5}, slots), 1u);
  const Status status = Wait();
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kBadModel);
  EXPECT_NE(status.error().message.find("blk.1: row 5 at offset 35328"), std::string::npos) << status.error().message;
}

TEST_F(BundleCacheTest, AFailedReadNamesTensorRowAndOffset) {
  FaultOptions faults;
  faults.fail_read = 0;
  Open(Options(16), faults);
  std::vector<uint32_t> slots(1);
  ASSERT_EQ(cache_->Acquire(0, std::vector<uint32_t>{7}, slots), 1u);
  const Status status = Wait();
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kIo);
  EXPECT_NE(status.error().message.find("blk.0: row 7"), std::string::npos) << status.error().message;
}

TEST_F(BundleCacheTest, TheDestructorWaitsForReadsInFlight) {
  FaultOptions late;
  late.max_delay_reaps = 50;
  Open(Options(32), late);
  std::vector<uint32_t> slots(20);
  std::vector<uint32_t> positions(20);
  for (uint32_t i = 0; i < 20; ++i) positions[i] = 3 * i;
  ASSERT_EQ(cache_->Acquire(0, positions, slots), 20u);
  cache_.reset();  // under ASan a read that lands later would be a use after free
  EXPECT_EQ(reader_->num_pending(), 0u);
}

}  // namespace
}  // namespace frugal
