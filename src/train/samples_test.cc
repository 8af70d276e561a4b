#include "src/train/samples.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace frugal {
namespace {

TEST(SamplesTest, EveryTokenHasItsOwnPlaceAndTextsAreHeldOutWhole) {
  std::vector<uint64_t> lengths;
  for (uint64_t i = 0; i < 40; ++i) lengths.push_back(20 + i % 7);
  const SampleSplit split = SplitSamples(lengths, 5);
  std::vector<uint32_t> sorted = split.place;
  std::sort(sorted.begin(), sorted.end());
  for (uint32_t i = 0; i < sorted.size(); ++i) ASSERT_EQ(sorted[i], i);
  EXPECT_EQ(split.fit.begin, 0u);
  EXPECT_EQ(split.choose.begin, split.fit.count);
  EXPECT_EQ(split.report.begin, split.fit.count + split.choose.count);
  EXPECT_EQ(split.report.begin + split.report.count, split.num_rows());
  EXPECT_NEAR(static_cast<double>(split.choose.count) / static_cast<double>(split.num_rows()), 0.1, 0.03);
  EXPECT_NEAR(static_cast<double>(split.report.count) / static_cast<double>(split.num_rows()), 0.1, 0.03);

  const auto part_of = [&](uint32_t place) {
    return place < split.choose.begin ? 0 : place < split.report.begin ? 1 : 2;
  };
  size_t at = 0;
  for (const uint64_t length : lengths) {
    for (uint64_t t = 1; t < length; ++t) ASSERT_EQ(part_of(split.place[at + t]), part_of(split.place[at]));
    at += length;
  }
}

TEST(SamplesTest, TheSmallestTextHasAllThreeParts) {
  const SampleSplit split = SplitSamples({100, 1, 1}, 9);
  EXPECT_GT(split.fit.count, 0u);
  EXPECT_GT(split.choose.count, 0u);
  EXPECT_GT(split.report.count, 0u);
}

TEST(SamplesTest, TheSeedDecides) {
  const std::vector<uint64_t> lengths(20, 10);
  EXPECT_EQ(SplitSamples(lengths, 1).place, SplitSamples(lengths, 1).place);
  EXPECT_NE(SplitSamples(lengths, 1).place, SplitSamples(lengths, 2).place);
}

}  // namespace
}  // namespace frugal
