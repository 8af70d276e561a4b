#include "src/cli/ablation.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "src/base/temp_dir_for_test.h"
#include "src/train/tiny_model_for_test.h"

namespace frugal {
namespace {

TEST(AblationTest, EachRowSwitchesOnOnePartMore) {
  EngineOptions base;
  base.model_path = "m.gguf";
  base.ram_bytes = 123;
  base.window_tokens = 5;
  const std::vector<AblationRow> rows = AblationRows(base);
  ASSERT_EQ(rows.size(), 7u);
  const auto count_switches = [](const EngineOptions& o) {
    return int{o.predictor} + int{o.window} + int{o.bundling} + int{o.overlap} + int{o.early};
  };
  for (const AblationRow& row : rows) {
    EXPECT_EQ(row.options.model_path, "m.gguf") << row.name;
    EXPECT_EQ(row.options.ram_bytes, 123u) << row.name;
  }
  EXPECT_EQ(rows[0].options.mode, RunMode::kNaive);
  EXPECT_EQ(rows[1].options.mode, RunMode::kHybrid);
  // The baselines are done as well as they can be.
  EXPECT_TRUE(rows[0].options.overlap && rows[1].options.overlap);
  for (size_t i = 2; i < rows.size(); ++i) {
    EXPECT_EQ(rows[i].options.mode, RunMode::kFlash) << rows[i].name;
    EXPECT_EQ(count_switches(rows[i].options), static_cast<int>(i) - 1) << rows[i].name;
  }
  EXPECT_TRUE(rows[2].options.predictor);
  EXPECT_FALSE(rows[2].options.window_tokens.has_value());
  EXPECT_TRUE(rows[3].options.window && rows[3].options.window_tokens == 5u);
  EXPECT_TRUE(rows[4].options.bundling);
  EXPECT_TRUE(rows[5].options.overlap);
  EXPECT_TRUE(rows[6].options.early);
}

TEST(AblationTest, WhatIsSparsifiedIsMeasuredAgainstAllNeurons) {
  EngineOptions base;
  base.sparsify = true;
  const std::vector<AblationRow> rows = AblationRows(base);
  ASSERT_EQ(rows.size(), 6u) << "there is nothing to predict early";
  EXPECT_FALSE(rows[0].options.sparsify || rows[1].options.sparsify);
  for (size_t i = 2; i < rows.size(); ++i) EXPECT_TRUE(rows[i].options.sparsify) << rows[i].name;
  EXPECT_EQ(rows[2].name, "+ thresholds");
  RowMeasurement row;
  row.name = "+ overlap";
  row.left_out_share = 0.5;
  const std::string text = FormatAblation(std::span(&row, 1));
  EXPECT_NE(text.find("lossy, 50% left out"), std::string::npos) << text;
  EXPECT_EQ(text.find("exact"), std::string::npos) << text;
}

TEST(AblationTest, TheSweepGivesEachRowItsBudget) {
  EngineOptions base;
  base.ram_bytes = 123;
  const double shares[] = {0.25, 1.0};
  const std::vector<AblationRow> rows = SweepRows(base, shares, 1000);
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].name, "25%");
  EXPECT_EQ(rows[0].options.ram_bytes, 250u);
  EXPECT_EQ(rows[1].options.ram_bytes, 1000u);
  EXPECT_TRUE(rows[1].options.early && rows[1].options.overlap && rows[1].options.predictor);
  RowMeasurement row;
  row.ram_bytes = 250'000'000;
  row.token_ms = {7.0};
  const std::string svg = DrawSweep(std::span(&row, 1), "a < b");
  EXPECT_TRUE(svg.find("a &lt; b") != std::string::npos && svg.find("bare loop") != std::string::npos) << svg;
}

TEST(AblationTest, TheLayoutIsTheLastRowOnAnotherFile) {
  EngineOptions base;
  base.model_path = "m.gguf";
  base.predictor_path = "p.gguf";
  base.ram_bytes = 123;
  const AblationRow row = LayoutRow(base, "other.gguf");
  const AblationRow early = AblationRows(base).back();
  EXPECT_EQ(row.key, "layout");
  EXPECT_EQ(row.name, "+ layout");
  EXPECT_EQ(row.options.model_path, "other.gguf");
  EXPECT_EQ(row.options.predictor_path, "");  // m.gguf's predictors belong to m.gguf
  EXPECT_EQ(row.options.ram_bytes, 123u);
  EXPECT_EQ(row.options.mode, early.options.mode);
  EXPECT_TRUE(row.options.early && row.options.overlap && row.options.bundling && row.options.window);
}

TEST(AblationTest, ALayoutOfAnotherShapeIsRefused) {
  const TempDir directory;
  const auto open = [&directory](const TinyModel& tiny, const char* name) {
    WriteTinyModel(tiny, directory.File(name));
    auto model = ModelFile::Open(directory.File(name));
    EXPECT_TRUE(model) << model.error().message;
    return *std::move(model);
  };
  TinyModel tiny;
  const ModelFile model = open(tiny, "model.gguf");
  tiny.seed = 2;
  EXPECT_TRUE(CheckSameShape(model, open(tiny, "other.gguf")));
  tiny.ffn_size = 192;
  const Status wider = CheckSameShape(model, open(tiny, "wider.gguf"));
  ASSERT_FALSE(wider);
  EXPECT_EQ(wider.error().code, ErrorCode::kUsage);
  EXPECT_NE(wider.error().message.find("wider.gguf: its ffn_size is 192, that of"), std::string::npos)
      << wider.error().message;
  tiny.ffn_size = 160;
  tiny.num_layers = 2;
  EXPECT_FALSE(CheckSameShape(model, open(tiny, "shallow.gguf")));
}

TEST(AblationTest, PercentilesAreOfTheNearestRank) {
  EXPECT_EQ(Percentile({}, 0.5), 0.0);
  EXPECT_EQ(Percentile({7}, 0.95), 7.0);
  EXPECT_EQ(Percentile({3, 1, 2}, 0.5), 2.0);
  EXPECT_EQ(Percentile({4, 3, 1, 2}, 0.5), 2.0);
  std::vector<double> hundred;
  for (int i = 100; i >= 1; --i) hundred.push_back(i);
  EXPECT_EQ(Percentile(hundred, 0.95), 95.0);
  EXPECT_EQ(Percentile(hundred, 1.0), 100.0);
}

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
  row.expected_bytes_per_token = 1024;
  return row;
}

TEST(AblationTest, TheTableHasEachRowsNumbersPerToken) {
  RowMeasurement refused;
  refused.name = "naive";
  refused.refusal = "does not fit";
  const std::vector<RowMeasurement> rows = {refused, TestRow()};
  const std::string text = FormatAblation(rows);
  EXPECT_NE(text.find("| naive | does not fit the budget |"), std::string::npos) << text;
  EXPECT_NE(text.find("| + window | 3.0 MiB | 2.0 KiB | 0.002 | 1.5 | 2.0 | 98.4% |"), std::string::npos) << text;
  EXPECT_NE(text.find("| + window | 1.000 | 1.500 | 0.500 | 2.000 | 3.000 | 3.000 | 500.00 | 1.250 | 1.500 | 1.60 | 0.750 | 2.67 | "
                      "1.500, 1.0 KiB |"),
            std::string::npos)
      << text;
  const nlohmann::ordered_json json = AblationToJson(rows);
  EXPECT_EQ(json[0]["fits"], false);
  EXPECT_EQ(json[1]["bytes_per_token"], 2048.0);
  EXPECT_EQ(json[1]["reads_per_token"], 1.5);
  EXPECT_EQ(json[1]["tokens_per_second"], 500.0);
  EXPECT_EQ(json[1]["bound_ms"], 0.75);
  EXPECT_TRUE(json[1]["hit_rate"].is_null());
}

TEST(AblationTest, TheLastRowIsComparedWithHybridAsTheirReadsAllow) {
  RowMeasurement hybrid = TestRow();
  hybrid.name = "hybrid";
  hybrid.token_ms = {8};
  hybrid.bare.together_ms = {6.25};
  hybrid.bare.reads_ms = {4.5};
  const std::string text = FormatGain(std::vector<RowMeasurement>{hybrid, TestRow()});
  EXPECT_EQ(text, "\n+ window against hybrid: 4.00 times; their bare loops: 5.00 times (0.80 of it), reads alone 6.00 times\n");
  hybrid.bare.reads_ms = {0.9};
  EXPECT_NE(FormatGain(std::vector<RowMeasurement>{hybrid, TestRow()}).find("streaming"), std::string::npos);
  EXPECT_EQ(FormatGain(std::vector<RowMeasurement>{TestRow()}), "");
  EXPECT_EQ(FormatGain(std::vector<RowMeasurement>{TestRow(), hybrid}), "");
}

TEST(AblationTest, ThePictureHasABarForEachRowThatRan) {
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

}  // namespace
}  // namespace frugal
