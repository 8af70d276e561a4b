// What `plan` and --mode auto expect of models of the paper's shapes in given budgets on given devices: where selecting neurons pays,
// which layout of a gated FFN does, and that an expectation is of the file that `pack` writes.
#include <gtest/gtest.h>

#include <cmath>

#include "src/base/bytes.h"
#include "src/engine/early_choice.h"
#include "src/engine/layout_choice.h"
#include "src/engine/streaming_choice.h"
#include "src/model/kv_cache.h"
#include "src/pack/pack.h"
#include "src/pack/synthetic_shape.h"
#include "tests/header_only_model.h"
#include "tests/support.h"

namespace frugal::testing {
namespace {

// An ordinary disk: 1.2 GB/s in large reads, 40,000 reads of 4 KiB a second, and fewer of larger ones.
DeviceProfile OrdinaryDisk() {
  DeviceProfile profile;
  profile.sequential_bytes_per_second = 1.2e9;
  profile.random = {{4096, 32, 40e3, 40e3 * 4096}, {16384, 32, 18e3, 18e3 * 16384}, {65536, 32, 8e3, 8e3 * 65536}};
  profile.memory_bytes_per_second = 20e9;
  return profile;
}

DeviceProfile WithRandomReads(DeviceProfile profile, double times_as_fast) {
  for (DeviceProfile::Point& point : profile.random) {
    point.iops *= times_as_fast;
    point.bytes_per_second *= times_as_fast;
  }
  return profile;
}

struct Activity {
  double marked, new_share;  // of the FFN: used by a token, and used by none of the window's
  uint32_t dense_layers = 0;  // the last ones use all their neurons
};

NeuronUse UseOf(const ModelConfig& config, const Activity& activity) {
  NeuronUse use;
  use.window_misses.assign(kNumWindows, 0.0);
  for (uint32_t layer = 0; layer < config.num_layers; ++layer) {
    const bool dense = layer + activity.dense_layers >= config.num_layers;
    use.shares.insert(use.shares.end(), config.ffn_size, dense ? 1.0f : static_cast<float>(activity.marked));
    if (dense) continue;
    // The same share is new with every window: what the figure is for any slots that hold one.
    for (double& misses : use.window_misses) misses += activity.new_share * config.ffn_size;
  }
  use.active = activity.marked * config.ffn_size * config.num_layers / 2.5;
  return use;
}

class ExpectedSpeedTest : public ::testing::Test {
 protected:
  // Of the shape's FFN and attention together, as the paper gives memory, and room for KV cache and process.
  EngineOptions Options(const ModelFile& model, double memory_share) const {
    EngineOptions options = TestOptions(model.path());
    options.context = 512;
    const uint64_t kv_bytes = KvCache::SizeBytes(model.config(), model.config().num_layers, options.context, options.kv_type);
    options.ram_bytes = static_cast<uint64_t>(memory_share * static_cast<double>(model.streamable_bytes())) + kv_bytes + 64 * kMiB;
    return options;
  }

  ModelFile Open(const std::string& shape_name, DType type = DType::kF16, std::optional<FfnLayout> layout = std::nullopt) {
    ModelConfig config = SyntheticConfig(FindSyntheticShape(shape_name).value(), 0);
    if (layout) config.ffn_layout = *layout;
    const std::string path = directory_.File(shape_name + ".gguf");
    WriteHeaderOnlyModel(config, type, path);
    Result<ModelFile> model = ModelFile::Open(path);
    if (!model) ADD_FAILURE() << model.error().message;
    return *std::move(model);
  }

  // flash against hybrid, with predictors that take no memory.
  bool StreamingPaysFor(const ModelFile& model, double memory_share, const Activity& activity) {
    PredictorInfo predictor;
    predictor.layers.resize(model.config().num_layers);
    EngineOptions options = Options(model, memory_share);
    const EnginePlan flash = MakePlan(model, &predictor, {}, options).value();
    EXPECT_TRUE(flash.use_predictor());
    options.mode = RunMode::kHybrid;
    const EnginePlan hybrid = MakePlan(model, &predictor, {}, options).value();
    const NeuronUse use = UseOf(model.config(), activity);
    const DeviceProfile disk = OrdinaryDisk();
    const Expectation selecting = ExpectDecode(model, flash, use, &disk), all = ExpectDecode(model, hybrid, use, &disk);
    gain_ = *all.read_seconds / *selecting.read_seconds;
    missed_share_ = selecting.bundles_missed / static_cast<double>(use.shares.size());
    return StreamingPays(selecting, all, LeastGainOfSelecting(flash.exact));
  }

  TemporaryDirectory directory_;
  double gain_ = 0, missed_share_ = 0;
};

TEST_F(ExpectedSpeedTest, PhiTwoIsStreamedOnAnOrdinaryDisk) {
  const ModelFile model = Open("phi-2");
  // 15% are active, two and a half times as many marked, 12% new with a token; four layers are dense.
  EXPECT_TRUE(StreamingPaysFor(model, 0.65, {0.37, 0.12, 4})) << gain_;
  EXPECT_GT(missed_share_, 0.1);
}

TEST_F(ExpectedSpeedTest, OfFalconTheNeuronsAreSelected) {
  EXPECT_FALSE(StreamingPaysFor(Open("falcon-7b"), 0.5, {0.125, 0.031})) << gain_;
  EXPECT_GT(gain_, 2);
  EXPECT_NEAR(missed_share_, 0.031, 0.01);
}

TEST_F(ExpectedSpeedTest, WhereAttentionDoesNotFitItIsStreamedInLargeReadsBesideSlotsForALayersNeurons) {
  const ModelFile model = Open("llama-2-7b");
  PredictorInfo predictor;
  predictor.layers.resize(model.config().num_layers);
  predictor.early_bytes = kMiB;
  for (const double share : {0.15, 0.25, 0.35}) {
    const EnginePlan plan = MakePlan(model, &predictor, {}, Options(model, share)).value();
    EXPECT_GT(plan.streamed_bytes_per_token, 0u);
    EXPECT_EQ(plan.weights.block_bytes, kMiB) << share;
    EXPECT_GE(plan.weights.cache.num_slots, model.config().ffn_size) << share;
    EXPECT_FALSE(plan.use_early) << share;
    EXPECT_GE(plan.peak_bytes() * 100, plan.ram_bytes * 99) << share;
    EXPECT_GE(plan.ledger.line_bytes("weight blocks"), LayOutBlocks(model, plan.weights).blocks.size() * sizeof(WeightBlock));
  }
  const EnginePlan resident = MakePlan(model, &predictor, {}, Options(model, 0.5)).value();
  EXPECT_EQ(resident.streamed_bytes_per_token, 0u);
  // Of a budget that just holds attention the last of it goes to slots.
  EngineOptions just = Options(model, 0.5);
  just.ram_bytes = resident.peak_bytes() - resident.ledger.line_bytes("slots") + 16 * kMiB;
  const EnginePlan split = MakePlan(model, &predictor, {}, just).value();
  EXPECT_GT(split.streamed_bytes_per_token, 0u);
  EXPECT_GE(split.weights.cache.num_slots, model.config().ffn_size);
  EXPECT_TRUE(resident.use_early);
  // A wrong guess is in memory less often than a neuron that is used.
  NeuronUse use = UseOf(model.config(), {0.1, 0.025});
  use.early_wrong = 1000;
  const Expectation expected = ExpectDecode(model, resident, use, nullptr);
  EXPECT_GT(expected.bundles_in_vain, 1000 * 1.2 * (1 - expected.hit_share()));
  EXPECT_LT(expected.bundles_in_vain, 1000);
}

TEST_F(ExpectedSpeedTest, GuessedNeuronsAreNotReadWithThoseThatComeLater) {
  const ModelFile model = Open("llama-2-7b");
  PredictorInfo predictor;
  predictor.layers.resize(model.config().num_layers);
  EnginePlan plan = MakePlan(model, &predictor, {}, Options(model, 0.5)).value();
  plan.weights.cache.max_gap_bytes = plan.weights.cache.max_read_bytes = 16 * model.bundles()[0].stride_bytes;
  const NeuronUse use = UseOf(model.config(), {0.1, 0.008});  // few: there are scraps for all gaps
  plan.use_early = false;
  const Expectation together = ExpectDecode(model, plan, use, nullptr);
  plan.use_early = true;
  const Expectation apart = ExpectDecode(model, plan, use, nullptr);
  EXPECT_EQ(apart.bundles_in_vain, 0);  // the same bundles
  EXPECT_GT(apart.demand_reads, 1.02 * together.demand_reads);
  EXPECT_LT(apart.demand_bytes, 0.98 * together.demand_bytes);
}

TEST_F(ExpectedSpeedTest, WrongGuessesThatASlowDeviceCannotBeginInTimeAreNotRead) {
  const ModelFile model = Open("llama-2-7b");
  PredictorInfo predictor;
  predictor.layers.resize(model.config().num_layers);
  predictor.early_bytes = kMiB;
  const EnginePlan plan = MakePlan(model, &predictor, {}, Options(model, 0.5)).value();
  ASSERT_TRUE(plan.use_early);
  NeuronUse use = UseOf(model.config(), {0.1, 0.025});
  use.early_wrong = 0.05 * static_cast<double>(use.shares.size());
  const DeviceProfile slow = OrdinaryDisk(), fast = WithRandomReads(slow, 20);
  const Expectation unknown = ExpectDecode(model, plan, use, nullptr);
  const Expectation in_time = ExpectDecode(model, plan, use, &fast), late = ExpectDecode(model, plan, use, &slow);
  EXPECT_EQ(in_time.bundles_in_vain, unknown.bundles_in_vain);
  EXPECT_LT(late.bundles_in_vain, 0.9 * unknown.bundles_in_vain);
  EXPECT_GT(late.bundles_in_vain, 0.1 * unknown.bundles_in_vain);  // what is in flight by then is read
  EXPECT_EQ(late.bundles_missed, unknown.bundles_missed);
  EXPECT_LT(late.demand_reads, unknown.demand_reads);
  EXPECT_LT(late.demand_bytes, unknown.demand_bytes);
}

TEST_F(ExpectedSpeedTest, AContextThatNobodyAskedForLeavesHalfToSlotsAndWeights) {
  const ModelFile model = Open("llama-2-7b");
  PredictorInfo predictor;
  predictor.layers.resize(model.config().num_layers);
  const auto plan_of = [&](RunMode mode, uint32_t context, uint64_t ram_bytes) {
    EngineOptions options = TestOptions(model.path());
    options.mode = mode;
    options.context = context;
    options.ram_bytes = ram_bytes;
    return MakePlan(model, &predictor, {}, options).value();
  };
  for (const RunMode mode : {RunMode::kFlash, RunMode::kHybrid}) {
    const uint64_t least = plan_of(mode, 64, 8 * kGiB).smallest_bytes, longest = plan_of(mode, 2048, 8 * kGiB).smallest_bytes;
    EXPECT_EQ(plan_of(mode, 2048, longest).context, 2048u);
    const EnginePlan roomy = plan_of(mode, 0, least + 2 * (longest - least));
    EXPECT_EQ(roomy.context, 2048u);
    EXPECT_FALSE(roomy.context_reduced);
    const EnginePlan tight = plan_of(mode, 0, longest);
    EXPECT_TRUE(tight.context_reduced);
    EXPECT_GT(tight.context, 512u);
    EXPECT_LE(tight.smallest_bytes - least, (longest - least) / 2);
  }
  // naive mode has nothing else to spend memory on.
  const uint64_t naive = plan_of(RunMode::kNaive, 2048, 8 * kGiB).smallest_bytes;
  EXPECT_EQ(plan_of(RunMode::kNaive, 0, naive).context, 2048u);
}

// --- gates

TEST_F(ExpectedSpeedTest, AutoModeSelectsByGatesWhereThatReadsFaster) {
  const ModelFile model = Open("llama-2-7b", DType::kF16, FfnLayout::kGateAndBundle2);
  const DeviceProfile disk = OrdinaryDisk();
  EngineOptions options = Options(model, 0.6);
  OpenedHeader header = OpenHeader(options).value();
  auto choice = CompareWithStreaming(header, options, disk).value();
  ASSERT_TRUE(choice.has_value());
  EXPECT_FALSE(choice->pays) << choice->flash_read_seconds << " " << choice->hybrid_read_seconds;
  // A FATReLU's 10% of the neurons are an assumption, which is said.
  EXPECT_NE(choice->assumption.find("assumed"), std::string::npos) << choice->assumption;
  // Who names a selector is not overruled.
  options.selector = SelectorKind::kGate;
  EXPECT_FALSE(CompareWithStreaming(header, options, disk).value().has_value());
  // A device that takes as long for a small read as for a large one.
  options.selector = SelectorKind::kAuto;
  DeviceProfile slow = disk;
  slow.random = {{4096, 32, 500, 500.0 * 4096}, {16384, 32, 500, 500.0 * 16384}};
  choice = CompareWithStreaming(header, options, slow).value();
  ASSERT_TRUE(choice.has_value());
  EXPECT_TRUE(choice->pays);
  EXPECT_EQ(choice->least_gain, 1.0);
}

TEST_F(ExpectedSpeedTest, AGateThatFitsChoosesAndASketchWhereItDoesNot) {
  const ModelFile model = Open("llama-2-7b");  // bundle3
  DeviceProfile disk = OrdinaryDisk();
  disk.sequential_bytes_per_second = 0.3e9;
  const auto best = [&](uint64_t ram_bytes) {
    EngineOptions options = TestOptions(model.path());
    options.context = 512;
    options.ram_bytes = ram_bytes;
    const OpenedHeader header = OpenHeader(options).value();
    const LayoutComparison comparison = CompareLayouts(header, options, PackedForm(), &disk).value();
    EXPECT_EQ(comparison.candidates.size(), 3u);
    if (!comparison.best) return std::string("none");
    EXPECT_NE(comparison.basis.find("assumed"), std::string::npos) << comparison.basis;
    return DescribeCandidate(comparison.candidates[*comparison.best]);
  };
  // Attention, embeddings and gates take 7.2 GiB of the 12.6.
  EXPECT_EQ(best(9 * kGiB), "gate+bundle2, the gate chooses");
  // Attention takes 4.5: a gate of 2.7 would be read for every token.
  EXPECT_NE(best(6 * kGiB).find("bundle3"), std::string::npos) << best(6 * kGiB);
  EXPECT_EQ(best(256 * kMiB), "none");
}

TEST_F(ExpectedSpeedTest, ASketchGuessesEarlyWhereAttentionTakesLongerThanItsReads) {
  const ModelFile model = Open("llama-2-7b");
  EngineOptions options = TestOptions(model.path());
  options.context = 512;
  options.ram_bytes = 8 * kGiB;
  const OpenedHeader header = OpenHeader(options).value();
  // A fast device beside a slow memory: what attention takes is worth hiding in.
  DeviceProfile fast = WithRandomReads(OrdinaryDisk(), 2);
  fast.sequential_bytes_per_second = 6e9;
  fast.memory_bytes_per_second = 5e9;
  EXPECT_TRUE(EarlyPays(header, options, fast).value());
  // A slow device: wrong guesses take reads for which every token waits.
  EXPECT_FALSE(EarlyPays(header, options, WithRandomReads(OrdinaryDisk(), 0.1)).value());
  options.early = false;
  EXPECT_FALSE(EarlyPays(header, options, fast).value());
}

TEST_F(ExpectedSpeedTest, PredictorsGuessEarlyWhereAttentionTakesLongerThanTheirReads) {
  const std::string packed = PackModel(FindGolden("opt"), directory_);
  TrainPredictors(packed);
  EngineOptions options = TestOptions(packed);
  options.ram_bytes = 64 * kMiB;
  options.slots_share = 0.25;
  const OpenedHeader header = OpenHeader(options).value();
  ASSERT_TRUE(header.predictor.has_value() && header.predictor->early_bytes > 0);
  DeviceProfile slow_memory = OrdinaryDisk();
  slow_memory.memory_bytes_per_second = 1e6;
  EXPECT_TRUE(EarlyPays(header, options, slow_memory).value());
  EXPECT_FALSE(EarlyPays(header, options, WithRandomReads(OrdinaryDisk(), 0.001)).value());
}

// Memory and disk are no limit here: what a token takes more is what is multiplied slowly. Where attention does not fit (0.2) the part of
// it that is streamed is multiplied like rows.
TEST_F(ExpectedSpeedTest, AProcessorThatMultipliesSlowlyIsCountedForMatricesRowsAndSums) {
  const ModelFile model = Open("llama-2-7b", DType::kQ4_0);
  PredictorInfo predictor;
  predictor.layers.resize(model.config().num_layers);
  const NeuronUse use = UseOf(model.config(), {0.1, 0.025});
  DeviceProfile profile = WithRandomReads(OrdinaryDisk(), 1e6);
  profile.memory_bytes_per_second = profile.sequential_bytes_per_second = 1e15;
  for (const double share : {0.5, 0.2}) {
    profile.products.clear();
    const EnginePlan plan = MakePlan(model, &predictor, {}, Options(model, share)).value();
    const Expectation fast = ExpectDecode(model, plan, use, &profile);
    EXPECT_EQ(fast.streamed_bytes > 0, share == 0.2);
    const BundleInfo& bundle = model.bundles()[0];
    const double of_bundles = fast.bundles_used * static_cast<double>(bundle.down_offset_bytes);
    const double sum_bytes = fast.bundles_active * static_cast<double>(bundle.stride_bytes - bundle.down_offset_bytes);
    const double row_bytes = of_bundles + fast.streamed_bytes;
    const double kv_bytes = static_cast<double>(plan.ledger.line_bytes("KV cache")) / 2;
    const double matrix_bytes = fast.touched_bytes - row_bytes - sum_bytes - kv_bytes;
    ASSERT_GT(matrix_bytes, 0);
    constexpr double kFast = 1e15, kSlow = 1e9;
    struct Case {
      ProductSpeed speed;
      double bytes;
    };
    for (const Case& c : {Case{{DType::kQ4_0, kSlow, kFast, kFast}, matrix_bytes}, Case{{DType::kQ4_0, kFast, kSlow, kFast}, row_bytes},
                          Case{{DType::kQ4_0, kFast, kFast, kSlow}, sum_bytes}, Case{{DType::kF16, kSlow, kSlow, kSlow}, 0}}) {
      profile.products = {c.speed};
      const Expectation slow = ExpectDecode(model, plan, use, &profile);
      const double expected = fast.compute_seconds + c.bytes / (kSlow * plan.num_threads);
      EXPECT_NEAR(slow.compute_seconds, expected, 1e-3 * expected) << share << ", " << c.bytes;
      EXPECT_NEAR(*slow.token_seconds - *fast.token_seconds, c.bytes / (kSlow * plan.num_threads), 2e-2 * expected)
          << share << ", " << c.bytes;
    }
  }
}

TEST_F(ExpectedSpeedTest, AModelWithoutGateHasNoChoiceOfLayouts) {
  const ModelFile model = Open("falcon-7b");
  const EngineOptions options = Options(model, 0.5);
  EXPECT_FALSE(HasLayoutChoice(model.config()));
  EXPECT_TRUE(CompareLayouts(OpenHeader(options).value(), options, PackedForm(), nullptr).value().candidates.empty());
}

// --- the file that `pack` would write

class PackedFormTest : public ::testing::TestWithParam<FfnLayout> {};

TEST_P(PackedFormTest, PlansAreThoseOfTheFileThatPackWrites) {
  const std::string gguf = FindGolden("llama-bias/llama-bias-bf16.gguf");
  if (!std::filesystem::exists(gguf)) GTEST_SKIP() << gguf << " is not there";
  TemporaryDirectory directory;
  const Activation relu;
  for (const std::optional<DType> type : {std::optional<DType>(), std::optional(DType::kQ8_0)}) {
    for (const FfnLayout from : {FfnLayout::kMatrices, FfnLayout::kBundle3, FfnLayout::kGateAndBundle2}) {
      PackOptions pack;
      pack.source_path = gguf;
      pack.output_path = directory.File("packed.gguf");
      pack.overwrite = Overwrite::kYes;
      pack.activation = relu;
      pack.type = type;
      pack.layout = GetParam();
      ASSERT_TRUE(Pack(pack, [](double, std::string_view) {}));
      std::string base = gguf;
      if (from != FfnLayout::kMatrices) {
        pack.output_path = base = directory.File("base.gguf");
        pack.layout = from;
        ASSERT_TRUE(Pack(pack, [](double, std::string_view) {}));
      }
      const ModelFile packed = ModelFile::Open(directory.File("packed.gguf")).value();
      const Result<ModelFile> expected = ModelFile::OpenAsIfPacked(base, relu, {GetParam(), type, type, 512});
      ASSERT_TRUE(expected) << expected.error().message;
      EXPECT_EQ(expected->num_hashes(), packed.num_hashes());
      EXPECT_EQ(expected->streamable_bytes(), packed.streamable_bytes());
      for (const uint64_t ram_bytes : {uint64_t{0}, uint64_t{3'200'000}, uint64_t{3'400'000}}) {
        EngineOptions options = TestOptions(packed.path());
        options.ram_bytes = ram_bytes;
        options.context = 64;
        options.num_threads = 1;
        const Result<EnginePlan> a = MakePlan(packed, nullptr, {}, options), b = MakePlan(*expected, nullptr, {}, options);
        ASSERT_EQ(a.has_value(), b.has_value()) << ram_bytes;
        if (!a) continue;
        EXPECT_EQ(a->peak_bytes(), b->peak_bytes());
        EXPECT_EQ(a->smallest_bytes, b->smallest_bytes);
        EXPECT_EQ(a->weights.cache.num_slots, b->weights.cache.num_slots);
        EXPECT_EQ(a->streamed_bytes_per_token, b->streamed_bytes_per_token);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, PackedFormTest, ::testing::Values(FfnLayout::kBundle3, FfnLayout::kGateAndBundle2),
                         [](const auto& layout) { return layout.param == FfnLayout::kBundle3 ? "bundle3" : "gate"; });

}  // namespace
}  // namespace frugal::testing
