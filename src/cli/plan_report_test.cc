#include "src/cli/plan_report.h"

#include <gtest/gtest.h>

#include "src/base/bytes.h"

namespace frugal {
namespace {

TEST(PlanReportTest, TheRamFlagIsRoundedUpSoThatItIsAccepted) {
  for (const uint64_t bytes : {uint64_t{1}, kMiB - 1, kMiB, kMiB + 1, 17 * kMiB, uint64_t{123456789}}) {
    const Result<uint64_t> parsed = ParseSize(RamFlag(bytes));
    ASSERT_TRUE(parsed);
    EXPECT_GE(*parsed, bytes);
    EXPECT_LT(*parsed, bytes + kMiB);
  }
}

TEST(PlanReportTest, TheBestUseOfTheBudgetIsNamedWithAndWithoutLoss) {
  const std::string text = FormatAlternatives({{"as asked", false, 100, 0.1, 5e6, 0.004},
                                               {"--no-early", false, 120, 0.12, 4e6, 0.003},
                                               {"--resident q8_0", true, 300, 0.3, 2e6, 0.002}});
  EXPECT_NE(text.find("best: --no-early; best where a loss is accepted: --resident q8_0\n"), std::string::npos) << text;
  // Without a measured device by bytes.
  const std::string bytes = FormatAlternatives({{"as asked", false, 100, 0.1, 4e6, {}}, {"--no-early", false, 120, 0.12, 5e6, {}}});
  EXPECT_NE(bytes.find("best: as asked\n"), std::string::npos) << bytes;
}

TEST(PlanReportTest, TensorsOfAllLayersThatLiveAlikeAreOneLine) {
  const std::vector<TensorGroup> groups = GroupTensors({{"blk.0.attn_q.weight", "resident", 10, 10},
                                                        {"blk.0.ffn_bundle.weight", "streamed", 20, 0},
                                                        {"blk.11.attn_q.weight", "streamed", 10, 0},
                                                        {"blk.12.attn_q.weight", "resident", 10, 10},
                                                        {"output.weight", "streamed", 5, 1}});
  ASSERT_EQ(groups.size(), 4u);
  EXPECT_EQ(groups[0].name, "blk.*.attn_q.weight");
  EXPECT_EQ(groups[0].where, "resident");
  EXPECT_EQ(groups[0].num_tensors, 2u);
  EXPECT_EQ(groups[0].size_bytes, 20u);
  EXPECT_EQ(groups[0].resident_bytes, 20u);
  EXPECT_EQ(groups[1].name, "blk.*.attn_q.weight");
  EXPECT_EQ(groups[1].where, "streamed");
  EXPECT_EQ(groups[2].name, "blk.*.ffn_bundle.weight");
  EXPECT_EQ(groups[3].name, "output.weight");
  EXPECT_EQ(groups[3].resident_bytes, 1u);
  const std::vector<TensorGroup> of_checkpoint = GroupTensors({{"transformer.h.0.query_key_value.weight (key rows)", "streamed", 1, 0},
                                                               {"transformer.h.31.query_key_value.weight (key rows)", "streamed", 2, 0},
                                                               {"lm_head.weight", "streamed", 4, 0}});
  ASSERT_EQ(of_checkpoint.size(), 2u);
  EXPECT_EQ(of_checkpoint[0].name, "transformer.h.*.query_key_value.weight (key rows)");
  EXPECT_EQ(of_checkpoint[0].size_bytes, 3u);
}

}  // namespace
}  // namespace frugal
