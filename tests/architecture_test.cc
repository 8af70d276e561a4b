// Every dense architecture, packed from each of its files in each layout: logits and greedy ids against Hugging Face transformers in every
// mode, and the same bits whatever the mode, the cache, the reader, the threads and the batch.
#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>

#include "src/format/json_file.h"
#include "src/pack/pack.h"
#include "tests/support.h"

namespace frugal::testing {
namespace {

namespace fs = std::filesystem;

struct Source {
  std::string directory;
  std::string file;  // a GGUF; empty: the directory's checkpoint
};
// How GoogleTest prints it.
void PrintTo(const Source& source, std::ostream* out) { *out << (source.file.empty() ? source.directory : source.file); }

Result<ModelConfig> ConfigOf(const std::string& directory) {
  FRUGAL_ASSIGN(const nlohmann::json json, ReadJsonFile(directory + "/config.json"));
  return ParseHuggingFaceConfig(json, directory + "/config.json");
}

class ArchitectureTest : public ::testing::TestWithParam<Source> {
 protected:
  void SetUp() override {
    golden_ = ReadGolden(GetParam().directory);
    const auto config = ConfigOf(GetParam().directory);
    ASSERT_TRUE(config) << config.error().message;
    config_ = *config;
  }

  std::vector<std::optional<FfnLayout>> Layouts() const {
    if (!config_.gated) return {std::nullopt};
    if (!config_.activation.is_sparse()) return {std::nullopt, FfnLayout::kGateAndBundle2};
    return {FfnLayout::kGateAndBundle2, FfnLayout::kBundle3};
  }

  // Backwards: the order of the neurons must not matter but for rounding.
  enum class Order { kSource, kBackwards };

  std::string PackAs(std::optional<FfnLayout> layout, Order order, const TemporaryDirectory& directory) const {
    PackOptions options;
    options.source_path = GetParam().file.empty() ? GetParam().directory : GetParam().file;
    options.output_path = directory.File("packed.gguf");
    options.overwrite = Overwrite::kYes;
    options.layout = layout;
    if (config_.activation.is_sparse()) options.activation = config_.activation;
    if (order == Order::kBackwards) {
      std::vector<uint32_t> backwards(config_.ffn_size);
      for (uint32_t i = 0; i < config_.ffn_size; ++i) backwards[i] = config_.ffn_size - 1 - i;
      options.neuron_orders.assign(config_.num_layers, backwards);
    }
    const auto report = Pack(options, [](double, std::string_view) {});
    if (!report) ADD_FAILURE() << report.error().message;
    return options.output_path;
  }

  EngineOptions Options(const std::string& packed, RunMode mode) const {
    EngineOptions options = TestOptions(packed);
    options.mode = mode;
    options.logit_rows = options.max_batch;
    return options;
  }

  void ExpectGolden(const std::string& packed, RunMode mode, const std::string& what) const {
    const EngineOptions options = Options(packed, mode);
    const std::unique_ptr<Engine> engine = OpenOrFail(options);
    ASSERT_NE(engine, nullptr) << what;
    double worst = 0;
    for (const GoldenSequence& sequence : golden_.sequences) {
      worst = std::max(worst, MaxDifference(AllLogits(*engine, sequence.input_ids, options.max_batch), sequence.logits));
      worst = std::max(worst, CheckGreedy(*engine, sequence));
    }
    EXPECT_LE(worst, golden_.tolerance) << what << ", " << RunModeName(mode);
  }

  std::vector<float> Logits(const EngineOptions& options) const { return LogitsOf(options, golden_.sequences); }

  GoldenModel golden_;
  ModelConfig config_;
};

std::string LayoutText(const std::optional<FfnLayout>& layout) { return layout ? FfnLayoutName(*layout) : "the layout of its kind"; }

TEST_P(ArchitectureTest, AgreesWithTransformersInEveryModeAndLayout) {
  for (const std::optional<FfnLayout>& layout : Layouts()) {
    TemporaryDirectory directory;
    const std::string packed = PackAs(layout, Order::kSource, directory);
    for (const RunMode mode : {RunMode::kResident, RunMode::kNaive, RunMode::kHybrid, RunMode::kFlash}) {
      ExpectGolden(packed, mode, LayoutText(layout));
    }
  }
}

TEST_P(ArchitectureTest, AnyOrderOfTheNeuronsAgreesWithTransformers) {
  for (const std::optional<FfnLayout>& layout : Layouts()) {
    if (!layout && !config_.activation.is_sparse()) continue;  // its neurons are not packed one by one
    TemporaryDirectory directory;
    ExpectGolden(PackAs(layout, Order::kBackwards, directory), RunMode::kFlash, LayoutText(layout));
  }
}

TEST_P(ArchitectureTest, TheSameBitsUnderHostileSettings) {
  for (const std::optional<FfnLayout>& layout : Layouts()) {
    TemporaryDirectory directory;
    const std::string packed = PackAs(layout, Order::kSource, directory);
    const std::vector<float> expected = Logits(Options(packed, RunMode::kResident));
    const auto check = [&](const EngineOptions& options, const char* what) {
      ExpectSameBits(Logits(options), expected, LayoutText(layout) + ", " + what);
    };
    for (const RunMode mode : {RunMode::kNaive, RunMode::kHybrid, RunMode::kFlash}) check(Options(packed, mode), RunModeName(mode));
    ForEachHostileSetting(Options(packed, RunMode::kFlash), check);
  }
}

// Predictors of a gated model guess where the gate is not zero; with them too the bits depend on nothing else.
TEST_P(ArchitectureTest, PredictorsAreTrainedOnGates) {
  if (!config_.gated || !config_.activation.is_sparse()) GTEST_SKIP() << "no gate that chooses neurons";
  TemporaryDirectory directory;
  const std::string packed = PackAs(FfnLayout::kBundle3, Order::kSource, directory);
  TrainPredictors(packed);
  EngineOptions options = Options(packed, RunMode::kFlash);
  options.sample_recall_every = 1;
  options.max_batch = options.logit_rows = 1;
  const std::unique_ptr<Engine> engine = OpenOrFail(options);
  ASSERT_NE(engine, nullptr);
  ASSERT_TRUE(engine->has_predictor());
  const std::vector<float> expected = AllLogits(*engine, golden_.sequences, 1);
  EXPECT_GT(engine->statistics().recall, 0.7);
  options.num_slots = BundleCache::kMinSlots;
  options.early = false;
  options.num_threads = 3;
  options.max_batch = options.logit_rows = 16;
  ExpectSameBits(Logits(options), expected, "few slots, no early prediction, three threads, batches of 16");
}

std::string TestName(const ::testing::TestParamInfo<Source>& info) {
  std::string name = fs::path(info.param.directory).filename().string() + (info.param.file.empty() ? "" : "_gguf");
  for (char& c : name) {
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  }
  return name;
}

void AddSources(const fs::path& folder, std::vector<Source>& sources) {
  if (!fs::exists(folder / "golden.safetensors") || folder.filename() == "tale") return;  // tale is golden_test's and hostile_test's
  const auto config = ConfigOf(folder.string());
  if (!config) {
    std::cout << "skipped " << config.error().message << "\n";
    return;
  }
  bool has_checkpoint = false;
  for (const fs::directory_entry& file : fs::directory_iterator(folder)) {
    if (IsRepeated(file.path())) continue;
    const std::string name = file.path().filename().string();
    has_checkpoint = has_checkpoint || name.starts_with("model") || name.starts_with("pytorch_model");
    if (file.path().extension() == ".gguf") sources.push_back({folder.string(), file.path().string()});
  }
  if (has_checkpoint) sources.push_back({folder.string(), ""});
}

std::vector<Source> Sources() {
  std::vector<Source> sources;
  for (const std::string& root : GoldenRoots()) {
    for (const fs::directory_entry& entry : fs::directory_iterator(root)) AddSources(entry.path(), sources);
  }
  std::sort(sources.begin(), sources.end(),
            [](const Source& a, const Source& b) { return std::tie(a.directory, a.file) < std::tie(b.directory, b.file); });
  return sources;
}

INSTANTIATE_TEST_SUITE_P(Models, ArchitectureTest, ::testing::ValuesIn(Sources()), TestName);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(ArchitectureTest);

}  // namespace
}  // namespace frugal::testing
