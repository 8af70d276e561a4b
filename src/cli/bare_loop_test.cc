#include "src/cli/bare_loop.h"

#include <gtest/gtest.h>

#include "src/base/temp_dir_for_test.h"

namespace frugal {
namespace {

class BareLoopTest : public ::testing::Test {
 protected:
  BareLoopTest() {
    options_.model_path = directory_.Write("model", std::string(65536, 'x'));
    options_.ram_bytes = 64 << 20;
    recording_.Start();
  }
  Status Repeat(BareLoopTimes* times) {
    BareLoopOptions options;
    options.engine_options = &options_;
    options.own_memory_bytes = 1 << 20;
    auto loop = BareLoop::Open(options);
    if (!loop) return loop.error();
    return (*loop)->Repeat(recording_, 3 << 20, times);
  }
  void Record(uint64_t offset_bytes) {
    std::byte bytes[4096];
    const iovec part{bytes, sizeof(bytes)};
    recording_.Add({-1, offset_bytes, {&part, 1}, 0});
  }

  const TempDir directory_;
  EngineOptions options_;
  ReadRecording recording_{16};
};

TEST(LeftOfBudgetTest, WhatMeasuringUsesUpIsNotNone) {
  EXPECT_EQ(LeftOfBudget(0, 5), 0u);
  EXPECT_EQ(LeftOfBudget(7, 5), 2u);
  EXPECT_EQ(LeftOfBudget(5, 5), 1u);
  EXPECT_EQ(LeftOfBudget(3, 5), 1u);
}

TEST_F(BareLoopTest, RepeatsWhatWasReadTokenByToken) {
  for (uint64_t token = 0; token < 3; ++token) {
    for (uint64_t i = 0; i <= token; ++i) Record(i * 8192);
    recording_.EndGroup();
  }
  BareLoopTimes times;
  const Status status = Repeat(&times);
  ASSERT_TRUE(status) << status.error().message;
  EXPECT_EQ(times.together_ms.size(), 3u);
  EXPECT_EQ(times.num_reads, 6u);
  EXPECT_EQ(times.read_bytes, 6u * 4096);
  EXPECT_GT(times.memory_bytes_per_second(), 0.0);
}

// Larger than all of the loop's memory for what is read.
TEST_F(BareLoopTest, AReadGoesOverTheScratchSeveralTimes) {
  options_.model_path = directory_.Write("model", std::string(1 << 20, 'x'));
  std::vector<std::byte> bytes(1 << 20);
  const iovec part{bytes.data(), bytes.size()};
  recording_.Add({-1, 0, {&part, 1}, 0});
  recording_.EndGroup();
  options_.ram_bytes = 4 << 20;
  BareLoopTimes times;
  const Status status = Repeat(&times);
  ASSERT_TRUE(status) << status.error().message;
  EXPECT_EQ(times.read_bytes, bytes.size());
  // All of it is read: half of a file is not enough.
  options_.model_path = directory_.Write("half", std::string(1 << 19, 'x'));
  EXPECT_FALSE(Repeat(&times));
}

TEST_F(BareLoopTest, AReadThatGetsNothingIsAnErrorNotAFastRead) {
  Record(1 << 20);
  recording_.EndGroup();
  BareLoopTimes times;
  const Status status = Repeat(&times);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kIo);
  EXPECT_NE(status.error().message.find("bare loop"), std::string::npos) << status.error().message;
}

}  // namespace
}  // namespace frugal
