// BundleCache::Prefetch: guesses, and what is certain before its use begins.
#include <gtest/gtest.h>

#include <numeric>

#include "src/cache/bundle_cache_for_test.h"

namespace frugal {
namespace {

using BundlePrefetchTest = BundleCacheTest;

TEST_F(BundlePrefetchTest, GuessesGiveTheirSlotsToWhatIsAskedFor) {
  Open(Options(8));
  std::vector<uint32_t> slots(8);
  cache_->Prefetch(0, std::vector<uint32_t>{1, 2, 3, 4, 5, 6});  // half of the slots at most
  cache_->StartPrefetched();
  ASSERT_TRUE(Wait());
  EXPECT_FALSE(cache_->Contains(0, 5));
  cache_->BeginUse();
  const std::vector<uint32_t> asked = {1, 10, 11, 12, 13, 14, 15, 16};
  ASSERT_EQ(cache_->Acquire(0, asked, slots), 5u);
  ASSERT_TRUE(Wait());
  cache_->UnpinGuesses();
  EXPECT_EQ(cache_->Acquire(0, std::span(asked).subspan(5), slots), 3u);
  EXPECT_TRUE(cache_->Contains(0, 1));
  EXPECT_FALSE(cache_->Contains(0, 2));
  EXPECT_EQ(cache_->statistics().num_prefetched_unused, 3u);
}

TEST_F(BundlePrefetchTest, GuessesForTheNextUseOutliveThisOne) {
  Open(Options(8));
  std::vector<uint32_t> slots(8);
  cache_->BeginUse();
  const std::vector<uint32_t> asked = {20, 21, 22, 23};
  ASSERT_EQ(cache_->Acquire(0, asked, slots), 4u);
  cache_->Prefetch(1, std::vector<uint32_t>{1, 2, 3, 4});
  cache_->StartPrefetched();
  ASSERT_TRUE(Wait());
  cache_->EndUse();
  EXPECT_EQ(cache_->Acquire(0, std::vector<uint32_t>{30, 31, 32, 33, 34}, slots), 4u);  // in the place of the asked
  ASSERT_TRUE(Wait());
  for (uint32_t position = 1; position <= 4; ++position) EXPECT_TRUE(cache_->Contains(1, position));
  cache_->BeginUse();
  cache_->EndUse();
  EXPECT_EQ(cache_->Acquire(0, std::vector<uint32_t>{40, 41, 42, 43, 44}, slots), 5u);
}

TEST_F(BundlePrefetchTest, GuessesAreReadWhenTheyAreStarted) {
  Open(Options(16));
  cache_->Prefetch(0, std::vector<uint32_t>{1, 3, 5});
  cache_->SubmitQueued();
  EXPECT_EQ(reader_->num_pending(), 0u);
  cache_->StartPrefetched();
  EXPECT_EQ(reader_->num_pending(), 3u);
  ASSERT_TRUE(Wait());
  cache_->Prefetch(0, std::vector<uint32_t>{7, 9});
  cache_->BeginUse();  // starts them too
  EXPECT_EQ(reader_->num_pending(), 2u);
  ASSERT_TRUE(Wait());
  EXPECT_TRUE(cache_->ready(0, 7) && cache_->ready(0, 9));
}

TEST_F(BundlePrefetchTest, GuessesThatTheReaderHasNotTakenAreGivenUp) {
  Open(Options(64));
  std::vector<uint32_t> guesses(24), slots(64);
  for (uint32_t i = 0; i < 24; ++i) guesses[i] = 2 * i;  // a read each; the reader takes 16
  cache_->Prefetch(0, guesses);
  cache_->StartPrefetched();
  cache_->BeginUse();
  EXPECT_EQ(cache_->num_reading(), 16u);
  EXPECT_EQ(cache_->statistics().num_prefetched, 16u);
  for (uint32_t i = 0; i < 24; ++i) EXPECT_EQ(cache_->Contains(0, 2 * i), i < 16) << i;
  const std::vector<uint32_t> asked = {0, 30, 32, 46};  // two of those in flight, two of those given up
  ASSERT_EQ(cache_->Acquire(0, asked, slots), 4u);
  ASSERT_TRUE(Wait());
  for (size_t i = 0; i < asked.size(); ++i) {
    EXPECT_EQ(cache_->slots_base()[slots[i] * kStride], std::byte{static_cast<unsigned char>(asked[i] + 1)});
  }
  EXPECT_EQ(cache_->statistics().num_misses, 2u);
  EXPECT_EQ(reader_->statistics().num_reads, 18u);
  cache_->EndUse();
  EXPECT_EQ(cache_->statistics().num_prefetched_unused, 14u);
  // Slots and reads of those given up are there again: as many bundles as there are slots.
  std::vector<uint32_t> all(64);
  std::iota(all.begin(), all.end(), 0u);
  EXPECT_EQ(cache_->Acquire(1, all, slots), 64u);
  EXPECT_TRUE(Wait());
}

TEST_F(BundlePrefetchTest, WhatIsCertainIsReadBeforeGuessesAndCountedAsMissed) {
  Open(Options(64));
  std::vector<uint32_t> guesses(24);
  for (uint32_t i = 0; i < 24; ++i) guesses[i] = 2 * i;  // a read each; the reader takes 16
  cache_->Prefetch(0, guesses);
  cache_->StartPrefetched();
  const std::vector<uint32_t> asked = {0, 33, 40, 60};  // a guess in flight, one still queued, two that nobody guessed
  cache_->Prefetch(0, asked, Need::kCertain);
  EXPECT_EQ(cache_->statistics().num_misses, 2u);
  WholeCompletion completions[2];
  for (size_t done = 0; done < 2;) {  // two more places in the reader
    const size_t count = reader_->Reap(std::span(completions).first(2 - done), WaitMode::kBlock);
    for (size_t i = 0; i < count; ++i) ASSERT_TRUE(cache_->OnCompletion(completions[i]));
    done += count;
  }
  cache_->BeginUse();
  EXPECT_EQ(cache_->statistics().num_prefetched, 16u);  // the places were not for guesses
  EXPECT_EQ(cache_->num_reading(), 16u);
  std::vector<uint32_t> slots(4);
  ASSERT_EQ(cache_->Acquire(0, asked, slots), 4u);
  ASSERT_TRUE(Wait());
  for (size_t i = 0; i < asked.size(); ++i) {
    EXPECT_EQ(cache_->slots_base()[slots[i] * kStride], std::byte{static_cast<unsigned char>(asked[i] + 1)});
  }
  EXPECT_EQ(cache_->statistics().num_misses, 3u);
  EXPECT_EQ(cache_->statistics().num_hits + cache_->statistics().num_late_hits, 1u);
  EXPECT_EQ(reader_->statistics().num_reads, 19u);
  cache_->EndUse();
  EXPECT_EQ(cache_->statistics().num_prefetched_unused, 15u);
  EXPECT_EQ(Use(0, {33, 60}), 0u);
  EXPECT_EQ(cache_->statistics().num_hits + cache_->statistics().num_late_hits, 3u);
}

TEST_F(BundlePrefetchTest, WhatIsCertainStaysUntilItsUse) {
  Open(Options(8));
  for (uint32_t i = 0; i < 8; ++i) {
    Use(0, {2 * i});
    cache_->EndStep();
  }
  cache_->Prefetch(0, std::vector<uint32_t>{0}, Need::kCertain);  // is there, and would be the first to be given up
  cache_->Prefetch(1, std::vector<uint32_t>{0, 2, 4});
  EXPECT_TRUE(cache_->Contains(0, 0));
  EXPECT_FALSE(cache_->Contains(0, 2));
  cache_->Prefetch(0, std::vector<uint32_t>{1}, Need::kCertain);
  ASSERT_EQ(cache_->statistics().num_misses, 9u);
  cache_->StartPrefetched();
  ASSERT_TRUE(Wait());
  cache_->BeginUse();
  EXPECT_EQ(Use(0, {0, 1}), 0u);
  EXPECT_EQ(cache_->statistics().num_hits, 1u);  // the other is counted as missed, once
  EXPECT_EQ(Use(0, {1}), 0u);
  EXPECT_EQ(cache_->statistics().num_hits, 2u);
}

TEST_F(BundlePrefetchTest, HalvesOfGuessesAreNotGivenUp) {
  CacheOptions options = Options(64);
  options.bundling = Bundling::kHalves;
  Open(options);
  std::vector<uint32_t> guesses(24), slots(64);
  for (uint32_t i = 0; i < 24; ++i) guesses[i] = 2 * i;
  cache_->Prefetch(0, guesses);
  cache_->StartPrefetched();
  cache_->BeginUse();
  EXPECT_EQ(cache_->num_reading(), 24u);
  ASSERT_EQ(cache_->Acquire(0, std::vector<uint32_t>{1, 46}, slots), 2u);
  EXPECT_TRUE(Wait());
  EXPECT_TRUE(cache_->ready(0, 46) && cache_->ready(0, 1));
}

TEST_F(BundlePrefetchTest, PrefetchedBundlesCountAsHitsAndAreReadOnce) {
  Open(Options(16));
  cache_->Prefetch(0, std::vector<uint32_t>{1, 2, 3});
  cache_->StartPrefetched();
  ASSERT_TRUE(Wait());
  cache_->EndUse();  // of the layer before: guesses stay
  cache_->BeginUse();
  EXPECT_EQ(cache_->statistics().num_prefetched_unused, 0u);
  EXPECT_EQ(Use(0, {1, 2}), 0u);
  cache_->EndUse();
  EXPECT_EQ(cache_->statistics().num_hits, 2u);
  EXPECT_EQ(cache_->statistics().num_prefetched, 3u);
  EXPECT_EQ(cache_->statistics().num_prefetched_unused, 1u);
}

}  // namespace
}  // namespace frugal
