// A synthetic model of a small shape has the activity of the paper's OPT-6.7B, as the engine computes it.
#include "src/cli/synthesis.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "src/cli/activity.h"
#include "src/base/temp_dir_for_test.h"
#include "src/pack/check.h"
#include "src/pack/synthetic_shape.h"

namespace frugal {
namespace {

SyntheticOptions SmallOptions(const std::string& path) {
  SyntheticOptions options;
  options.config = OptConfig(3, 256, 2048, 4);
  options.config.vocab_size = 512;
  options.config.max_context = 512;
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

TEST(SynthesisTest, HasTheActivityOfThePaperWhateverTheSeed) {
  const TempDir directory;
  for (const uint64_t seed : {1, 2}) {
    SyntheticOptions options = SmallOptions(directory.File("small.gguf"));
    options.seed = seed;
    options.overwrite = Overwrite::kYes;
    std::vector<int32_t> tokens;
    Write(options, 2, &tokens);
    ActivityOptions activity;
    activity.model_path = options.output_path;
    activity.num_tokens = 512;  // so small a layer differs from one stretch of text to the next
    const auto layers = MeasureActivity(activity, tokens, [](double) {});
    ASSERT_TRUE(layers.has_value()) << layers.error().message;
    const double first = SyntheticActiveShare(0, 3), last = SyntheticActiveShare(2, 3);
    const double mean = (first + SyntheticActiveShare(1, 3) + last) / 3;
    for (const WantedFigure& figure : CompareActivity(*layers, first, last, mean)) {
      EXPECT_TRUE(figure.holds()) << "seed " << seed << ": " << figure.name << ": " << figure.measured
                                  << ", wanted " << figure.wanted;
    }
  }
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
  const Result<ModelConfig> config = SyntheticConfig("opt-6.7b", 0);
  ASSERT_TRUE(config.has_value());
  EXPECT_EQ(config->num_layers, 32u);
  EXPECT_EQ(config->ffn_size, 16384u);
  EXPECT_EQ(SyntheticConfig("opt-6.7b", 3)->num_layers, 3u);
  const Result<ModelConfig> unknown = SyntheticConfig("opt-7b", 0);
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
