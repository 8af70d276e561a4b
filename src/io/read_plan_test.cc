#include "src/io/read_plan.h"

#include <gtest/gtest.h>

#include <vector>

#include "src/base/random.h"

namespace frugal {
namespace {

std::vector<PlannedRead> Plan(const ReadLimits& limits, const std::vector<uint32_t>& positions,
                              const BundleLayout& layout) {
  std::vector<PlannedRead> reads(positions.size());
  reads.resize(ReadPlanner(limits).Plan(positions, layout, reads));
  return reads;
}

TEST(ReadPlannerTest, JoinsOnlyTrueNeighboursByDefault) {
  const auto reads = Plan({}, {3, 4, 5, 7, 9, 10}, {1000, 512});
  ASSERT_EQ(reads.size(), 3u);
  EXPECT_EQ(reads[0].offset_bytes, 1000u + 3 * 512);
  EXPECT_EQ(reads[0].first, 0u);
  EXPECT_EQ(reads[0].count, 3u);
  EXPECT_EQ(reads[0].size_bytes, 3u * 512);
  EXPECT_EQ(reads[1].offset_bytes, 1000u + 7 * 512);
  EXPECT_EQ(reads[1].first, 3u);
  EXPECT_EQ(reads[1].count, 1u);
  EXPECT_EQ(reads[2].first, 4u);
  EXPECT_EQ(reads[2].count, 2u);
}

TEST(ReadPlannerTest, ReadsOverGapsThatAreShortEnough) {
  ReadLimits limits;
  limits.max_gap_bytes = 1024;
  const auto reads = Plan(limits, {0, 3, 7}, {0, 512});  // gaps of 2 and 3 bundles
  ASSERT_EQ(reads.size(), 2u);
  EXPECT_EQ(reads[0].count, 2u);
  EXPECT_EQ(reads[0].size_bytes, 4u * 512);
  EXPECT_EQ(reads[1].offset_bytes, 7u * 512);
}

TEST(ReadPlannerTest, CutsAtMaxReadBytes) {
  ReadLimits limits;
  limits.max_read_bytes = 1024;
  EXPECT_EQ(Plan(limits, {0, 1, 2, 3, 4}, {0, 512}).size(), 3u);
}

TEST(ReadPlannerTest, ALargeBundleIsOneRead) {
  ReadLimits limits;
  limits.max_read_bytes = 1024;
  const auto reads = Plan(limits, {5, 6}, {0, 100'000'000});
  ASSERT_EQ(reads.size(), 2u);
  EXPECT_EQ(reads[0].size_bytes, 100'000'000u);
  EXPECT_EQ(reads[1].offset_bytes, 600'000'000u);
}

TEST(ReadPlannerTest, GapsCountAsSegments) {
  ReadLimits limits;
  limits.max_gap_bytes = 512;
  limits.max_segments = 3;
  const auto reads = Plan(limits, {0, 2, 3, 4}, {0, 512});  // bundle, gap, bundle | bundle, bundle
  ASSERT_EQ(reads.size(), 2u);
  EXPECT_EQ(reads[0].count, 2u);
  EXPECT_EQ(reads[1].count, 2u);
}

TEST(ReadPlannerTest, StopsWhenTheOutputIsFullAndCanGoOn) {
  const std::vector<uint32_t> positions = {0, 2, 3, 5, 7};
  PlannedRead reads[2];
  const ReadPlanner planner{ReadLimits{}};
  ASSERT_EQ(planner.Plan(positions, {0, 512}, reads), 2u);
  const size_t next = reads[1].first + reads[1].count;
  EXPECT_EQ(next, 3u);
  ASSERT_EQ(planner.Plan(std::span(positions).subspan(next), {0, 512}, reads), 2u);
  EXPECT_EQ(reads[1].offset_bytes, 7u * 512);
}

TEST(ReadPlannerTest, NothingGivesNothing) { EXPECT_TRUE(Plan({}, {}, {0, 512}).empty()); }

TEST(ReadPlannerTest, OffsetsDoNotOverflow32Bits) {
  const auto reads = Plan({}, {4'000'000'000u}, {4096, 16384});
  ASSERT_EQ(reads.size(), 1u);
  EXPECT_EQ(reads[0].offset_bytes, 4096 + uint64_t{4'000'000'000} * 16384);
}

TEST(ReadPlannerTest, RandomPlansCoverEveryPositionOnceWithinTheLimits) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    std::vector<uint32_t> positions;
    for (uint32_t i = 0; i < 500; ++i) {
      if (random.Uniform() < 0.5) positions.push_back(i);
    }
    ReadLimits limits;
    const uint64_t stride = 512 * (1 + random.Below(40));
    limits.max_gap_bytes = stride * random.Below(4);
    limits.max_read_bytes = 1 + random.Below(1 << 19);
    limits.max_segments = 1 + random.Below(64);
    size_t next = 0;
    for (const PlannedRead& read : Plan(limits, positions, {4096, stride})) {
      ASSERT_EQ(read.first, next);
      ASSERT_GT(read.count, 0u);
      next += read.count;
      const uint32_t last = positions[next - 1];
      ASSERT_EQ(read.offset_bytes, 4096 + positions[read.first] * stride);
      ASSERT_EQ(read.size_bytes, (last - positions[read.first] + 1) * stride);
      ASSERT_TRUE(read.size_bytes <= limits.max_read_bytes || read.count == 1);
      size_t num_segments = 1;
      for (size_t i = read.first + 1; i < next; ++i) {
        const uint64_t gap = positions[i] - positions[i - 1] - 1;
        ASSERT_LE(gap * stride, limits.max_gap_bytes);
        num_segments += gap > 0 ? 2 : 1;
      }
      ASSERT_LE(num_segments, limits.max_segments);
    }
    ASSERT_EQ(next, positions.size());
  }
}

}  // namespace
}  // namespace frugal
