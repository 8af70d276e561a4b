// The same bits whatever the cache size, the I/O backend, the number of threads, the order in which reads complete, overlap, early
// prediction and the cut of the prompt; with all neurons and with a predictor.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "src/base/random.h"
#include "src/io/at_once_reader_for_test.h"
#include "src/io/fault_reader.h"
#include "tests/support.h"

namespace frugal::testing {
namespace {

struct Case {
  std::string name;
  std::function<void(EngineOptions&)> change;
  uint32_t batch = 32;
};

class HostileTest : public ::testing::TestWithParam<bool> {  // with a predictor?
 protected:
  // tale, packed and, where a test needs that, trained once for all tests of this program.
  static void SetUpTestSuite() {
    directory_ = new TemporaryDirectory();
    packed_ = new std::string(PackModel(TaleDirectory(), *directory_));
    Random random(7);
    ids_ = new std::vector<int32_t>{2};
    while (ids_->size() < 24) ids_->push_back(static_cast<int32_t>(4 + random.Below(4000)));
  }
  static void TearDownTestSuite() {
    delete ids_;
    delete packed_;
    delete directory_;
  }

  void SetUp() override {
    if (!GetParam() || trained_) return;
    TrainPredictors(*packed_, 512);  // how well they choose does not matter here
    trained_ = true;
  }

  std::vector<float> Run(const Case& test_case) {
    EngineOptions options = TestOptions(*packed_);
    options.predictor = GetParam();
    options.context = 64;
    test_case.change(options);
    options.max_batch = test_case.batch;
    options.exact_batch = true;
    options.logit_rows = test_case.batch;
    const std::unique_ptr<Engine> engine = OpenOrFail(options);
    if (engine == nullptr) return {};
    EXPECT_EQ(engine->has_predictor(), GetParam());
    std::vector<float> logits = AllLogits(*engine, *ids_, test_case.batch);
    EXPECT_TRUE(EveryThreadWorks(*engine, test_case.batch)) << test_case.name;
    return logits;
  }

  // Tiles go to whoever is free: where other programs hold the cores, a thread may get its first one only after some steps.
  static bool EveryThreadWorks(Engine& engine, uint32_t batch) {
    constexpr auto kPatience = std::chrono::minutes(2);
    const auto start = std::chrono::steady_clock::now();
    while (true) {
      const std::vector<uint64_t> tiles_done = engine.statistics().tiles_done;
      if (std::ranges::none_of(tiles_done, [](uint64_t tiles) { return tiles == 0; })) return true;
      if (std::chrono::steady_clock::now() - start > kPatience) return false;
      AllLogits(engine, *ids_, batch);
    }
  }

  void ExpectSameBits(const std::vector<Case>& cases) {
    const std::vector<float> reference = Run({"reference", [](EngineOptions&) {}});
    ASSERT_EQ(reference.size(), ids_->size() * 4096);
    for (const Case& test_case : cases) {
      const std::vector<float> logits = Run(test_case);
      ASSERT_EQ(logits.size(), reference.size()) << test_case.name;
      EXPECT_EQ(std::memcmp(logits.data(), reference.data(), logits.size() * sizeof(float)), 0) << test_case.name;
    }
  }

  static Case Slots(uint32_t num_slots, uint32_t batch) {
    return {"slots " + std::to_string(num_slots) + ", batch " + std::to_string(batch),
            [num_slots](EngineOptions& options) { options.num_slots = num_slots; }, batch};
  }

  static TemporaryDirectory* directory_;
  static std::string* packed_;
  static std::vector<int32_t>* ids_;
  static bool trained_;
};

TemporaryDirectory* HostileTest::directory_ = nullptr;
std::string* HostileTest::packed_ = nullptr;
std::vector<int32_t>* HostileTest::ids_ = nullptr;
bool HostileTest::trained_ = false;

TEST_P(HostileTest, CacheOfAnySize) {
  ExpectSameBits({Slots(BundleCache::kMinSlots, 32), Slots(BundleCache::kMinSlots, 1), Slots(300, 1), Slots(1000, 1), Slots(2049, 7),
                  Slots(8 * 2048, 1)});
}

TEST_P(HostileTest, Threads) {
  std::vector<Case> cases;
  for (int threads : {1, 2, 3}) {
    for (uint32_t batch : {1u, 32u}) {
      cases.push_back({std::to_string(threads) + " threads", [threads](EngineOptions& options) { options.num_threads = threads; }, batch});
    }
  }
  ExpectSameBits(cases);
}

TEST_P(HostileTest, BatchesOfAnySize) {
  ExpectSameBits({{"one batch", [](EngineOptions&) {}, 24}, {"batches of 7", [](EngineOptions&) {}, 7},
                  {"token by token", [](EngineOptions&) {}, 1}});
}

TEST_P(HostileTest, BackendsAndBufferedReads) {
  ExpectSameBits({{"pread", [](EngineOptions& options) { options.io = IoBackend::kPread; options.num_slots = 500; }, 1},
                  {"io_uring", [](EngineOptions& options) { options.io = IoBackend::kUring; options.num_slots = 500; }, 1},
                  {"buffered", [](EngineOptions& options) { options.direct = DirectMode::kOff; options.num_slots = 500; }, 1}});
}

TEST_P(HostileTest, SwitchesOfTheTable) {
  ExpectSameBits({
      {"no overlap", [](EngineOptions& options) { options.overlap = false; options.num_slots = 900; }, 1},
      {"no early", [](EngineOptions& options) { options.early = false; options.num_slots = 900; }, 1},
      {"no bundling", [](EngineOptions& options) { options.bundling = false; options.num_slots = 900; }, 1},
      {"no window", [](EngineOptions& options) { options.window = false; options.num_slots = 900; }, 1},
      {"window 3", [](EngineOptions& options) { options.window_tokens = 3; options.num_slots = 9000; }, 1},
      {"gaps", [](EngineOptions& options) { options.max_gap_bytes = 4096; options.num_slots = 9000; }, 1},
      {"lru", [](EngineOptions& options) { options.policy = PolicyKind::kLru; options.num_slots = 900; }, 1},
      {"verify always", [](EngineOptions& options) { options.verify = VerifyMode::kAlways; options.num_slots = 900; }, 1},
      {"recall sampled", [](EngineOptions& options) { options.sample_recall_every = 1; options.num_slots = 900; }, 1},
  });
}

TEST_P(HostileTest, GuessesAreReadBeforeTheyAreAskedFor) {
  if (!GetParam()) return;
  EngineOptions options = TestOptions(*packed_);
  options.context = 64;
  options.num_slots = 12000;
  options.decorate_reader = [](std::unique_ptr<ExtentReader> inner) { return std::make_unique<AtOnceReader>(std::move(inner)); };
  const std::unique_ptr<Engine> engine = OpenOrFail(options);
  ASSERT_NE(engine, nullptr);
  ASSERT_TRUE(engine->plan().use_early);
  AllLogits(*engine, *ids_, 1);
  const CacheStatistics cache = engine->statistics().weights.cache;
  const uint64_t num_used = cache.num_prefetched - cache.num_prefetched_unused;
  EXPECT_GT(num_used, 0u);
  EXPECT_LT(cache.num_late_hits * 2, num_used);  // nearly all, if they were started when they are asked for
}

TEST_P(HostileTest, PopularNeuronsPinned) {
  if (!GetParam()) return;  // popularity comes from a predictor file
  ExpectSameBits({{"popular", [](EngineOptions& options) { options.popular_share = 0.5; options.num_slots = 2000; }, 1}});
}

TEST_P(HostileTest, DelayedReorderedShortAndInterruptedReads) {
  std::vector<Case> cases;
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    for (IoBackend backend : {IoBackend::kUring, IoBackend::kPread}) {
      for (RunMode mode : {RunMode::kFlash, RunMode::kNaive}) {
        if (mode == RunMode::kNaive && GetParam()) continue;  // naive knows no predictor
        cases.push_back({"faults, seed " + std::to_string(seed), [seed, backend, mode](EngineOptions& options) {
                           options.mode = mode;
                           options.io = backend;
                           if (mode == RunMode::kFlash) options.num_slots = 600;
                           options.decorate_reader = [seed](std::unique_ptr<ExtentReader> inner) {
                             FaultOptions faults;
                             faults.seed = seed;
                             faults.short_probability = 0.1;
                             faults.eintr_probability = 0.05;
                             faults.eagain_probability = 0.05;
                             faults.max_delay_reaps = 5;
                             return std::make_unique<FaultReader>(std::move(inner), faults);
                           };
                         }, 1});
      }
    }
  }
  ExpectSameBits(cases);
}

TEST_P(HostileTest, ModesThatComputeExactlyAgree) {
  if (GetParam()) return;  // exact modes only
  ExpectSameBits({{"resident", [](EngineOptions& options) { options.mode = RunMode::kResident; }},
                  {"naive", [](EngineOptions& options) { options.mode = RunMode::kNaive; }},
                  {"naive, token by token", [](EngineOptions& options) { options.mode = RunMode::kNaive; }, 1},
                  {"hybrid", [](EngineOptions& options) { options.mode = RunMode::kHybrid; }},
                  {"hybrid, no overlap", [](EngineOptions& options) { options.mode = RunMode::kHybrid; options.overlap = false; }, 7}});
}

// Quantised weights: every exact mode, cache size, batch and number of threads gives one result.
class QuantisedHostileTest : public ::testing::TestWithParam<DType> {};

TEST_P(QuantisedHostileTest, ModesThatComputeExactlyAgree) {
  TemporaryDirectory directory;
  const std::string packed = PackModel(TaleDirectory(), directory, "model.gguf", GetParam());
  std::vector<int32_t> ids = {2};
  Random random(11);
  while (ids.size() < 12) ids.push_back(static_cast<int32_t>(4 + random.Below(4000)));
  const auto run = [&](const Case& test_case) {
    EngineOptions options = TestOptions(packed);
    options.context = 64;
    test_case.change(options);
    options.max_batch = options.logit_rows = test_case.batch;
    options.exact_batch = true;
    const std::unique_ptr<Engine> engine = OpenOrFail(options);
    return engine == nullptr ? std::vector<float>() : AllLogits(*engine, ids, test_case.batch);
  };
  const std::vector<float> reference = run({"resident", [](EngineOptions& options) { options.mode = RunMode::kResident; }});
  ASSERT_EQ(reference.size(), ids.size() * 4096);
  const std::vector<Case> cases = {
      {"resident, token by token", [](EngineOptions& options) { options.mode = RunMode::kResident; }, 1},
      {"naive", [](EngineOptions& options) { options.mode = RunMode::kNaive; }, 5},
      {"hybrid", [](EngineOptions& options) { options.mode = RunMode::kHybrid; }, 7},
      {"flash", [](EngineOptions&) {}, 32},
      {"flash, few slots", [](EngineOptions& options) { options.num_slots = BundleCache::kMinSlots; }, 1},
      {"flash, small budget", [](EngineOptions& options) { options.ram_bytes = 20 << 20; }, 3},
      {"flash in halves, 3 threads", [](EngineOptions& options) {
         options.bundling = false;
         options.num_slots = 900;
         options.num_threads = 3;
       }, 2}};
  for (const Case& test_case : cases) {
    const std::vector<float> logits = run(test_case);
    ASSERT_EQ(logits.size(), reference.size()) << test_case.name;
    EXPECT_EQ(std::memcmp(logits.data(), reference.data(), logits.size() * sizeof(float)), 0) << test_case.name;
  }
}

// Attention and output in Q8_0 in memory: the resident mode's bits in flash mode too, and not those of the file's type.
TEST(ResidentTypeTest, FlashComputesWhatResidentComputes) {
  TemporaryDirectory directory;
  const std::string packed = PackModel(TaleDirectory(), directory);
  const std::vector<int32_t> ids = {2, 100, 200, 300, 400, 500};
  const auto run = [&](RunMode mode, std::optional<DType> type, uint32_t batch) {
    EngineOptions options = TestOptions(packed);
    options.context = 64;
    options.mode = mode;
    options.resident_type = type;
    options.max_batch = options.logit_rows = batch;
    const std::unique_ptr<Engine> engine = OpenOrFail(options);
    return engine == nullptr ? std::vector<float>() : AllLogits(*engine, ids, batch);
  };
  const std::vector<float> exact = run(RunMode::kResident, std::nullopt, 6);
  const std::vector<float> resident = run(RunMode::kResident, DType::kQ8_0, 6);
  const std::vector<float> flash = run(RunMode::kFlash, DType::kQ8_0, 1);
  ASSERT_EQ(resident.size(), ids.size() * 4096);
  EXPECT_TRUE(resident == flash);
  EXPECT_FALSE(resident == exact);
  double error = 0, square = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    error += std::pow(static_cast<double>(resident[i] - exact[i]), 2);
    square += std::pow(static_cast<double>(exact[i]), 2);
  }
  EXPECT_LT(std::sqrt(error / square), 2e-2);
}

TEST(ResidentTypeTest, ThePlanCountsTheSmallerSizeAndStreamingModesRefuse) {
  TemporaryDirectory directory;
  EngineOptions options = TestOptions(PackModel(TaleDirectory(), directory));
  options.mode = RunMode::kResident;
  const uint64_t as_stored = OpenOrFail(options)->plan().ledger.line_bytes("resident weights");
  options.resident_type = DType::kQ8_0;
  const uint64_t smaller = OpenOrFail(options)->plan().ledger.line_bytes("resident weights");
  // 8 layers x 4 matrices of 256 x 256 and 4096 x 256 of tied embeddings, in 2 bytes and in 34 / 32.
  EXPECT_EQ(as_stored - smaller, (8 * 4 * 256 * 256 + 4096 * 256) / 32 * (64 - 34));
  options.mode = RunMode::kHybrid;
  const auto refused = Engine::Open(options);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, ErrorCode::kUsage);
}

INSTANTIATE_TEST_SUITE_P(Types, QuantisedHostileTest, ::testing::Values(DType::kQ8_0, DType::kQ4_0),
                         [](const auto& param) { return std::string(DTypeName(param.param)); });

std::string SelectorName(const ::testing::TestParamInfo<bool>& param) { return param.param ? "Predictor" : "AllNeurons"; }
INSTANTIATE_TEST_SUITE_P(Selectors, HostileTest, ::testing::Bool(), SelectorName);

}  // namespace
}  // namespace frugal::testing
