#include "src/cli/run_report.h"

#include <gtest/gtest.h>

#include "src/cli/progress_bar.h"

namespace frugal {
namespace {

RunReport SomeReport() {
  RunReport report;
  report.prompt.num_tokens = 4;
  report.prompt.elapsed_ns = 2'000'000;
  EngineStatistics before, after;
  before.num_rows = 4;
  before.weights.reads.bytes_read = 1000;
  after.num_rows = 14;
  after.step_ns = 20'000'000;
  after.weights.reads.bytes_read = 11000;
  after.weights.reads.busy_ns = 5000;
  after.weights.stall_ns = 5'000'000;
  after.weights.cache.num_hits = 30;
  after.weights.cache.num_late_hits = 4;
  after.weights.cache.num_misses = 6;
  before.weights.cache.num_prefetched = 5;
  after.weights.cache.num_prefetched = 13;
  after.weights.cache.num_prefetched_unused = 2;
  report.decode = ReportPhase(before, after);
  return report;
}

TEST(RunReport, APhaseIsWhatHappenedInIt) {
  const PhaseReport decode = SomeReport().decode;
  EXPECT_EQ(decode.num_tokens, 10u);
  EXPECT_DOUBLE_EQ(decode.bytes_per_token(), 1000.0);
  EXPECT_DOUBLE_EQ(decode.gb_per_second(), 2.0);
  EXPECT_DOUBLE_EQ(decode.ms_per_token(), 2.0);
  EXPECT_DOUBLE_EQ(decode.tokens_per_second(), 500.0);
  EXPECT_DOUBLE_EQ(decode.stall_share(), 0.25);
  EXPECT_DOUBLE_EQ(decode.hit_rate(), 0.75);
}

TEST(RunReport, AnEmptyPhaseDividesByNothing) {
  const PhaseReport phase;
  EXPECT_EQ(phase.ms_per_token(), 0.0);
  EXPECT_EQ(phase.tokens_per_second(), 0.0);
  EXPECT_EQ(phase.gb_per_second(), 0.0);
  EXPECT_EQ(phase.stall_share(), 0.0);
  EXPECT_LT(phase.hit_rate(), 0.0);
}

TEST(RunReport, TheBlockHasTheFormOfLlamaCpp) {
  const std::string text = FormatRunReport(SomeReport());
  EXPECT_NE(text.find("prompt eval time =       2.00 ms /     4 tokens (    0.50 ms per token,  2000.00 "
                      "tokens per second)"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("\n       eval time =      20.00 ms /    10 tokens ("), std::string::npos) << text;
}

TEST(RunReport, EarlyReadsAndThoseInVainAreCounted) {
  const RunReport report = SomeReport();
  EXPECT_NE(FormatRunReport(report).find("early = 8 bundles read before attention, 2 of them in vain (25.0%)"), std::string::npos)
      << FormatRunReport(report);
  EXPECT_EQ(RunReportJson(report)["decode"]["read_early"], 8);
  EXPECT_EQ(RunReportJson(report)["decode"]["read_early_in_vain"], 2);
  EXPECT_EQ(FormatRunReport(RunReport()).find("early ="), std::string::npos);
}

TEST(RunReport, WhatIsLeftOutIsNotCalledExact) {
  RunReport report = SomeReport();
  report.exact = false;
  report.active_share = 0.5;
  report.activation = "silu";
  report.thresholds.emplace();
  report.thresholds->share = 0.5f;
  report.thresholds->effect = {10.0, 11.0, 99};
  const std::string text = FormatRunReport(report);
  EXPECT_NE(text.find("lossy: 50% of the neurons left out"), std::string::npos) << text;
  EXPECT_NE(text.find("perplexity 10.0000 -> 11.0000 (+10.00%) on 99 tokens"), std::string::npos) << text;
  EXPECT_EQ(text.find("recall"), std::string::npos) << text;
  EXPECT_EQ(text.find("warning"), std::string::npos) << "half of its gates are active, as they should be: " << text;
  EXPECT_EQ(RunReportJson(report)["sparsify"]["perplexity"], 11.0);
}

TEST(RunReport, AModelThatIsNotSparseIsWarnedOf) {
  RunReport report = SomeReport();
  EXPECT_EQ(FormatRunReport(report).find("active ="), std::string::npos);
  report.activation = "relu2";
  report.active_share = 0.1;
  EXPECT_NE(FormatRunReport(report).find("active = 10.0% of the neurons in the first tokens (relu2)"), std::string::npos);
  EXPECT_EQ(FormatRunReport(report).find("warning"), std::string::npos);
  report.active_share = 0.52;
  EXPECT_NE(FormatRunReport(report).find("warning: 52% of the neurons are active"), std::string::npos);
  EXPECT_EQ(RunReportJson(report)["active_share"], 0.52);
}

TEST(RunReport, UnknownRecallIsNull) {
  RunReport report = SomeReport();
  EXPECT_TRUE(RunReportJson(report)["recall"].is_null());
  report.exact = false;
  report.recall = 0.98;
  EXPECT_EQ(RunReportJson(report)["recall"], 0.98);
  EXPECT_NE(FormatRunReport(report).find("98.00%"), std::string::npos);
}

TEST(ProgressBar, DrawsTheShareAndKeepsToTheWidth) {
  EXPECT_EQ(FormatProgress("packing", 0.5, "blk.3", 80), "packing [############............]  50% blk.3");
  EXPECT_EQ(FormatProgress("packing", 7.0, "x", 80), "packing [########################] 100% x");
  EXPECT_EQ(FormatProgress("packing", 0.5, "blk.3", 12), "packing [###");
}

}  // namespace
}  // namespace frugal
