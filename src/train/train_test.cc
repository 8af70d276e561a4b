#include "src/train/train.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "src/base/temp_dir_for_test.h"
#include "src/model/model_file.h"
#include "src/model/predictor_file.h"
#include "src/train/tiny_model_for_test.h"

namespace frugal {
namespace {

namespace fs = std::filesystem;

class TrainTest : public testing::Test {
 protected:
  TrainTest() { content_hash_ = WriteTinyModel(model_, model_path_); }

  TrainOptions Options(const std::string& output) const {
    TrainOptions options;
    options.model_path = model_path_;
    options.output_path = directory_.File(output);
    options.num_tokens = 1500;
    options.sequence_tokens = 40;
    options.ranks = {32};
    return options;
  }
  static TrainReport RunOrFail(const TrainOptions& options) {
    auto report = Train(options, [](double, std::string_view) {});
    if (report) return *std::move(report);
    ADD_FAILURE() << report.error().message;
    return {};
  }
  static Error RunToFail(const TrainOptions& options) {
    auto report = Train(options, [](double, std::string_view) {});
    EXPECT_FALSE(report);
    return report ? Error{} : report.error();
  }
  std::string Bytes(const std::string& output) const { return ReadAllForTest(directory_.File(output)); }

  TempDir directory_;
  const TinyModel model_;
  const std::string model_path_ = directory_.File("tiny.gguf");
  uint64_t content_hash_ = 0;
};

TEST_F(TrainTest, PredictorsOfSampledTextReachTheirRecallAndBelongToTheModel) {
  TrainOptions options = Options("");
  options.output_path.clear();
  options.num_tokens = 4000;
  double last = 0.0;
  const auto report = Train(options, [&](double share, std::string_view) {
    EXPECT_GE(share, last);
    EXPECT_LE(share, 1.0);
    last = share;
  });
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_EQ(report->output_path, directory_.File("tiny.predict.gguf"));
  EXPECT_EQ(report->file_bytes, fs::file_size(report->output_path));
  EXPECT_GE(report->num_tokens, 4000u);
  ASSERT_EQ(report->layers.size(), 3u);
  const ModelFile model = ModelFile::Open(model_path_).value();
  const auto file = PredictorFile::Open(report->output_path, model.config(), content_hash_, true);
  ASSERT_TRUE(file) << file.error().message;
  for (uint32_t layer = 0; layer < 3; ++layer) {
    EXPECT_GE(report->layers[layer].on_time.recall, 0.97);
    EXPECT_GE(report->layers[layer].early.recall, 0.85);
    EXPECT_LT(report->layers[layer].on_time.predicted_share, 0.9);
    EXPECT_EQ(file->factors(PredictorKind::kOnTime)[layer].rank, 32u);
    EXPECT_EQ(file->factors(PredictorKind::kEarly)[layer].rank, 32u);
    const PredictorLayerInfo& info = file->info().layers[layer];
    EXPECT_EQ(info.recall, static_cast<float>(report->layers[layer].on_time.recall));
    // Longer windows miss less; a guess of the early predictor is in vain for part of what it chooses.
    ASSERT_EQ(file->info().window_misses.size(), 3u);
    const WindowMisses& misses = file->info().window_misses[layer];
    EXPECT_GT(misses[0], 0.0f);
    EXPECT_LT(misses[0], info.predicted_share);
    for (size_t i = 1; i < kNumWindows; ++i) EXPECT_LT(misses[i], misses[i - 1]) << "window of " << (1 << i);
    EXPECT_GT(info.early_wrong_share, 0.0f);
    EXPECT_LT(info.early_wrong_share, report->layers[layer].early.predicted_share);
  }
  EXPECT_FALSE(PredictorFile::Open(report->output_path, model.config(), content_hash_ + 1, true));
}

TEST_F(TrainTest, TheFileDoesNotDependOnThreads) {
  TrainOptions options = Options("one");
  options.num_threads = 1;
  RunOrFail(options);
  options.output_path = directory_.File("four");
  options.num_threads = 4;
  RunOrFail(options);
  EXPECT_EQ(Bytes("one"), Bytes("four"));
  options.output_path = directory_.File("other");
  options.seed = 2;
  RunOrFail(options);
  EXPECT_NE(Bytes("one"), Bytes("other"));
}

TEST_F(TrainTest, SpilledRowsGiveTheSameFile) {
  TrainOptions options = Options("memory");
  options.num_tokens = 3000;
  const TrainReport in_memory = RunOrFail(options);
  EXPECT_FALSE(in_memory.spilled);
  // One byte below what all of it needs, then just what the layer needs.
  options.output_path = directory_.File("spilled");
  options.ram_bytes = in_memory.memory.total_bytes() - in_memory.memory.line_bytes("sampling") - 1;
  EXPECT_TRUE(RunOrFail(options).spilled);
  EXPECT_EQ(Bytes("memory"), Bytes("spilled"));
  options.output_path = directory_.File("all spilled");
  options.ram_bytes = in_memory.memory.line_bytes("program") + in_memory.memory.line_bytes("one layer");
  const TrainReport spilled = RunOrFail(options);
  EXPECT_EQ(spilled.memory.line_bytes("hidden states"), 0u);
  EXPECT_EQ(spilled.memory.line_bytes("layer inputs and activity"), 0u);
  EXPECT_EQ(Bytes("memory"), Bytes("all spilled"));
  for (const auto& entry : fs::directory_iterator(directory_.path())) {
    EXPECT_EQ(entry.path().string().find("spill-"), std::string::npos) << entry.path();
  }
}

TEST_F(TrainTest, ABudgetThatIsTooSmallNamesOneThatWorks) {
  TrainOptions options = Options("x");
  options.ram_bytes = kMiB;
  const Error error = RunToFail(options);
  EXPECT_EQ(error.code, ErrorCode::kDoesNotFit);
  const size_t at = error.message.rfind("is ");
  ASSERT_NE(at, std::string::npos) << error.message;
  std::string size = error.message.substr(at + 3);
  std::erase(size, ' ');
  options.ram_bytes = ParseSize(size).value();
  RunOrFail(options);
}

TEST_F(TrainTest, ResumesAfterAKillWithTheSameFile) {
  RunOrFail(Options("whole"));
  for (uint32_t kill_after = 0; kill_after < 3; ++kill_after) {
    const std::string name = "resumed" + std::to_string(kill_after);
    TrainOptions options = Options(name);
    options.after_layer_for_test = [&](uint32_t layer) -> Status {
      if (layer == kill_after) return MakeError(ErrorCode::kFailed, "killed");
      return {};
    };
    EXPECT_EQ(RunToFail(options).message, "killed");
    EXPECT_FALSE(fs::exists(directory_.File(name)));
    // A kill in the middle of the next record.
    {
      std::ofstream torn(directory_.File(name) + ".partial", std::ios::binary | std::ios::app);
      torn << "half a record";
    }
    options.after_layer_for_test = nullptr;
    const TrainReport report = RunOrFail(options);
    for (uint32_t layer = 0; layer < 3; ++layer) EXPECT_EQ(report.layers[layer].resumed, layer <= kill_after);
    EXPECT_EQ(Bytes("whole"), Bytes(name));
    EXPECT_FALSE(fs::exists(directory_.File(name) + ".partial"));
  }
}

TEST_F(TrainTest, OtherOptionsStartAnew) {
  TrainOptions options = Options("x");
  options.after_layer_for_test = [](uint32_t) -> Status { return MakeError(ErrorCode::kFailed, "killed"); };
  RunToFail(options);
  options.after_layer_for_test = nullptr;
  options.seed = 5;
  for (const TrainLayerReport& layer : RunOrFail(options).layers) EXPECT_FALSE(layer.resumed);
}

TEST_F(TrainTest, CancelEndsItAndALaterRunGoesOn) {
  std::atomic<bool> cancel = true;
  TrainOptions options = Options("x");
  options.cancel = &cancel;
  EXPECT_EQ(RunToFail(options).message, "interrupted");
  EXPECT_FALSE(fs::exists(directory_.File("x")));
  EXPECT_FALSE(fs::exists(directory_.File("x.partial")));  // nothing was finished
  cancel = false;
  options.after_layer_for_test = [&](uint32_t) -> Status {
    cancel = true;
    return {};
  };
  EXPECT_EQ(RunToFail(options).message, "interrupted");
  cancel = false;
  options.after_layer_for_test = nullptr;
  EXPECT_TRUE(RunOrFail(options).layers[0].resumed);
}

TEST_F(TrainTest, AGivenTextIsUsed) {
  TrainOptions options = Options("x");
  options.source = "text:test";
  Random random(4);
  options.sequences.resize(3);
  for (std::vector<int32_t>& sequence : options.sequences) {
    for (int i = 0; i < 700; ++i) sequence.push_back(static_cast<int32_t>(random.Below(model_.vocab_size)));
  }
  const TrainReport report = RunOrFail(options);
  EXPECT_NEAR(static_cast<double>(report.num_tokens), 1500.0, 50.0);
  const GgufReader gguf = GgufReader::Open(OpenFileSource(directory_.File("x")).value()).value();
  EXPECT_EQ(gguf.GetString("frugal.predictor.source").value(), "text:test");
  EXPECT_EQ(gguf.GetUint("frugal.predictor.tokens").value(), report.num_tokens);
}

TEST_F(TrainTest, BadTextAndOptionsAreUsageErrors) {
  const auto expect_usage = [&](auto change) {
    TrainOptions options = Options("x");
    change(options);
    EXPECT_EQ(RunToFail(options).code, ErrorCode::kUsage);
  };
  expect_usage([&](TrainOptions& o) { o.sequences = {{3, 4, static_cast<int32_t>(model_.vocab_size)}}; });
  expect_usage([](TrainOptions& o) { o.sequences = {{3, 4, -1}}; });
  expect_usage([](TrainOptions& o) { o.sequences = {{3, 4, 5}}; });
  expect_usage([](TrainOptions& o) { o.ranks = {33}; });
  expect_usage([](TrainOptions& o) { o.ranks = {0}; });
  expect_usage([](TrainOptions& o) { o.recall_target = 0.0; });
  expect_usage([](TrainOptions& o) { o.recall_target = 1.5; });
  expect_usage([](TrainOptions& o) { o.num_tokens = 10; });
  std::ofstream(directory_.File("x")) << "here already";
  expect_usage([](TrainOptions&) {});
  EXPECT_EQ(Bytes("x"), "here already");
}

TEST_F(TrainTest, ADamagedModelIsFound) {
  std::string bytes = ReadAllForTest(model_path_);
  const ModelFile model = ModelFile::Open(model_path_).value();
  bytes[model.bundles()[1].extent.offset_bytes + 5] ^= 4;
  directory_.Write("tiny.gguf", bytes);
  TrainOptions options = Options("x");
  options.sequences.assign(
      20, std::vector<int32_t>(40, 7));  // without sampling, so that layer 1 is met in its turn
  const Error error = RunToFail(options);
  EXPECT_EQ(error.code, ErrorCode::kBadModel);
  EXPECT_NE(error.message.find("blk.1.ffn_bundle.weight"), std::string::npos) << error.message;
}

TEST(TrainShapesTest, ProjectionsAndOddSizesTrain) {
  for (const TinyModel& model :
       {TinyModel{.embedding_size = 16}, TinyModel{.hidden_size = 40, .embedding_size = 40, .ffn_size = 70},
        TinyModel{.hidden_size = 16, .embedding_size = 16, .ffn_size = 50}}) {
    TempDir directory;
    TrainOptions options;
    options.model_path = directory.File("m.gguf");
    WriteTinyModel(model, options.model_path);
    options.num_tokens = 1000;
    const auto report = Train(options, [](double, std::string_view) {});
    ASSERT_TRUE(report) << report.error().message;
    for (const TrainLayerReport& layer : report->layers) EXPECT_GE(layer.on_time.recall, 0.95);
  }
}

}  // namespace
}  // namespace frugal
