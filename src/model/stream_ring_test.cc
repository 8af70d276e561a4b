#include "src/model/stream_ring.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "src/base/temp_dir_for_test.h"
#include "src/io/fault_reader.h"

namespace frugal {
namespace {

constexpr uint64_t kGroupBytes = 4096, kTag = uint64_t{1} << 61;
constexpr uint32_t kGroups = 24, kBuffers = 3;

// Groups of a file, each of which has bytes of its own.
class StreamRingTest : public testing::Test {
 protected:
  void SetUp() override {
    const std::string path = directory_.File("groups");
    std::ofstream file(path, std::ios::binary);
    for (uint32_t i = 0; i < kGroups; ++i) {
      file << std::string(kGroupBytes, static_cast<char>(i + 1));
      groups_.push_back({0, {i * kGroupBytes, kGroupBytes}, i, 1});
    }
    file.close();
    files_.push_back(File::Open(path, DirectMode::kTry, 512).value());
    reader_.emplace(OpenReader({}).value().reader, 64);
    ring_.emplace(StreamRing::Create(files_, *reader_, kGroupBytes, kBuffers, kTag).value());
  }

  // Waits for a completion, or for all.
  void Reap() {
    std::array<WholeCompletion, 8> completions;
    const size_t count = reader_->Reap(completions, WaitMode::kBlock);
    for (size_t i = 0; i < count; ++i) ring_->OnCompletion(completions[i]);
  }
  void Settle() {
    while (reader_->num_pending() > 0) {
      Reap();
      ring_->Advance();
    }
  }
  uint32_t NumReady() const {
    uint32_t count = 0;
    for (uint32_t i = 0; i < kGroups; ++i) count += ring_->ready(i) ? 1 : 0;
    return count;
  }
  void UseAll() {
    for (uint32_t i = 0; i < kGroups; ++i) {
      while (!ring_->ready(i)) {
        ring_->Advance();
        ASSERT_GT(reader_->num_pending(), 0u);
        Reap();
      }
      const std::byte* const data = ring_->data(i);
      const std::byte expected{static_cast<unsigned char>(i + 1)};
      EXPECT_TRUE(std::all_of(data, data + kGroupBytes, [&](std::byte b) { return b == expected; })) << i;
      ring_->Release(i);
    }
  }

  TempDir directory_;
  std::vector<StreamGroup> groups_;
  std::vector<File> files_;
  std::optional<WholeReader> reader_;
  std::optional<StreamRing> ring_;
};

TEST_F(StreamRingTest, ReadsAheadAsFarAsItHasBuffers) {
  ring_->Start(groups_, StreamRing::Order::kOnce, true);
  EXPECT_EQ(reader_->num_pending(), kBuffers);
  Settle();
  EXPECT_EQ(NumReady(), kBuffers);
  UseAll();
}

TEST_F(StreamRingTest, BorrowedBuffersReadFurtherAheadButNoMoreAtOnce) {
  constexpr uint32_t kBorrowed = 7;
  AlignedBuffer memory = AlignedBuffer::Allocate(kBorrowed * kGroupBytes + 100).value();
  const std::span<std::byte> borrowed(memory.data(), kBorrowed * kGroupBytes + 100);
  for (uint32_t list = 0; list < 2; ++list) {
    ring_->Extend(borrowed);
    ring_->Start(groups_, StreamRing::Order::kOnce, true);
    EXPECT_EQ(reader_->num_pending(), kBuffers);
    while (reader_->num_pending() > 0) {
      Reap();
      ring_->Advance();
      EXPECT_LE(reader_->num_pending(), kBuffers);
    }
    EXPECT_EQ(NumReady(), kBuffers + kBorrowed);
    UseAll();
    ring_->Shrink();
  }
  std::fill(borrowed.begin(), borrowed.end(), std::byte{0});
  ring_->Start(groups_, StreamRing::Order::kOnce, true);
  Settle();
  EXPECT_EQ(NumReady(), kBuffers);
  UseAll();
  EXPECT_TRUE(std::all_of(borrowed.begin(), borrowed.end(), [](std::byte b) { return b == std::byte{0}; }));
}

}  // namespace
}  // namespace frugal
