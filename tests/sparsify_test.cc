// --sparsify: thresholds are calibrated so that the asked share of the neurons is left out, they alone define what is left out, and so the
// results are the same bits in every mode and cache; what it cannot be used for is refused. The program does it from end to end.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "src/pack/pack.h"
#include "src/train/sparsify.h"
#include "tests/program.h"
#include "tests/support.h"

namespace frugal::testing {
namespace {

namespace fs = std::filesystem;

std::string PackAs(const std::string& source, std::optional<FfnLayout> layout, const std::string& output) {
  PackOptions options;
  options.source_path = source;
  options.output_path = output;
  options.overwrite = Overwrite::kYes;
  options.layout = layout;
  const auto report = Pack(options, [](double, std::string_view) {});
  if (!report) ADD_FAILURE() << report.error().message;
  return output;
}

// The folder's checkpoint or, where it has none, its GGUF file.
std::string FindWeights(const std::string& folder) {
  if (fs::exists(folder + "/model.safetensors")) return folder;
  for (const fs::directory_entry& file : fs::directory_iterator(folder)) {
    if (file.path().extension() == ".gguf") return file.path().string();
  }
  return folder;
}

class SparsifyTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string source = FindGolden(GetParam());
    if (!fs::exists(source)) GTEST_SKIP() << source << " is not there";
    golden_ = ReadGolden(source);
    packed_ = PackAs(FindWeights(source), FfnLayout::kGateAndBundle2, directory_.File("packed.gguf"));
  }

  // On the golden sequences, long enough to have some held out.
  Result<SparsifyReport> Calibrate(float share) const {
    TrainOptions options;
    options.model_path = packed_;
    options.output_path = DefaultSparsifyPath(packed_);
    for (int i = 0; i < 8; ++i) {
      for (const GoldenSequence& sequence : golden_.sequences) options.sequences.push_back(sequence.input_ids);
    }
    options.sequence_tokens = 64;
    options.source = "text:golden";
    return CalibrateThresholds(options, share, [](double, std::string_view) {});
  }

  EngineOptions Options(RunMode mode, std::optional<GateThresholds> thresholds) const {
    EngineOptions options = TestOptions(packed_);
    options.mode = mode;
    options.logit_rows = options.max_batch;
    options.sparsify = thresholds.has_value();
    options.thresholds = std::move(thresholds);
    return options;
  }
  std::vector<float> Logits(const EngineOptions& options) const { return LogitsOf(options, golden_.sequences); }

  TemporaryDirectory directory_;
  GoldenModel golden_;
  std::string packed_;
};

TEST_P(SparsifyTest, TheAskedShareIsLeftOutAndNothingElse) {
  for (const float share : {0.3f, 0.7f}) {
    const Result<SparsifyReport> report = Calibrate(share);
    ASSERT_TRUE(report) << report.error().message;
    EXPECT_FALSE(report->held_out.empty());
    const std::vector<float>& thresholds = report->thresholds.thresholds;
    const std::unique_ptr<Engine> engine = OpenOrFail(Options(RunMode::kFlash, report->thresholds));
    ASSERT_NE(engine, nullptr);
    ASSERT_EQ(thresholds.size(), engine->config().num_layers);
    EXPECT_FALSE(engine->is_exact());
    const uint32_t ffn_size = engine->config().ffn_size;
    uint64_t num_kept = 0, num_seen = 0, num_wrong = 0;
    const auto check = [&](const LayerObservation& seen) -> Status {
      for (uint32_t row = 0; row < seen.num_rows; ++row) {
        const uint64_t* const active = seen.active.data() + size_t{row} * Selector::WordsPerToken(ffn_size);
        for (uint32_t i = 0; i < ffn_size; ++i) {
          const bool kept = (active[i / 64] >> (i % 64) & 1) != 0;
          num_kept += kept ? 1 : 0;
          num_wrong += kept != (std::fabs(seen.gates[size_t{row} * ffn_size + i]) > thresholds[seen.layer]) ? 1 : 0;
        }
      }
      num_seen += uint64_t{seen.num_rows} * ffn_size;
      return {};
    };
    const LayerObserver observer(check);
    const auto session = engine->NewSession().value();
    for (const GoldenSequence& sequence : golden_.sequences) {
      session->Rewind(0);
      const auto ids = std::span(sequence.input_ids).first(std::min<size_t>(sequence.input_ids.size(), engine->plan().max_rows));
      ASSERT_TRUE(engine->Step(*session, ids, 1, &observer));
    }
    EXPECT_EQ(num_wrong, 0u);
    // On the text that it was calibrated on, but for what earlier layers change and the first token that each piece begins with.
    EXPECT_NEAR(1.0 - static_cast<double>(num_kept) / static_cast<double>(num_seen), share, 0.03);
  }
}

TEST_P(SparsifyTest, TheSameBitsInEveryModeAndUnderHostileSettings) {
  const Result<SparsifyReport> report = Calibrate(0.5f);
  ASSERT_TRUE(report) << report.error().message;
  const std::vector<float> expected = Logits(Options(RunMode::kResident, report->thresholds));
  for (const RunMode mode : {RunMode::kNaive, RunMode::kHybrid, RunMode::kFlash}) {
    ExpectSameBits(Logits(Options(mode, report->thresholds)), expected, RunModeName(mode));
  }
  ForEachHostileSetting(Options(RunMode::kFlash, report->thresholds), [&](const EngineOptions& options, const char* what) {
    ExpectSameBits(Logits(options), expected, what);
  });
  const std::vector<float> exact = Logits(Options(RunMode::kResident, std::nullopt));
  EXPECT_GT(MaxDifference(expected, exact), golden_.tolerance) << "half of the neurons were left out";
  EXPECT_LT(RelativeRms(expected, exact), 0.5) << "the half with the smaller gates";
}

TEST_P(SparsifyTest, ThresholdsOfZeroLeaveOutNothing) {
  GateThresholds thresholds;
  thresholds.thresholds.assign(ModelFile::Open(packed_)->config().num_layers, 0.0f);
  const std::vector<float> exact = Logits(Options(RunMode::kResident, std::nullopt));
  ExpectSameBits(Logits(Options(RunMode::kFlash, thresholds)), exact, "thresholds of zero");
  thresholds.thresholds.assign(thresholds.thresholds.size(), 1e30f);
  EXPECT_GT(MaxDifference(Logits(Options(RunMode::kFlash, thresholds)), exact), golden_.tolerance);
}

TEST_P(SparsifyTest, TheFileIsFoundAndHasToBelongToTheModel) {
  EngineOptions options = Options(RunMode::kFlash, std::nullopt);
  options.sparsify = true;
  const auto missing = Engine::Open(options);
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ErrorCode::kUsage);
  EXPECT_NE(missing.error().message.find("frugal train"), std::string::npos) << missing.error().message;
  const Result<SparsifyReport> report = Calibrate(0.5f);
  ASSERT_TRUE(report) << report.error().message;
  GateThresholds thresholds = report->thresholds;
  thresholds.effect = {2.0, 3.0, 4};
  const std::string path = DefaultSparsifyPath(packed_);
  ASSERT_TRUE(WriteGateThresholds(path, Overwrite::kNo, thresholds));
  ExpectSameBits(Logits(options), Logits(Options(RunMode::kFlash, thresholds)), "from the file");
  const auto expect_foreign = [&] {
    const auto foreign = Engine::Open(options);
    ASSERT_FALSE(foreign);
    EXPECT_EQ(foreign.error().code, ErrorCode::kBadModel);
    EXPECT_NE(foreign.error().message.find("another model"), std::string::npos) << foreign.error().message;
  };
  thresholds.model_content_hash ^= 1;
  ASSERT_TRUE(WriteGateThresholds(path, Overwrite::kYes, thresholds));
  expect_foreign();
  thresholds.model_content_hash ^= 1;
  thresholds.thresholds.push_back(0.0f);
  ASSERT_TRUE(WriteGateThresholds(path, Overwrite::kYes, thresholds));
  expect_foreign();
}

INSTANTIATE_TEST_SUITE_P(Models, SparsifyTest, ::testing::Values("llama-silu-tied-rope3", "mistral-window", "qwen2", "qwen3", "gemma3"),
                         [](const auto& model) {
                           std::string name = model.param;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

struct Refused {
  const char* model;
  std::optional<FfnLayout> layout;
  const char* part;  // of the message
};

TEST(SparsifyRefusalTest, WhatCannotBeSparsifiedIsToldWhy) {
  const Refused kRefused[] = {{"llama-relu", FfnLayout::kGateAndBundle2, "activation is relu"},
                              {"llama-fatrelu", FfnLayout::kBundle3, "activation is fatrelu"},
                              {"opt", std::nullopt, "activation is relu"},
                              {"mistral-window", std::nullopt, "--layout gate+bundle2"},
                              {"phi-2-gelu", std::nullopt, "no gate"}};
  for (const auto& [name, layout, part] : kRefused) {
    const std::string source = FindGolden(name);
    if (!fs::exists(source)) {
      std::cout << "skipped: " << source << " is not there\n";
      continue;
    }
    const TemporaryDirectory directory;
    EngineOptions options = TestOptions(PackAs(FindWeights(source), layout, directory.File("packed.gguf")));
    options.sparsify = true;
    const auto engine = Engine::Open(options);
    ASSERT_FALSE(engine) << name;
    EXPECT_EQ(engine.error().code, ErrorCode::kUsage) << name;
    EXPECT_NE(engine.error().message.find(part), std::string::npos) << engine.error().message;
    TrainOptions train;
    train.model_path = options.model_path;
    const auto report = CalibrateThresholds(train, 0.5f, [](double, std::string_view) {});
    ASSERT_FALSE(report) << name;
    EXPECT_EQ(report.error().message, engine.error().message);
  }
}

#ifdef FRUGAL_BINARY  // the build with sanitizers has no program

// The trained model of the shared folder, from a GGUF to a sparsified run.
class SparsifyProgramTest : public ProgramTest {
 protected:
  void SetUp() override {
    if (!fs::exists(model_)) GTEST_SKIP() << model_ << " is not there";
    if (!fs::exists(text_)) GTEST_SKIP() << text_ << " is not there";
    ASSERT_EQ(Run({"pack", model_, "-o", packed_, "--layout", "gate+bundle2"}), 0) << Errors();
  }

  const std::string shared_ = std::string(FRUGAL_SOURCE_DIR) + "/../shared";
  const std::string model_ = shared_ + "/models/stories260k/stories260K.gguf";
  const std::string text_ = shared_ + "/text/tale-valid.txt.xz";
  const std::string packed_ = directory_.File("stories.gguf");
};

TEST_F(SparsifyProgramTest, TrainsRunsAndSaysWhatItCosts) {
  ASSERT_EQ(Run({"train", packed_, "--sparsify", "40%", "--text", text_, "--tokens", "2048", "--json"}), 0) << Errors();
  const nlohmann::json trained = Json();
  const double before = trained["perplexity_exact"], after = trained["perplexity"];
  EXPECT_GT(before, 5.0);
  EXPECT_GT(after, before * 1.01) << "two fifths of its neurons are not nothing";
  EXPECT_LT(after, before * 2.0);
  EXPECT_NEAR(trained["measured_share"].get<double>(), 0.4, 0.05);
  const double percent = 100 * (after - before) / before;
  EXPECT_NEAR(trained["perplexity_delta_percent"].get<double>(), percent, 1e-3);

  for (const std::string& file : {packed_, DefaultSparsifyPath(packed_)}) {
    ASSERT_EQ(Run({"inspect", file}), 0) << Errors();
    EXPECT_NE(Output().find(fmt::format("perplexity {:.4f} -> {:.4f}", before, after)), std::string::npos) << Output();
    EXPECT_NE(Output().find("40% of the neurons left out"), std::string::npos) << Output();
  }
  ASSERT_EQ(Run({"eval", packed_, "--sparsify", "--compare", "--text", text_, "--tokens", "1000", "--json"}), 0) << Errors();
  const nlohmann::json compared = Json();
  const double sparsified = compared["sparsified"]["perplexity"];
  EXPECT_GT(sparsified, compared["exact"]["perplexity"].get<double>());
  EXPECT_EQ(compared["left_out"].size(), 5u);
  for (const char* mode : {"flash", "hybrid", "naive", "resident"}) {
    ASSERT_EQ(Run({"eval", packed_, "--sparsify", "--mode", mode, "--text", text_, "--tokens", "1000", "--json"}), 0) << Errors();
    EXPECT_EQ(Json()["perplexity"].get<double>(), sparsified) << mode;
  }
  ASSERT_EQ(Run({"run", packed_, "--sparsify", "-p", "Once upon a time", "-n", "8"}), 0) << Errors();
  EXPECT_NE(Errors().find("lossy: 40% of the neurons left out"), std::string::npos) << Errors();
  ASSERT_EQ(Run({"bench", packed_, "--sparsify", "-n", "4", "--warm-up", "2", "--rounds", "1"}), 0) << Errors();
  EXPECT_NE(Output().find("| + thresholds |"), std::string::npos) << Output();
  EXPECT_NE(Output().find("lossy, 40% left out"), std::string::npos) << Output();
}

TEST_F(SparsifyProgramTest, WhatIsAskedWronglyIsAUsageError) {
  for (const char* share : {"0", "1", "100%", "1.5", "-0.5", "half"}) {
    EXPECT_EQ(Run({"train", packed_, std::string("--sparsify=") + share, "--text", text_}), 2) << share;
    EXPECT_NE(Errors().find("--sparsify"), std::string::npos) << share << ": " << Errors();
  }
  EXPECT_EQ(Run({"train", packed_, "--sparsify", "0.5", "--ranks", "32"}), 2);
  EXPECT_EQ(Run({"train", packed_}), 2);
  EXPECT_NE(Errors().find("--sparsify"), std::string::npos) << "what can be trained instead: " << Errors();
  EXPECT_EQ(Run({"train", model_, "--sparsify", "0.5"}), 2);
  EXPECT_NE(Errors().find("frugal pack"), std::string::npos) << Errors();
  EXPECT_EQ(Run({"run", packed_, "--sparsify", "-p", "x"}), 2);
  EXPECT_NE(Errors().find("frugal train"), std::string::npos) << Errors();
  EXPECT_EQ(Run({"train", packed_, "--sparsify", "0.5", "--ram", "3M", "--text", text_}), 4) << Errors();
  EXPECT_FALSE(fs::exists(DefaultSparsifyPath(packed_)));
}

#endif  // FRUGAL_BINARY

}  // namespace
}  // namespace frugal::testing
