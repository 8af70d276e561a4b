#include "src/io/recording_reader.h"

#include <gtest/gtest.h>


namespace frugal {
namespace {

ReadRequest Request(uint64_t offset_bytes, std::span<const iovec> destinations) { return {-1, offset_bytes, destinations, 0}; }

TEST(ReadRecordingTest, KeepsExtentsByGroupFromStartOn) {
  std::byte bytes[64];
  const iovec parts[2] = {{bytes, 16}, {bytes + 16, 32}};
  ReadRecording recording(8);
  recording.Add(Request(1, parts));
  recording.Start();
  recording.Add(Request(512, parts));
  recording.EndGroup();
  recording.Add(Request(1024, {parts, 1}));
  recording.EndGroup();
  ASSERT_EQ(recording.records().size(), 2u);
  EXPECT_EQ(recording.num_groups(), 2u);
  EXPECT_EQ(recording.records()[0].offset_bytes, 512u);
  EXPECT_EQ(recording.records()[0].size_bytes, 48u);
  EXPECT_EQ(recording.records()[1].group, 1u);
}

TEST(ReadRecordingTest, AGroupThatDoesNotFitIsLeftOut) {
  std::byte bytes[16];
  const iovec part{bytes, 16};
  ReadRecording recording(3);
  recording.Start();
  for (int group = 0; group < 3; ++group) {
    recording.Add(Request(0, {&part, 1}));
    recording.Add(Request(16, {&part, 1}));
    recording.EndGroup();
  }
  EXPECT_EQ(recording.num_groups(), 1u);
  EXPECT_EQ(recording.records().size(), 2u);
}

}  // namespace
}  // namespace frugal
