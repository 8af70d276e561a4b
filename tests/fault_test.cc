// Fails the N-th read, for every N: a persistent fault ends with exit code 5 and names file, tensor and offset; a transient one
// changes no bit. No hang, no leak (this runs under ASan too).
#include <gtest/gtest.h>

#include <cctype>
#include <cstring>
#include <random>

#include "src/base/random.h"
#include "src/io/fault_reader.h"
#include "tests/support.h"

namespace frugal::testing {
namespace {

struct Outcome {
  std::optional<Error> error;
  std::vector<float> logits;  // of the last step
  uint64_t num_reads = 0;
  uint64_t num_faults = 0;
};

struct Setting {
  RunMode mode;
  IoBackend io;
  bool bundling = true;
  const char* name = "";
  uint64_t step = 1;  // every step-th read
};
void PrintTo(const Setting& setting, std::ostream* out) { *out << setting.name; }

class FaultTest : public ::testing::TestWithParam<Setting> {
 protected:
  Outcome Run(const std::string& packed, const Setting& setting, const FaultOptions& faults, std::span<const int32_t> ids) {
    EngineOptions options = TestOptions(packed);
    options.mode = setting.mode;
    options.io = setting.io;
    options.bundling = setting.bundling;
    options.context = 32;
    options.max_batch = 4;
    options.num_threads = 1;          // reads are the engine thread's business alone
    options.direct = DirectMode::kOff;  // failures come from above the file; so the time is not the disk's
    if (setting.mode == RunMode::kFlash) options.num_slots = 64;
    // Reads into places that the plan leaves on flash: the smallest budget.
    FaultReader* reader = nullptr;
    options.decorate_reader = [&](std::unique_ptr<ExtentReader> inner) {
      auto made = std::make_unique<FaultReader>(std::move(inner), faults);
      reader = made.get();
      return made;
    };
    Outcome outcome;
    Result<std::unique_ptr<Engine>> engine = Engine::Open(options);
    if (!engine) {
      outcome.error = engine.error();
      return outcome;
    }
    auto session = (*engine)->NewSession().value();
    for (size_t i = 0; i < ids.size() && !outcome.error; ++i) {
      const Status status = (*engine)->Step(*session, ids.subspan(i, 1), 1);
      if (!status) outcome.error = status.error();
    }
    if (!outcome.error) outcome.logits.assign((*engine)->logits(0).begin(), (*engine)->logits(0).end());
    // What failed may have been read ahead of the last step: the next one needs it, and a mended fault leaves nothing behind.
    if (!outcome.error && reader->num_faults() > 0) {
      const Status status = (*engine)->Step(*session, ids.last(1), 1);
      if (!status) outcome.error = status.error();
    }
    outcome.num_reads = reader->num_reads_seen();
    outcome.num_faults = reader->num_faults();
    return outcome;
  }

  // Another order of reads may have had no read `n`.
  void ExpectClearError(const Outcome& outcome, const std::string& packed, uint64_t n) {
    if (outcome.num_faults == 0 && !outcome.error) return;
    ASSERT_TRUE(outcome.error.has_value()) << "read " << n;
    EXPECT_EQ(outcome.error->code, ErrorCode::kIo) << outcome.error->message;
    EXPECT_NE(outcome.error->message.find(packed), std::string::npos) << outcome.error->message;
    EXPECT_NE(outcome.error->message.find("offset"), std::string::npos) << outcome.error->message;
    const bool names_tensor = outcome.error->message.find(".weight") != std::string::npos ||
                              outcome.error->message.find(".bias") != std::string::npos ||
                              outcome.error->message.find("hash") != std::string::npos ||
                              outcome.error->message.find("header (no tensor)") != std::string::npos ||
                              outcome.error->message.find("xxh3") != std::string::npos;
    EXPECT_TRUE(names_tensor) << outcome.error->message;
  }

  void FailEveryRead(const std::string& model) {
    const std::vector<int32_t> ids = {2, 17};
    const Setting& setting = GetParam();
    SCOPED_TRACE(setting.name);
    const Outcome clean = Run(model, setting, {}, ids);
    ASSERT_FALSE(clean.error.has_value()) << clean.error->message;
    uint64_t num_tried = 0, num_met = 0;
    for (uint64_t n = 0; n < clean.num_reads; n += setting.step) {
      FaultOptions persistent;
      persistent.fail_read = n;
      const Outcome broken = Run(model, setting, persistent, ids);
      ExpectClearError(broken, model, n);
      ++num_tried;
      if (broken.error) ++num_met;
      FaultOptions transient = persistent;
      transient.fail_times = 1 + n % 3;
      const Outcome mended = Run(model, setting, transient, ids);
      ASSERT_FALSE(mended.error.has_value()) << mended.error->message;
      ASSERT_EQ(std::memcmp(mended.logits.data(), clean.logits.data(), clean.logits.size() * sizeof(float)), 0) << "read " << n;
    }
    EXPECT_GE(num_met * 10, num_tried * 9);
  }
};

std::string DataModel(const std::string& name) { return std::string(FRUGAL_SOURCE_DIR) + "/tests/data/models/" + name; }

const std::vector<Setting>& Settings() {
  static const std::vector<Setting> settings = {
      {RunMode::kResident, IoBackend::kUring, true, "resident, io_uring"}, {RunMode::kResident, IoBackend::kPread, true, "resident, pread"},
      {RunMode::kNaive, IoBackend::kUring, true, "naive, io_uring"},       {RunMode::kNaive, IoBackend::kPread, true, "naive, pread"},
      {RunMode::kHybrid, IoBackend::kUring, true, "hybrid, io_uring"},     {RunMode::kHybrid, IoBackend::kPread, true, "hybrid, pread"},
      {RunMode::kFlash, IoBackend::kUring, true, "flash, io_uring"},       {RunMode::kFlash, IoBackend::kPread, true, "flash, pread"},
      {RunMode::kFlash, IoBackend::kUring, false, "flash in halves", 13},
  };
  return settings;
}

TEST_P(FaultTest, EveryReadOfTheSmallModelMayFail) {
  TemporaryDirectory directory;
  FailEveryRead(PackModel(DataModel("opt"), directory));
}

// Query, key and value in one tensor, nothing aligned.
TEST_P(FaultTest, EveryReadOfAnOrdinaryGgufMayFail) { FailEveryRead(DataModel("falcon-7b-relu/falcon-7b-relu-f16.gguf")); }

TEST_P(FaultTest, EveryReadOfAModelWithGatesMayFail) {
  TemporaryDirectory directory;
  FailEveryRead(PackModel(DataModel("llama-relu"), directory));
}

std::string SettingName(const ::testing::TestParamInfo<Setting>& param) {
  std::string name = param.param.name;
  std::erase_if(name, [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); });
  return name;
}
INSTANTIATE_TEST_SUITE_P(Settings, FaultTest, ::testing::ValuesIn(Settings()), SettingName);

class TaleFaultTest : public FaultTest {};

TEST_P(TaleFaultTest, AHundredReadsMayFail) {
  TemporaryDirectory directory;
  const std::string packed = PackModel(TaleDirectory(), directory);
  const std::vector<int32_t> ids = {2, 400, 1200};
  const uint64_t seed = std::random_device{}();
  std::cout << "seed " << seed << "\n";
  Random random(seed);
  const Outcome clean = Run(packed, GetParam(), {}, ids);
  ASSERT_FALSE(clean.error.has_value()) << clean.error->message;
  for (int i = 0; i < 100; ++i) {
    const uint64_t n = random.Below(clean.num_reads);
    FaultOptions faults;
    faults.fail_read = n;
    const Outcome broken = Run(packed, GetParam(), faults, ids);
    ExpectClearError(broken, packed, n);
    faults.fail_times = 2;
    const Outcome mended = Run(packed, GetParam(), faults, ids);
    ASSERT_FALSE(mended.error.has_value()) << mended.error->message;
    ASSERT_EQ(std::memcmp(mended.logits.data(), clean.logits.data(), clean.logits.size() * sizeof(float)), 0) << "read " << n;
  }
}
INSTANTIATE_TEST_SUITE_P(Flash, TaleFaultTest,
                         ::testing::Values(Setting{RunMode::kFlash, IoBackend::kUring, true, "io_uring"},
                                           Setting{RunMode::kFlash, IoBackend::kPread, true, "pread"}),
                         SettingName);

}  // namespace
}  // namespace frugal::testing
