// A synthetic model of a small shape has the activity of the paper's OPT-6.7B, as the engine computes it.
#include "src/cli/synthesis.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "src/cli/activity.h"
#include "src/base/temp_dir_for_test.h"
#include "src/engine/engine.h"
#include "src/pack/check.h"
#include "src/pack/synthetic_shape.h"

namespace frugal {
namespace {

SyntheticOptions SmallOptions(const std::string& path, std::string_view shape_name = "opt-6.7b") {
  SyntheticShape shape = FindSyntheticShape(shape_name).value();
  shape.hidden_size = 256;
  shape.ffn_size = 2048;
  shape.num_heads = 4;
  shape.num_kv_heads = shape.num_kv_heads == 1 ? 1 : 4;
  shape.vocab_size = shape.max_context = 512;
  SyntheticOptions options;
  options.config = SyntheticConfig(shape, 3);
  options.activity = shape.activity;
  options.name = "small";
  options.output_path = path;
  return options;
}

SyntheticReport Write(const SyntheticOptions& options, int num_threads, std::vector<int32_t>* tokens) {
  const auto pool = ThreadPool::Create(num_threads).value();
  const auto model = SyntheticModel::Create(options, *pool).value();
  *tokens = model->tokens();
  Result<SyntheticReport> report = WriteSynthesis(options, *model, *pool, [](double, std::string_view) {});
  EXPECT_TRUE(report.has_value()) << report.error().message;
  return report.value();
}

std::string BytesOf(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Neurons on demand give what all of them in memory give.
void ExpectTheSameFromFlash(const SyntheticOptions& options, std::span<const int32_t> tokens) {
  std::vector<std::vector<float>> logits;
  for (const uint32_t num_slots : {6144u, 1500u}) {
    EngineOptions engine_options;
    engine_options.model_path = options.output_path;
    engine_options.num_slots = num_slots;
    const Result<std::unique_ptr<Engine>> engine = Engine::Open(engine_options);
    ASSERT_TRUE(engine.has_value()) << engine.error().message;
    EXPECT_TRUE((*engine)->has_predictor());
    EXPECT_EQ((*engine)->plan().use_early, !options.config.parallel());
    const auto session = (*engine)->NewSession().value();
    for (size_t i = 0; i < 24; ++i) ASSERT_TRUE((*engine)->Step(*session, tokens.subspan(i, 1), 1).has_value());
    const std::span<const float> last = (*engine)->logits();
    logits.emplace_back(last.begin(), last.end());
  }
  EXPECT_EQ(logits[0], logits[1]);
}

class SynthesisShapeTest : public ::testing::TestWithParam<const char*> {};

TEST_P(SynthesisShapeTest, HasTheActivityOfThePaperAndRuns) {
  const TempDir directory;
  for (const uint64_t seed : {1, 2}) {
    if (seed > 1 && std::string_view(GetParam()) != "opt-6.7b") continue;  // a model takes seconds
    SyntheticOptions options = SmallOptions(directory.File("small.gguf"), GetParam());
    options.seed = seed;
    options.overwrite = Overwrite::kYes;
    std::vector<int32_t> tokens;
    Write(options, 2, &tokens);
    ActivityOptions activity;
    activity.model_path = options.output_path;
    activity.num_tokens = 512;  // so small a layer differs from one stretch of text to the next
    const auto layers = MeasureActivity(activity, tokens, [](double) {});
    ASSERT_TRUE(layers.has_value()) << layers.error().message;
    for (const WantedFigure& figure : CompareActivity(*layers, options.activity)) {
      EXPECT_TRUE(figure.holds()) << "seed " << seed << ": " << figure.name << ": " << figure.measured
                                  << ", wanted " << figure.wanted;
    }
    ExpectTheSameFromFlash(options, tokens);
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, SynthesisShapeTest,
                         ::testing::Values("opt-6.7b", "falcon-7b", "persimmon-8b", "phi-2", "llama-2-7b"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::replace_if(name.begin(), name.end(), [](char c) { return c == '-' || c == '.'; }, '_');
                           return name;
                         });

// Of a layer this large a part of the neurons is looked at.
TEST(SynthesisTest, TheRecallOfLargeLayersIsEstimated) {
  const TempDir directory;
  SyntheticOptions options = SmallOptions(directory.File("model.gguf"));
  options.config.ffn_size = 8192;
  std::vector<int32_t> tokens;
  Write(options, 2, &tokens);
  EngineOptions engine_options;
  engine_options.model_path = options.output_path;
  engine_options.num_slots = options.config.num_layers * options.config.ffn_size;
  engine_options.sample_recall_every = 1;
  const Result<std::unique_ptr<Engine>> engine = Engine::Open(engine_options);
  ASSERT_TRUE(engine.has_value()) << engine.error().message;
  const auto session = (*engine)->NewSession().value();
  for (size_t i = 0; i < tokens.size(); ++i) ASSERT_TRUE((*engine)->Step(*session, std::span(tokens).subspan(i, 1), 1));
  EXPECT_NEAR((*engine)->statistics().recall, 0.95, 0.01);
}

TEST(SynthesisTest, ShapesAreThoseOfTheirModels) {
  const auto config_of = [](const char* name) { return SyntheticConfig(FindSyntheticShape(name).value(), 0); };
  EXPECT_TRUE(config_of("falcon-7b").parallel());
  EXPECT_EQ(config_of("falcon-7b").kv_size(), 64u);
  EXPECT_EQ(config_of("persimmon-8b").rope.dims, 32u);
  EXPECT_EQ(config_of("phi-2").rope.dims, 32u);
  EXPECT_EQ(config_of("llama-2-7b").ffn_layout, FfnLayout::kBundle3);
  const SyntheticActivity phi = FindSyntheticShape("phi-2")->activity;
  EXPECT_EQ(SyntheticRank(phi, 0, 32), 160u);
  EXPECT_EQ(SyntheticRank(phi, 14, 32), 480u);
  EXPECT_EQ(SyntheticRank(phi, 27, 32), 800u);
  EXPECT_EQ(SyntheticRank(phi, 28, 32), 0u);
  const SyntheticActivity llama = FindSyntheticShape("llama-2-7b")->activity;
  EXPECT_EQ(SyntheticRank(llama, 13, 32), 256u);
  EXPECT_EQ(SyntheticRank(llama, 14, 32), 1024u);
  EXPECT_EQ(SyntheticRank(llama, 17, 32), 1024u);
  EXPECT_EQ(SyntheticRank(llama, 18, 32), 256u);
}

TEST(SynthesisTest, GivesTheSameBytesForTheSameSeedWhateverTheThreads) {
  const TempDir directory;
  SyntheticOptions options = SmallOptions(directory.File("one.gguf"));
  options.config.num_layers = 2;
  std::vector<int32_t> tokens;
  const SyntheticReport one = Write(options, 1, &tokens);
  options.output_path = directory.File("two.gguf");
  const SyntheticReport two = Write(options, 3, &tokens);
  EXPECT_EQ(one.content_hash, two.content_hash);
  EXPECT_EQ(BytesOf(directory.File("one.gguf")), BytesOf(directory.File("two.gguf")));
  EXPECT_EQ(BytesOf(directory.File("one.predict.gguf")), BytesOf(directory.File("two.predict.gguf")));
  EXPECT_EQ(BytesOf(directory.File("one.tokens.txt")), BytesOf(directory.File("two.tokens.txt")));
  const uint64_t planned_bytes =
      SyntheticModel::Create(options, *ThreadPool::Create(1).value()).value()->DataBytes();
  EXPECT_LT(planned_bytes, one.file_bytes);
  EXPECT_LT(one.file_bytes - planned_bytes, 32u * 1024);
  options.output_path = directory.File("three.gguf");
  options.seed = 7;
  EXPECT_NE(Write(options, 2, &tokens).content_hash, one.content_hash);
}

TEST(SynthesisTest, EveryHashOfItIsRight) {
  const TempDir directory;
  std::vector<int32_t> tokens;
  Write(SmallOptions(directory.File("small.gguf")), 2, &tokens);
  for (const char* name : {"small.gguf", "small.predict.gguf"}) {
    const auto report = CheckModel(directory.File(name), [](double, std::string_view) {});
    ASSERT_TRUE(report.has_value()) << report.error().message;
    EXPECT_EQ(report->num_problems, 0u) << name;
    EXPECT_GT(report->num_hashes, 0u) << name;
  }
}

TEST(SynthesisTest, HolesTakeNoDiskAndHaveRightHashes) {
  const TempDir directory;
  std::vector<int32_t> tokens;
  SyntheticOptions options = SmallOptions(directory.File("small.gguf"));
  const SyntheticReport whole = Write(options, 2, &tokens);
  options.output_path = directory.File("holes.gguf");
  options.holes = true;
  EXPECT_EQ(Write(options, 2, &tokens).file_bytes, whole.file_bytes);
  struct stat info = {};
  ASSERT_EQ(stat(options.output_path.c_str(), &info), 0);
  EXPECT_EQ(static_cast<uint64_t>(info.st_size), whole.file_bytes);
  EXPECT_LT(static_cast<uint64_t>(info.st_blocks) * 512, whole.file_bytes / 4);
  const auto report = CheckModel(options.output_path, [](double, std::string_view) {});
  ASSERT_TRUE(report.has_value()) << report.error().message;
  EXPECT_EQ(report->num_problems, 0u);
}

TEST(SynthesisTest, ShapesHaveTheirSizesAndUnknownOnesAreListed) {
  const Result<SyntheticShape> shape = FindSyntheticShape("opt-6.7b");
  ASSERT_TRUE(shape.has_value());
  EXPECT_EQ(SyntheticConfig(*shape, 0).num_layers, 32u);
  EXPECT_EQ(SyntheticConfig(*shape, 0).ffn_size, 16384u);
  EXPECT_EQ(SyntheticConfig(*shape, 3).num_layers, 3u);
  const Result<SyntheticShape> unknown = FindSyntheticShape("opt-7b");
  ASSERT_FALSE(unknown.has_value());
  EXPECT_EQ(unknown.error().code, ErrorCode::kUsage);
  EXPECT_NE(unknown.error().message.find("opt-6.7b"), std::string::npos) << unknown.error().message;
}

TEST(SynthesisTest, ShapesThatHaveNoRoomAreRefused) {
  const auto pool = ThreadPool::Create(1).value();
  SyntheticOptions options = SmallOptions("never-written.gguf");
  options.config.hidden_size = options.config.embedding_size = 16;
  options.config.head_dim = 4;
  EXPECT_EQ(SyntheticModel::Create(options, *pool).error().code, ErrorCode::kUsage);
  options = SmallOptions("never-written.gguf");
  options.type = DType::kI32;
  EXPECT_EQ(SyntheticModel::Create(options, *pool).error().code, ErrorCode::kUsage);
}

}  // namespace
}  // namespace frugal
