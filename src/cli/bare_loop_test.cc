#include "src/cli/bare_loop.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

namespace frugal {
namespace {

TEST(BareLoopTest, RepeatsWhatWasReadTokenByToken) {
  char path[] = "bare_loop_XXXXXX";
  close(mkstemp(path));
  std::ofstream(path) << std::string(65536, 'x');
  std::byte bytes[4096];
  const iovec part{bytes, 4096};
  ReadRecording recording(16);
  recording.Start();
  for (uint64_t token = 0; token < 3; ++token) {
    for (uint64_t i = 0; i <= token; ++i) recording.Add({-1, i * 8192, {&part, 1}, 0});
    recording.EndGroup();
  }
  EngineOptions options;
  options.model_path = path;
  options.ram_bytes = 64 << 20;
  BareLoopInput input;
  input.options = &options;
  input.recording = &recording;
  input.touched_bytes = 1 << 20;
  BareLoopTimes times;
  const Status status = RunBareLoop(input, &times);
  ASSERT_TRUE(status) << status.error().message;
  EXPECT_EQ(times.together_ms.size(), 3u);
  EXPECT_EQ(times.num_reads, 6u);
  EXPECT_EQ(times.read_bytes, 6u * 4096);
  EXPECT_GT(times.memory_bytes_per_second(), 0.0);
  unlink(path);
}

}  // namespace
}  // namespace frugal
