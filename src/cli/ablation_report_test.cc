#include "src/cli/ablation_report.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace frugal {
namespace {

RowMeasurement TestRow() {
  RowMeasurement row;
  row.name = "+ window";
  row.planned_bytes = 3 << 20;
  row.traffic.num_tokens = 4;
  row.traffic.elapsed_ns = 8'000'000;
  row.traffic.bytes_read = 4 * 2048;
  row.traffic.num_reads = 6;
  row.traffic.busy_ns = 4'000'000;
  row.traffic.stall_ns = 2'000'000;
  row.token_ms = {1, 2, 2, 3};
  row.recall = 0.984;
  row.device_reads = 8;
  row.bare.together_ms = {1.0, 1.25, 1.5};
  row.bare.reads_ms = {0.75};
  row.bare.memory_ms = {0.25};
  row.expected_ms = 1.5;
  row.expected_here_ms = 1.75;
  row.expected_bytes_per_token = 1024;
  return row;
}

TEST(AblationReportTest, TheTableHasEachRowsNumbersPerToken) {
  RowMeasurement refused;
  refused.name = "naive";
  refused.refusal = "does not fit";
  const std::vector<RowMeasurement> rows = {refused, TestRow()};
  const std::string text = FormatAblation(rows);
  EXPECT_NE(text.find("| naive | does not fit the budget |"), std::string::npos) << text;
  EXPECT_NE(text.find("| + window | 3.0 MiB | 2.0 KiB | 0.002 | 1.5 | 2.0 | 98.4% |"), std::string::npos) << text;
  EXPECT_NE(text.find("| + window | 1.000 | 1.500 | 0.500 | 2.000 | 3.000 | 3.000 | 500.00 | 1.250 | 1.500 | 1.60 | 0.750 | 2.67 | "
                      "1.500, 1.0 KiB | 1.750 (0.88 of the median), 0.50 of the bytes |"),
            std::string::npos)
      << text;
  const nlohmann::ordered_json json = AblationToJson(rows);
  EXPECT_EQ(json[0]["fits"], false);
  EXPECT_EQ(json[1]["bytes_per_token"], 2048.0);
  EXPECT_EQ(json[1]["reads_per_token"], 1.5);
  EXPECT_EQ(json[1]["tokens_per_second"], 500.0);
  EXPECT_EQ(json[1]["bound_ms"], 0.75);
  EXPECT_EQ(json[1]["plan_ms_with_this_runs_device"], 1.75);
  EXPECT_TRUE(json[1]["hit_rate"].is_null());
}

RowMeasurement HybridRow() {
  RowMeasurement row = TestRow();
  row.name = "hybrid";
  row.mode = RunMode::kHybrid;
  row.token_ms = {8};
  row.bare.together_ms = {6.25};
  row.bare.reads_ms = {4.5};
  return row;
}

TEST(AblationReportTest, TheLastRowIsComparedWithHybridAsTheirBareLoopsAllow) {
  RowMeasurement hybrid = HybridRow();
  const std::string text = FormatGain(std::vector<RowMeasurement>{hybrid, TestRow()});
  EXPECT_EQ(text,
            "flash against hybrid: 4.00 times (hybrid's median over flash's); this run's bare loops allow 5.00; share 0.80 (aim 0.8); "
            "their reads alone 6.00\n");
  EXPECT_EQ(FormatGain(std::vector<RowMeasurement>{TestRow()}), "");
  EXPECT_EQ(FormatGain(std::vector<RowMeasurement>{TestRow(), hybrid}), "");
  const nlohmann::ordered_json gain = FindingsToJson(std::vector<RowMeasurement>{hybrid, TestRow()})["flash_against_hybrid"];
  EXPECT_EQ(gain["measured"], 4.0);
  EXPECT_EQ(gain["bare_loops_allow"], 5.0);
  EXPECT_EQ(gain["streaming_would_be_chosen"], false);
  hybrid.refusal = "does not fit";
  EXPECT_TRUE(FindingsToJson(std::vector<RowMeasurement>{hybrid, TestRow()})["flash_against_hybrid"].is_null());
}

TEST(AblationReportTest, AStepThatDoesNotPayIsCalledThat) {
  RowMeasurement naive = HybridRow(), slower = TestRow();
  naive.name = "naive";
  naive.token_ms = {20};
  slower.name = "+ overlap";
  slower.token_ms = {2.5};
  EXPECT_EQ(FormatSteps(std::vector<RowMeasurement>{naive, HybridRow(), TestRow(), slower}),
            "each step, the median of the row before over its own: hybrid 2.50; + window 4.00; + overlap 0.80 (does not pay here)\n");
  EXPECT_EQ(FormatSteps(std::vector<RowMeasurement>{naive}), "");
  naive.name = "25%";  // of a sweep
  slower.name = "35%";
  EXPECT_EQ(FormatSteps(std::vector<RowMeasurement>{naive, slower}), "");
}

TEST(AblationReportTest, StreamingIsSaidToBeChosenWhereNeitherReadsNorBareLoopsAllowMuch) {
  RowMeasurement hybrid = HybridRow();
  const auto says_streaming = [&hybrid] {
    return FormatGain(std::vector<RowMeasurement>{hybrid, TestRow()}).find("below 1.3: streaming would be chosen") != std::string::npos;
  };
  hybrid.bare.reads_ms = {0.9};  // 1.2 times; the bare loops still 5 times
  EXPECT_FALSE(says_streaming());
  hybrid.bare.together_ms = {1.5};
  EXPECT_TRUE(says_streaming());
  hybrid.bare.reads_ms = {4.5};
  EXPECT_FALSE(says_streaming());
}

TEST(AblationReportTest, ModesThatStreamAreMeasuredByTheDevice) {
  RowMeasurement hybrid = HybridRow();
  hybrid.traffic.bytes_read = hybrid.traffic.num_tokens * 16'000'000;  // in 8 ms
  hybrid.bare.read_bytes = 18'000'000;
  hybrid.probed_bytes_per_second = 2.2e9;
  const std::vector<RowMeasurement> rows = {hybrid, TestRow()};
  const std::string text = FormatStreaming(rows);
  EXPECT_EQ(text,
            "hybrid streams 15.3 MiB a token at 2.00 GB/s: 0.50 of these reads alone in this run (4.00 GB/s), 0.91 of the device's "
            "sequential bandwidth as probed (2.20 GB/s; aim 0.9)\n");
  const nlohmann::ordered_json json = FindingsToJson(rows);
  ASSERT_EQ(json["streaming"].size(), 1u);
  EXPECT_NEAR(json["streaming"][0]["share_of_probed"].get<double>(), 0.909, 1e-3);
  hybrid.probed_bytes_per_second = 0;
  EXPECT_NE(FormatStreaming(std::span(&hybrid, 1)).find("was not measured"), std::string::npos);
  hybrid.traffic.bytes_read = 0;
  EXPECT_EQ(FormatStreaming(std::span(&hybrid, 1)), "");
}

TEST(AblationReportTest, RowsOfSeveralModelsMakeOneTable) {
  RowMeasurement naive = HybridRow();
  naive.name = "naive";
  naive.mode = RunMode::kNaive;
  naive.token_ms = {16};
  const std::string text = FormatComparison(std::vector<RowMeasurement>{naive, HybridRow(), TestRow()}, "m");
  EXPECT_NE(text.find("\n| m | naive | 0.5 | 1.5 | 16.0 | 1.00 | 0.50 | - | - | 2.0 KiB |\n"), std::string::npos) << text;
  EXPECT_NE(text.find("\n| m | + window | 0.5 | 1.5 | 2.0 | 8.00 | 4.00 | 5.00 | 0.80 | 2.0 KiB |\n"), std::string::npos) << text;
  EXPECT_EQ(FormatComparison(std::vector<RowMeasurement>{TestRow()}, "m"), "");
}

TEST(AblationReportTest, NewNeuronsStandBesideThePredictorsFile) {
  RowMeasurement row = TestRow();
  row.use.num_tokens = 11;
  row.use.num_selectable = 1000;
  row.use.new_neurons = {100, 62};
  EXPECT_NE(FormatNewNeurons(std::span(&row, 1)).find("| 2 | 62 | 6.20% | not known | - | - |"), std::string::npos);
  row.use.expected = {104, 50};
  const std::string text = FormatNewNeurons(std::span(&row, 1));
  EXPECT_NE(text.find("(11 tokens)"), std::string::npos) << text;
  EXPECT_NE(text.find("| 1 | 100 | 10.00% | 104 | 0.96 | within a tenth |"), std::string::npos) << text;
  EXPECT_NE(text.find("| 2 | 62 | 6.20% | 50 | 1.24 | OFF by more than a tenth |"), std::string::npos) << text;
  EXPECT_EQ(text.find("| 4 |"), std::string::npos) << text;  // fills 11 tokens less than four times
  const nlohmann::ordered_json json = FindingsToJson(std::span(&row, 1))["new_neurons"];
  EXPECT_EQ(json["windows"].size(), 2u);
  EXPECT_EQ(json["windows"][1]["by_file"], 50.0);
  row.use.num_tokens = 0;
  EXPECT_EQ(FormatNewNeurons(std::span(&row, 1)), "");
  EXPECT_EQ(FormatFindings(std::span(&row, 1), "m"), "");
}

TEST(AblationReportTest, ThePictureHasABarForEachRowThatRan) {
  RowMeasurement refused;
  refused.name = "naive";
  refused.refusal = "does not fit";
  const std::vector<RowMeasurement> rows = {refused, TestRow()};
  const std::string svg = DrawAblation(rows, "a < b");
  EXPECT_TRUE(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
  EXPECT_NE(svg.find("a &lt; b"), std::string::npos);
  EXPECT_NE(svg.find("+ window"), std::string::npos);
  EXPECT_EQ(svg.find("naive"), std::string::npos);
}

TEST(AblationReportTest, ThePictureOfASweepHasBothLines) {
  RowMeasurement row;
  row.ram_bytes = 250'000'000;
  row.token_ms = {7.0};
  const std::string svg = DrawSweep(std::span(&row, 1), "a < b");
  EXPECT_TRUE(svg.find("a &lt; b") != std::string::npos && svg.find("bare loop") != std::string::npos) << svg;
}

}  // namespace
}  // namespace frugal
