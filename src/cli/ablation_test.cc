#include "src/cli/ablation.h"

#include <gtest/gtest.h>

#include "src/base/temp_dir_for_test.h"
#include "src/cli/ablation_report.h"
#include "src/train/tiny_model_for_test.h"

namespace frugal {
namespace {

constexpr TableParts kAllParts = {true, SelectorKind::kPredictor, true};

std::vector<std::string> KeysOf(const std::vector<AblationRow>& rows) {
  std::vector<std::string> keys;
  for (const AblationRow& row : rows) keys.push_back(row.key);
  return keys;
}

TEST(AblationTest, EachRowSwitchesOnOnePartMore) {
  EngineOptions base;
  base.model_path = "m.gguf";
  base.ram_bytes = 123;
  base.window_tokens = 5;
  const std::vector<AblationRow> rows = AblationRows(base, kAllParts);
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
  TableParts parts;
  parts.has_bundles = parts.sparsified = true;
  parts.selector = SelectorKind::kGate;
  const std::vector<AblationRow> rows = AblationRows(base, parts);
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
  const std::vector<AblationRow> rows = SweepRows(base, kAllParts, shares, 1000);
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].name, "25%");
  EXPECT_EQ(rows[0].options.ram_bytes, 250u);
  EXPECT_EQ(rows[1].options.ram_bytes, 1000u);
  EXPECT_TRUE(rows[1].options.early && rows[1].options.overlap && rows[1].options.predictor);
}

TEST(AblationTest, ModelsHaveTheRowsThatSayAnythingOfThem) {
  using Keys = std::vector<std::string>;
  const auto keys = [](const TableParts& parts) { return KeysOf(AblationRows(EngineOptions(), parts)); };
  EXPECT_EQ(keys({false, SelectorKind::kAll, false}), (Keys{"naive", "hybrid"}));
  EXPECT_EQ(keys({true, SelectorKind::kAll, false}), (Keys{"naive", "hybrid"}));
  // Parallel blocks, or predictors without early ones.
  EXPECT_EQ(keys({true, SelectorKind::kPredictor, false}), (Keys{"naive", "hybrid", "predictor", "window", "bundling", "overlap"}));
  EXPECT_EQ(keys({true, SelectorKind::kGate, false}), (Keys{"naive", "hybrid", "gate", "window", "bundling", "overlap"}));
  EXPECT_EQ(keys({true, SelectorKind::kSketch, false}), (Keys{"naive", "hybrid", "sketch", "window", "bundling", "overlap"}));
  EXPECT_EQ(keys(kAllParts).back(), "early");
}

TEST(AblationTest, RowsAreChosenByTheirKeysAndTheLastOneByFlash) {
  std::vector<AblationRow> all = AblationRows(EngineOptions(), {true, SelectorKind::kGate, false});
  all.push_back(LayoutRow(EngineOptions(), {true, SelectorKind::kGate, false}, "other.gguf"));
  EXPECT_EQ(KeysOf(*SelectRows("hybrid,flash,layout", all, true)), (std::vector<std::string>{"hybrid", "overlap", "layout"}));
  EXPECT_EQ(KeysOf(*SelectRows("", all, false)), KeysOf(all));
  std::vector<AblationRow> with_early = AblationRows(EngineOptions(), kAllParts);
  with_early.push_back(LayoutRow(EngineOptions(), kAllParts, "other.gguf"));
  EXPECT_EQ(KeysOf(*SelectRows("flash", with_early, true)), (std::vector<std::string>{"early"}));
  EXPECT_EQ(KeysOf(*SelectRows("flash,early", with_early, false)), (std::vector<std::string>{"overlap", "early"}));
  const auto unknown = SelectRows("naive,early", all, true);
  ASSERT_FALSE(unknown);
  EXPECT_EQ(unknown.error().code, ErrorCode::kUsage);
  EXPECT_NE(unknown.error().message.find("'early': this model has naive, hybrid, gate, window"), std::string::npos)
      << unknown.error().message;
  const auto none = SelectRows("flash", AblationRows(EngineOptions(), TableParts()), true);
  ASSERT_FALSE(none);
  EXPECT_NE(none.error().message.find("it has no selector"), std::string::npos) << none.error().message;
}

TEST(AblationTest, TheHeadersSayWhichRowsAModelHas) {
  const TempDir directory;
  EngineOptions options;
  options.model_path = directory.File("model.gguf");
  WriteTinyModel(TinyModel(), options.model_path);
  const Result<TableParts> parts = FindTableParts(options);
  ASSERT_TRUE(parts) << parts.error().message;
  EXPECT_TRUE(parts->has_bundles);
  EXPECT_EQ(parts->selector, SelectorKind::kAll);  // no predictors beside it
  EXPECT_FALSE(parts->early);
  options.selector = SelectorKind::kSketch;
  EXPECT_EQ(FindTableParts(options)->selector, SelectorKind::kSketch);
  options.model_path = directory.File("none.gguf");
  EXPECT_EQ(FindTableParts(options).error().code, ErrorCode::kIo);
}

// Without predictors, by the sketch: rows run, their neurons are counted, and each row's tokens choose the same ones.
TEST(AblationTest, RowsOfOneModelCountTheSameNeurons) {
  const TempDir directory;
  EngineOptions base;
  base.model_path = directory.File("model.gguf");
  base.selector = SelectorKind::kSketch;
  base.num_slots = 300;
  base.context = 48;
  WriteTinyModel(TinyModel(), base.model_path);
  AblationText text;
  for (int32_t i = 0; i < 40; ++i) text.ids.push_back((7 * i * i + 3) % 61);
  text.num_prompt = 12;
  text.num_warm_up = 8;
  const auto wanted = SelectRows("hybrid,sketch,flash", AblationRows(base, {true, SelectorKind::kSketch, false}), true);
  ASSERT_TRUE(wanted);
  std::vector<RowMeasurement> rows(wanted->size());
  for (size_t i = 0; i < rows.size(); ++i) {
    const Status measured = MeasureRow((*wanted)[i], text, nullptr, &rows[i]);
    ASSERT_TRUE(measured) << measured.error().message;
    EXPECT_EQ(rows[i].refusal, "");
    EXPECT_EQ(rows[i].token_ms.size(), 20u) << rows[i].name;
    EXPECT_GT(rows[i].touched_bytes_per_token, 0) << rows[i].name;
    EXPECT_GE(rows[i].bare.together_ms.size(), 1u) << rows[i].name;
    EXPECT_LE(rows[i].bare.together_ms.size(), 20u) << rows[i].name;
    EXPECT_GT(rows[i].bare.memory_bytes_per_second(), 0) << rows[i].name;
    // Its reads are not the row's.
    EXPECT_EQ(rows[i].traffic.num_tokens, 20u) << rows[i].name;
    EXPECT_LE(rows[i].bare.num_reads, rows[i].traffic.num_reads) << rows[i].name;
  }
  EXPECT_EQ(rows[0].use.num_tokens, 0u);
  EXPECT_EQ(rows[1].use.num_tokens, 20u);
  EXPECT_GT(rows[1].use.active, 0);
  EXPECT_LE(rows[1].use.active, rows[1].use.chosen);
  EXPECT_LT(rows[1].use.chosen, 3 * 160);
  EXPECT_EQ(rows[1].use.chosen, rows[2].use.chosen);
  EXPECT_EQ(rows[1].use.new_neurons, rows[2].use.new_neurons);
  EXPECT_GE(rows[2].recall, 0);
  for (const RowMeasurement& row : rows) EXPECT_GT(row.expected_bytes_per_token, 0) << row.name;
}

// A bare loop has the device for itself.
TEST(AblationTest, NothingIsReadAheadAfterSettling) {
  const TempDir directory;
  EngineOptions options;
  options.model_path = directory.File("model.gguf");
  options.mode = RunMode::kNaive;
  options.context = 8;
  WriteTinyModel(TinyModel(), options.model_path);
  const auto engine = Engine::Open(options);
  ASSERT_TRUE(engine) << engine.error().message;
  const auto session = (*engine)->NewSession();
  ASSERT_TRUE(session);
  const int32_t id = 5;
  ASSERT_TRUE((*engine)->Step(**session, {&id, 1}, 1));
  const auto bytes_read = [&engine] { return (*engine)->statistics().weights.reads.bytes_read; };
  const uint64_t after_step = bytes_read();
  ASSERT_TRUE((*engine)->weights().Settle());
  const uint64_t settled = bytes_read();
  EXPECT_GT(settled, after_step);  // of the next step
  (*engine)->weights().Poll();
  EXPECT_EQ(bytes_read(), settled);
}

TEST(AblationTest, TheLayoutIsTheLastRowOnAnotherFile) {
  EngineOptions base;
  base.model_path = "m.gguf";
  base.predictor_path = "p.gguf";
  base.ram_bytes = 123;
  const AblationRow row = LayoutRow(base, kAllParts, "other.gguf");
  const AblationRow early = AblationRows(base, kAllParts).back();
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

}  // namespace
}  // namespace frugal
