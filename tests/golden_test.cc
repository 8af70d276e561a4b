// Logits and greedy ids against Hugging Face transformers, for every golden model and every mode that computes exactly.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/support.h"

namespace frugal::testing {
namespace {

class GoldenTest : public ::testing::TestWithParam<std::string> {
 protected:
  enum class Order { kSource, kShuffled };

  void Check(RunMode mode, Order order = Order::kSource) {
    const GoldenModel golden = ReadGolden(GetParam());
    TemporaryDirectory directory;
    EngineOptions options =
        TestOptions(order == Order::kSource ? PackModel(golden.directory, directory)
                                            : PackModelShuffled(golden.directory, directory));
    options.mode = mode;
    options.predictor = false;
    options.logit_rows = options.max_batch;
    const std::unique_ptr<Engine> engine = OpenOrFail(options);
    ASSERT_NE(engine, nullptr);
    double worst = 0;
    for (const GoldenSequence& sequence : golden.sequences) {
      const std::vector<float> logits = AllLogits(*engine, sequence.input_ids, options.max_batch);
      worst = std::max(worst, MaxDifference(logits, sequence.logits));
      worst = std::max(worst, CheckGreedy(*engine, sequence));
    }
    EXPECT_LE(worst, golden.tolerance) << golden.name;
    RecordProperty("worst_difference", std::to_string(worst));
  }
};

TEST_P(GoldenTest, ResidentAgreesWithTransformers) { Check(RunMode::kResident); }
TEST_P(GoldenTest, NaiveAgreesWithTransformers) { Check(RunMode::kNaive); }
TEST_P(GoldenTest, HybridAgreesWithTransformers) { Check(RunMode::kHybrid); }
TEST_P(GoldenTest, FlashWithAllNeuronsAgreesWithTransformers) { Check(RunMode::kFlash); }

// Sums over the neurons run in the order of the file: they differ in their rounding and in nothing else.
TEST_P(GoldenTest, AnyOrderOfTheNeuronsAgreesWithTransformers) {
  Check(RunMode::kResident, Order::kShuffled);
  Check(RunMode::kFlash, Order::kShuffled);
}

TEST_P(GoldenTest, AnF16CacheStaysClose) {
  const GoldenModel golden = ReadGolden(GetParam());
  TemporaryDirectory directory;
  EngineOptions options = TestOptions(PackModel(golden.directory, directory));
  options.kv_type = DType::kF16;
  options.predictor = false;
  options.logit_rows = options.max_batch;
  const std::unique_ptr<Engine> engine = OpenOrFail(options);
  ASSERT_NE(engine, nullptr);
  for (const GoldenSequence& sequence : golden.sequences) {
    const std::vector<float> logits = AllLogits(*engine, sequence.input_ids, options.max_batch);
    EXPECT_LT(RelativeRms(logits, sequence.logits), 2e-2);
  }
}

// Loose on purpose: what it catches is a wrong layout or a wrong scale, which gives an error of 1 and more. Both weights and
// inputs are quantised; these small random models are less forgiving than trained ones.
TEST_P(GoldenTest, QuantisedWeightsStayClose) {
  const GoldenModel golden = ReadGolden(GetParam());
  for (const auto& [type, bound] : {std::pair{DType::kQ8_0, 8e-2}, std::pair{DType::kQ4_0, 7e-1}}) {
    TemporaryDirectory directory;
    EngineOptions options = TestOptions(PackModel(golden.directory, directory, "model.gguf", type));
    options.predictor = false;
    options.logit_rows = options.max_batch;
    const std::unique_ptr<Engine> engine = OpenOrFail(options);
    ASSERT_NE(engine, nullptr);
    for (const GoldenSequence& sequence : golden.sequences) {
      const double error = RelativeRms(AllLogits(*engine, sequence.input_ids, options.max_batch), sequence.logits);
      EXPECT_LT(error, bound) << DTypeName(type);
      RecordProperty("relative_rms_" + std::string(DTypeName(type)), std::to_string(error));
    }
  }
}

std::string TestName(const ::testing::TestParamInfo<std::string>& info) {
  std::string name = std::filesystem::path(info.param).filename().string();
  for (char& c : name) {
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  }
  return name;
}

std::vector<std::string> GoldenDirectories() {
  std::vector<std::string> directories = FindGoldenDirectories();
  if (std::getenv("FRUGAL_GOLDENS") != nullptr) return directories;
  // models/tale has goldens too and is in the project anyway.
  std::erase_if(directories, [](const std::string& directory) { return directory.ends_with("/tale"); });
  directories.push_back(TaleDirectory());
  return directories;
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenTest, ::testing::ValuesIn(GoldenDirectories()), TestName);
// With FRUGAL_GOLDENS the folder may hold no model that is supported.
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(GoldenTest);

}  // namespace
}  // namespace frugal::testing
