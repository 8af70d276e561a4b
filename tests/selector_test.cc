// Selectors of gated models: an exact gate gives the bits of all neurons, a gate sketch finds nearly all active ones and gives the same
// bits whatever the cache, the reader, the threads and the batch; the planner chooses by layout and budget.
#include <gtest/gtest.h>

#include "src/pack/pack.h"
#include "src/train/train.h"
#include "tests/support.h"

namespace frugal::testing {
namespace {

class SelectorTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    source_ = FindGolden(GetParam());
    if (!std::filesystem::exists(source_)) GTEST_SKIP() << source_ << " is not there";
    golden_ = ReadGolden(source_);
  }

  std::string PackAs(std::optional<FfnLayout> layout, std::optional<DType> type = std::nullopt, const std::string& source = "") const {
    PackOptions options;
    options.source_path = source.empty() ? source_ : source;
    options.output_path = directory_.File("packed.gguf");
    options.overwrite = Overwrite::kYes;
    options.layout = layout;
    options.type = type;
    const auto report = Pack(options, [](double, std::string_view) {});
    if (!report) ADD_FAILURE() << report.error().message;
    return options.output_path;
  }

  static EngineOptions Options(const std::string& packed, SelectorKind selector) {
    EngineOptions options = TestOptions(packed);
    options.selector = selector;
    options.logit_rows = options.max_batch;
    return options;
  }

  std::vector<float> Logits(Engine& engine, uint32_t batch) const { return AllLogits(engine, golden_.sequences, batch); }
  std::vector<float> Logits(const EngineOptions& options) const { return LogitsOf(options, golden_.sequences); }

  static ErrorCode CodeOf(const EngineOptions& options) {
    const auto engine = Engine::Open(options);
    if (engine) ADD_FAILURE() << "opened: " << (*engine)->Describe();
    return engine ? ErrorCode::kFailed : engine.error().code;
  }

  TemporaryDirectory directory_;
  std::string source_;
  GoldenModel golden_;
};

TEST_P(SelectorTest, ACopyOfTheGateGivesTheBitsOfAllNeurons) {
  const std::string packed = PackAs(FfnLayout::kBundle3);
  const std::vector<float> expected = Logits(Options(packed, SelectorKind::kAll));
  ForEachHostileSetting(Options(packed, SelectorKind::kGate), [&](const EngineOptions& options, const char* what) {
    ExpectSameBits(Logits(options), expected, what);
  });
  const std::unique_ptr<Engine> engine = OpenOrFail(Options(packed, SelectorKind::kGate));
  ASSERT_NE(engine, nullptr);
  EXPECT_TRUE(engine->is_exact());
  EXPECT_NE(engine->Describe().find("neurons whose gate"), std::string::npos) << engine->Describe();
}

TEST_P(SelectorTest, ASketchFindsNearlyAllActiveNeurons) {
  EngineOptions options = Options(PackAs(FfnLayout::kBundle3), SelectorKind::kSketch);
  options.sample_recall_every = 1;
  options.num_slots = BundleCache::kMinSlots;  // unchosen neurons are read for the sample
  const std::unique_ptr<Engine> engine = OpenOrFail(options);
  ASSERT_NE(engine, nullptr);
  EXPECT_FALSE(engine->is_exact());
  EXPECT_NE(engine->Describe().find("sketch of the gate, approximate"), std::string::npos) << engine->Describe();
  EXPECT_GT(engine->plan().ledger.line_bytes("gate sketch"), 0u);
  Logits(*engine, 1);
  EXPECT_GT(engine->statistics().recall, 0.93);
  EXPECT_LE(engine->statistics().recall, 1.0);
}

TEST_P(SelectorTest, ASketchGivesTheSameBitsUnderHostileSettings) {
  const std::string packed = PackAs(FfnLayout::kBundle3);
  const EngineOptions base = Options(packed, SelectorKind::kSketch);
  const std::vector<float> expected = Logits(base);
  ForEachHostileSetting(base, [&](const EngineOptions& options, const char* what) { ExpectSameBits(Logits(options), expected, what); });
  EXPECT_LT(RelativeRms(expected, Logits(Options(packed, SelectorKind::kAll))), 0.1) << "what it misses is small";
}

TEST_P(SelectorTest, EarlyGuessesOfASketchMoveBytesAndNothingElse) {
  EngineOptions options = Options(PackAs(FfnLayout::kBundle3), SelectorKind::kSketch);
  options.logit_rows = 1;
  options.num_slots = BundleCache::kMinSlots;
  options.window = false;
  const std::unique_ptr<Engine> on_time = OpenOrFail(options);
  options.sketch_early = true;
  const std::unique_ptr<Engine> early = OpenOrFail(options);
  ASSERT_TRUE(on_time != nullptr && early != nullptr);
  EXPECT_FALSE(on_time->plan().use_early);
  EXPECT_TRUE(early->plan().use_early);
  EXPECT_NE(early->Describe().find("early prediction"), std::string::npos) << early->Describe();
  EXPECT_EQ(early->plan().peak_bytes(), on_time->plan().peak_bytes()) << "it takes no memory";
  ExpectSameBits(Logits(*early, 1), Logits(*on_time, 1), "early");
  EXPECT_EQ(on_time->statistics().weights.cache.num_prefetched, 0u);
  const CacheStatistics cache = early->statistics().weights.cache;
  EXPECT_GT(cache.num_prefetched, 0u);
  // Attention does not change the residual so much that what is guessed is chance: half of the random gates are above zero.
  EXPECT_LT(cache.num_prefetched_unused * 10, cache.num_prefetched * 4);
  // What was asked for before and after attention is what was asked for at once.
  EXPECT_EQ(cache.num_hits + cache.num_late_hits + cache.num_misses,
            on_time->statistics().weights.cache.num_hits + on_time->statistics().weights.cache.num_misses +
                on_time->statistics().weights.cache.num_late_hits);
}

TEST_P(SelectorTest, APromptLeavesInTheSlotsWhatItsLastTokensUsed) {
  EngineOptions options = Options(PackAs(FfnLayout::kGateAndBundle2), SelectorKind::kGate);
  std::vector<int32_t> ids;
  for (const GoldenSequence& sequence : golden_.sequences) {
    if (sequence.input_ids.size() > ids.size()) ids = sequence.input_ids;
  }
  ASSERT_GE(ids.size(), 9u);
  options.max_batch = 8;
  options.logit_rows = 1;
  options.slots_share = 0.25;
  const std::unique_ptr<Engine> engine = OpenOrFail(options);
  ASSERT_NE(engine, nullptr);
  const auto session = engine->NewSession();
  ASSERT_TRUE(session);
  ASSERT_TRUE(engine->Step(**session, std::span(ids).first(8), 1));
  const CacheStatistics prompt = engine->statistics().weights.cache;
  ASSERT_EQ(prompt.num_hits + prompt.num_misses, 0u) << "it is read past the cache";
  ASSERT_TRUE(engine->Step(**session, std::span(ids).subspan(8, 1), 1));
  const CacheStatistics cache = engine->statistics().weights.cache;
  EXPECT_GT(cache.num_hits * 5, engine->plan().weights.cache.num_slots);
  EXPECT_GT(cache.num_misses, 0u);
  options.slots_share.reset();
  options.mode = RunMode::kResident;
  const std::unique_ptr<Engine> resident = OpenOrFail(options);
  ASSERT_NE(resident, nullptr);
  const auto resident_session = resident->NewSession();
  ASSERT_TRUE(resident_session);
  ASSERT_TRUE(resident->Prefill(**resident_session, std::span(ids).first(9)));
  ExpectSameBits(engine->logits(), resident->logits(), "what was kept");
}

TEST_P(SelectorTest, ASketchOfAFourBitGateIsExact) {
  const std::string packed = PackAs(FfnLayout::kBundle3, DType::kQ4_0);
  const std::unique_ptr<Engine> engine = OpenOrFail(Options(packed, SelectorKind::kSketch));
  ASSERT_NE(engine, nullptr);
  EXPECT_TRUE(engine->is_exact());
  ExpectSameBits(Logits(*engine, engine->options().max_batch), Logits(Options(packed, SelectorKind::kAll)), "Q4_0");
}

TEST_P(SelectorTest, ThePlanTakesASketchWhereTheBudgetDoesNotHoldAllNeurons) {
  EngineOptions options = TestOptions(PackAs(FfnLayout::kBundle3));
  options.context = 64;
  const auto selector = [&options] {
    const std::unique_ptr<Engine> engine = OpenOrFail(options);
    return engine != nullptr ? engine->plan().selector : SelectorKind::kAuto;
  };
  options.ram_bytes = 64 * kMiB;
  EXPECT_EQ(selector(), SelectorKind::kAll) << "all fit, without a read";
  options.num_slots = BundleCache::kMinSlots;
  EXPECT_EQ(selector(), SelectorKind::kSketch);
  options.predictor = false;
  EXPECT_EQ(selector(), SelectorKind::kAll) << "nothing is to be guessed";
  options.predictor = true;
  const auto header = OpenHeader(options);
  ASSERT_TRUE(header) << header.error().message;
  const auto plan = MakePlan(*header->model, nullptr, {}, options);
  ASSERT_TRUE(plan) << plan.error().message;
  options.ram_bytes = plan->smallest_bytes;
  EXPECT_EQ(selector(), SelectorKind::kAll) << "the sketch does not fit";
  options.selector = SelectorKind::kSketch;
  EXPECT_EQ(CodeOf(options), ErrorCode::kDoesNotFit);
}

TEST_P(SelectorTest, WhatDoesNotGoWithTheModelIsRefused) {
  const std::string bundles = PackAs(FfnLayout::kBundle3);
  EXPECT_EQ(CodeOf(Options(bundles, SelectorKind::kPredictor)), ErrorCode::kUsage) << "no file";
  const std::string with_gate = PackAs(FfnLayout::kGateAndBundle2);
  for (const SelectorKind kind : {SelectorKind::kPredictor, SelectorKind::kSketch, SelectorKind::kAll}) {
    EXPECT_EQ(CodeOf(Options(with_gate, kind)), ErrorCode::kUsage);
  }
  const std::unique_ptr<Engine> engine = OpenOrFail(Options(with_gate, SelectorKind::kAuto));
  ASSERT_NE(engine, nullptr);
  EXPECT_EQ(engine->plan().selector, SelectorKind::kGate);
  const std::string matrices = PackAs(std::nullopt, std::nullopt, FindGolden("mistral-window"));
  for (const SelectorKind kind : {SelectorKind::kPredictor, SelectorKind::kSketch, SelectorKind::kGate}) {
    EXPECT_EQ(CodeOf(Options(matrices, kind)), ErrorCode::kUsage);
  }
}

TEST_P(SelectorTest, AnExactGateLeavesNothingToTrain) {
  TrainOptions options;
  options.model_path = PackAs(FfnLayout::kGateAndBundle2);
  const auto report = Train(options, [](double, std::string_view) {});
  ASSERT_FALSE(report.has_value());
  EXPECT_EQ(report.error().code, ErrorCode::kUsage);
  EXPECT_NE(report.error().message.find("choose the neurons exactly, there is nothing to predict"), std::string::npos)
      << report.error().message;
  EXPECT_FALSE(std::filesystem::exists(DefaultPredictorPath(options.model_path)));
}

INSTANTIATE_TEST_SUITE_P(Models, SelectorTest, ::testing::Values("llama-relu", "llama-fatrelu", "bamboo-drelu"), [](const auto& model) {
  std::string name = model.param;
  for (char& c : name) c = c == '-' ? '_' : c;
  return name;
});

}  // namespace
}  // namespace frugal::testing
