#include "src/io/whole_reader.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "src/base/random.h"
#include "src/io/fault_reader.h"
#include "src/io/io_test_util.h"

namespace frugal {
namespace {

constexpr uint64_t kFileBytes = 1 << 20;

// A device that answers when the test says so.
class StuckReader final : public ExtentReader {
 public:
  explicit StuckReader(bool* open) : open_(open) {}
  size_t Submit(std::span<const ReadRequest> requests) override {
    size_t taken = 0;
    while (taken < requests.size() && tags_.size() < queue_depth()) {
      tags_.push_back({requests[taken].tag, static_cast<int64_t>(requests[taken].destinations[0].iov_len)});
      ++taken;
    }
    return taken;
  }
  size_t Reap(std::span<ReadCompletion> completions, WaitMode mode) override {
    if (mode == WaitMode::kBlock) *open_ = true;  // only a destructor may wait for it without end
    size_t count = 0;
    while (*open_ && count < completions.size() && !tags_.empty()) {
      completions[count++] = tags_.back();
      tags_.pop_back();
    }
    return count;
  }
  size_t ReapFor(std::span<ReadCompletion> completions, uint64_t) override {
    return Reap(completions, WaitMode::kPoll);
  }
  size_t num_in_flight() const override { return tags_.size(); }
  size_t queue_depth() const override { return 2; }
  std::string_view name() const override { return "stuck"; }

 private:
  bool* open_;
  std::vector<ReadCompletion> tags_;
};

// A file, a fault reader with these options under a WholeReader, and the means to read through it.
struct Fixture {
  explicit Fixture(const FaultOptions& faults, DirectMode mode = DirectMode::kTry,
                   IoBackend backend = IoBackend::kUring)
      : pattern(kFileBytes), file(OpenFile(pattern.path(), mode)) {
    auto made = std::make_unique<FaultReader>(NewReader(backend, 16), faults);
    fault = made.get();
    whole = std::make_unique<WholeReader>(std::move(made), 24);
  }

  PatternFile pattern;
  File file;
  FaultReader* fault = nullptr;  // owned by `whole`
  std::unique_ptr<WholeReader> whole;
};

// Reads `num_reads` of 16 KiB (4 segments) at different offsets; returns the failures.
std::vector<WholeCompletion> ReadMany(Fixture& fixture, size_t num_reads) {
  constexpr uint64_t kReadBytes = 16384;
  AlignedBuffer memory = NewBuffer(num_reads * kReadBytes);
  std::vector<WholeCompletion> failures;
  std::vector<bool> ok(num_reads, false);
  size_t submitted = 0;
  for (size_t done = 0; done < num_reads;) {
    for (; submitted < num_reads; ++submitted) {
      std::byte* base = memory.data() + submitted * kReadBytes;
      const iovec segments[] = {{base, 512}, {base + 512, 3584}, {base + 4096, 4096}, {base + 8192, 8192}};
      if (!fixture.whole->TrySubmit({&fixture.file, submitted * kReadBytes, segments, submitted})) break;
    }
    WholeCompletion completions[5];
    const size_t count = fixture.whole->Reap(completions, WaitMode::kBlock);
    EXPECT_GT(count, 0u);
    if (count == 0) return failures;
    for (size_t i = 0; i < count; ++i) {
      if (completions[i].failed) {
        failures.push_back(completions[i]);
      } else {
        ok[completions[i].tag] = true;
      }
    }
    done += count;
  }
  for (size_t i = 0; i < num_reads; ++i) {
    if (ok[i]) {
      EXPECT_TRUE(IsPattern(kTestSeed, i * kReadBytes, memory.bytes().subspan(i * kReadBytes, kReadBytes)))
          << i;
    }
  }
  EXPECT_EQ(fixture.whole->num_pending(), 0u);
  return failures;
}

class WholeReaderTest : public testing::TestWithParam<std::pair<IoBackend, DirectMode>> {
 protected:
  Fixture Make(const FaultOptions& faults) { return Fixture(faults, GetParam().second, GetParam().first); }
};

INSTANTIATE_TEST_SUITE_P(Backends, WholeReaderTest,
                         testing::Values(std::pair(IoBackend::kUring, DirectMode::kTry),
                                         std::pair(IoBackend::kUring, DirectMode::kOff),
                                         std::pair(IoBackend::kPread, DirectMode::kTry),
                                         std::pair(IoBackend::kPread, DirectMode::kOff)),
                         [](const auto& param_info) {
                           return std::string(BackendName(param_info.param.first)) +
                                  (param_info.param.second == DirectMode::kTry ? "_direct" : "_buffered");
                         });

TEST_P(WholeReaderTest, WithoutFaultsEveryReadIsOneRead) {
  Fixture fixture = Make({});
  EXPECT_TRUE(ReadMany(fixture, 60).empty());
  const ReadStatistics& statistics = fixture.whole->statistics();
  EXPECT_EQ(statistics.num_reads, 60u);
  EXPECT_EQ(statistics.bytes_read, 60u * 16384);
  EXPECT_EQ(statistics.num_retries, 0u);
  EXPECT_EQ(statistics.num_short, 0u);
  EXPECT_GT(statistics.busy_ns, 0u);
}

TEST_P(WholeReaderTest, APollStartsNoMoreReadsThanItMay) {
  Fixture fixture = Make({});
  AlignedBuffer memory = NewBuffer(8 * 4096);
  for (uint64_t i = 0; i < 8; ++i) {
    const iovec segment{memory.data() + i * 4096, 4096};
    ASSERT_TRUE(fixture.whole->TrySubmit({&fixture.file, i * 4096, {&segment, 1}, i}));
  }
  WholeCompletion completions[8];
  size_t done = fixture.whole->Reap(completions, WaitMode::kPoll, 0);
  EXPECT_EQ(fixture.whole->statistics().num_reads, 0u);
  done += fixture.whole->Reap(completions, WaitMode::kPoll, 3);
  EXPECT_EQ(fixture.whole->statistics().num_reads, 3u);
  while (done < 8) done += fixture.whole->Reap(completions, WaitMode::kBlock);
  EXPECT_EQ(fixture.whole->statistics().num_reads, 8u);
}

TEST_P(WholeReaderTest, D2ShortReadsAreContinued) {
  for (const size_t multiple : {512u, 1u, 8192u}) {
    SCOPED_TRACE(multiple);
    FaultOptions faults;
    faults.short_probability = 0.6;
    faults.short_multiple_bytes = multiple;
    Fixture fixture = Make(faults);
    EXPECT_TRUE(ReadMany(fixture, 60).empty());
    EXPECT_GT(fixture.whole->statistics().num_short, 10u);
    EXPECT_EQ(fixture.whole->statistics().num_retries, 0u);
  }
}

TEST_P(WholeReaderTest, D3InterruptedReadsAreResubmitted) {
  for (double FaultOptions::*kind : {&FaultOptions::eintr_probability, &FaultOptions::eagain_probability}) {
    FaultOptions faults;
    faults.*kind = 0.7;
    Fixture fixture = Make(faults);
    EXPECT_TRUE(ReadMany(fixture, 60).empty());
    EXPECT_GT(fixture.whole->statistics().num_reads, 100u);
    EXPECT_EQ(fixture.whole->statistics().num_retries, 0u);
  }
}

TEST_P(WholeReaderTest, D1ATransientErrorIsRetriedAndChangesNothing) {
  for (uint64_t times = 1; times <= WholeReader::kMaxRetries; ++times) {
    SCOPED_TRACE(times);
    FaultOptions faults;
    faults.fail_read = 7;
    faults.fail_times = times;
    Fixture fixture = Make(faults);
    EXPECT_TRUE(ReadMany(fixture, 40).empty());
    EXPECT_EQ(fixture.whole->statistics().num_retries, times);
  }
}

TEST_P(WholeReaderTest, D1APersistentErrorFailsThatReadOnly) {
  FaultOptions faults;
  faults.fail_read = 7;
  Fixture fixture = Make(faults);
  const std::vector<WholeCompletion> failures = ReadMany(fixture, 40);
  ASSERT_EQ(failures.size(), 1u);
  EXPECT_EQ(failures[0].tag, 7u);
  EXPECT_EQ(failures[0].failure.error_number, EIO);
  EXPECT_EQ(failures[0].failure.offset_bytes, 7u * 16384);
  EXPECT_EQ(failures[0].failure.got_bytes, 0u);
  EXPECT_EQ(failures[0].failure.want_bytes, 16384u);
  EXPECT_TRUE(failures[0].destinations_released);
  EXPECT_EQ(fixture.whole->statistics().num_retries, static_cast<uint64_t>(WholeReader::kMaxRetries));
  EXPECT_EQ(DescribeFailure(failures[0].failure),
            "at offset 114688: Input/output error, 0 of 16384 bytes read");
}

TEST_P(WholeReaderTest, EveryNthReadMayFail) {
  for (uint64_t n = 0; n < 20; ++n) {
    SCOPED_TRACE(n);
    FaultOptions faults;
    faults.fail_read = n;
    faults.fail_times = 1;
    Fixture fixture = Make(faults);
    EXPECT_TRUE(ReadMany(fixture, 20).empty());
    EXPECT_EQ(fixture.whole->statistics().num_retries, 1u);
  }
}

TEST_P(WholeReaderTest, AFalseEndOfFileIsRetried) {
  FaultOptions faults;
  faults.eof_probability = 0.1;
  faults.seed = 3;
  Fixture fixture = Make(faults);
  for (const WholeCompletion& failure : ReadMany(fixture, 60)) {
    EXPECT_EQ(failure.failure.error_number, 0);  // four false ends in a row
  }
  EXPECT_GT(fixture.whole->statistics().num_retries, 0u);
}

TEST_P(WholeReaderTest, AllFaultsAtOnceStillGiveTheBytes) {
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    SCOPED_TRACE(seed);
    FaultOptions faults;
    faults.seed = seed;
    faults.short_probability = 0.3;
    faults.short_multiple_bytes = seed % 2 == 0 ? 512 : 1;
    faults.eintr_probability = 0.1;
    faults.eagain_probability = 0.1;
    faults.max_delay_reaps = 4;
    Fixture fixture = Make(faults);
    EXPECT_TRUE(ReadMany(fixture, 60).empty());
  }
}

TEST_P(WholeReaderTest, D6ATruncatedFileIsAClearFailure) {
  for (const uint64_t left_bytes : {0u, 4096u, 4608u, 5000u}) {
    SCOPED_TRACE(left_bytes);
    Fixture fixture = Make({});
    ASSERT_EQ(truncate(fixture.pattern.path().c_str(), static_cast<off_t>(left_bytes)), 0);
    AlignedBuffer memory = NewBuffer(8192);
    const iovec segment = {memory.data(), 8192};
    ASSERT_TRUE(fixture.whole->TrySubmit({&fixture.file, 0, {&segment, 1}, 1}));
    WholeCompletion completion;
    ASSERT_EQ(fixture.whole->Reap({&completion, 1}, WaitMode::kBlock), 1u);
    ASSERT_TRUE(completion.failed);
    EXPECT_EQ(completion.failure.error_number, 0);
    EXPECT_EQ(completion.failure.offset_bytes, left_bytes);
    EXPECT_EQ(completion.failure.got_bytes, left_bytes);
    EXPECT_EQ(completion.failure.want_bytes, 8192u);
    EXPECT_EQ(fixture.whole->statistics().num_retries, 0u);
    const Status status = fixture.whole->ReadNow(fixture.file, 0, memory.bytes(), "x.gguf: blk.0.w");
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code, ErrorCode::kIo);
    EXPECT_NE(status.error().message.find("file changed"), std::string::npos) << status.error().message;
    EXPECT_NE(status.error().message.find("x.gguf: blk.0.w"), std::string::npos) << status.error().message;
  }
}

TEST_P(WholeReaderTest, ReadNowReadsAnythingAnywhere) {
  FaultOptions faults;
  faults.short_probability = 0.2;
  Fixture fixture = Make(faults);
  AlignedBuffer memory = NewBuffer(kFileBytes + 4096);
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    uint64_t offset = random.Below(kFileBytes);
    uint64_t shift = random.Below(4096);
    if (seed % 3 == 0) shift = offset % 4096;               // alike: only head and tail bounce
    if (seed % 5 == 0) offset -= offset % 4096, shift = 0;  // aligned
    const uint64_t most = seed % 2 == 0 ? 20'000 : kFileBytes;
    const uint64_t size = std::min(most, random.Below(kFileBytes - offset) + 1);
    std::fill(memory.bytes().begin(), memory.bytes().end(), std::byte{0});
    const std::span<std::byte> destination = memory.bytes().subspan(shift, size);
    const Status status = fixture.whole->ReadNow(fixture.file, offset, destination, "test");
    ASSERT_TRUE(status) << status.error().message;
    ASSERT_TRUE(IsPattern(kTestSeed, offset, destination));
    const auto is_zero = [](std::byte b) { return b == std::byte{0}; };
    const std::span<std::byte> before = memory.bytes().first(shift);
    const std::span<std::byte> behind = memory.bytes().subspan(shift + size);
    ASSERT_TRUE(std::all_of(before.begin(), before.end(), is_zero));
    ASSERT_TRUE(std::all_of(behind.begin(), behind.end(), is_zero));
  }
}

TEST_P(WholeReaderTest, ReadNowLeavesOtherReadsAlone) {
  FaultOptions faults;
  faults.max_delay_reaps = 3;
  Fixture fixture = Make(faults);
  AlignedBuffer memory = NewBuffer(24 * 4096);
  for (uint64_t i = 0; i < 24; ++i) {  // all that may be pending
    const iovec segment = {memory.data() + i * 4096, 4096};
    ASSERT_TRUE(fixture.whole->TrySubmit({&fixture.file, i * 4096, {&segment, 1}, i}));
  }
  const iovec segment = {memory.data(), 4096};
  EXPECT_FALSE(fixture.whole->TrySubmit({&fixture.file, 0, {&segment, 1}, 99}));
  std::vector<std::byte> now(100'000);
  ASSERT_TRUE(fixture.whole->ReadNow(fixture.file, 777, now, "test"));
  EXPECT_TRUE(IsPattern(kTestSeed, 777, now));
  EXPECT_EQ(fixture.whole->num_pending(), 24u);
  uint64_t tags = 0;
  WholeCompletion completions[8];
  while (fixture.whole->num_pending() > 0) {
    const size_t count = fixture.whole->Reap(completions, WaitMode::kBlock);
    for (size_t i = 0; i < count; ++i) {
      EXPECT_FALSE(completions[i].failed);
      tags |= uint64_t{1} << completions[i].tag;
    }
  }
  EXPECT_EQ(tags, (uint64_t{1} << 24) - 1);
  EXPECT_TRUE(IsPattern(kTestSeed, 0, memory.bytes()));
}

TEST_P(WholeReaderTest, ReadNowNamesWhatItCouldNotRead) {
  FaultOptions faults;
  faults.fail_read = 0;
  Fixture fixture = Make(faults);
  std::vector<std::byte> bytes(10'000);
  const Status failed = fixture.whole->ReadNow(fixture.file, 4096, bytes, "opt.gguf: blk.7.norm");
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, ErrorCode::kIo);
  EXPECT_EQ(failed.error().message,
            "opt.gguf: blk.7.norm: at offset 4096: Input/output error, 0 of 10000 bytes read");
  const Status beyond = fixture.whole->ReadNow(fixture.file, kFileBytes - 10, bytes, "opt.gguf: blk.7.norm");
  ASSERT_FALSE(beyond);
  EXPECT_NE(beyond.error().message.find("beyond the end"), std::string::npos) << beyond.error().message;
  EXPECT_FALSE(fixture.whole->ReadNow(fixture.file, UINT64_MAX, bytes, "x"));
  EXPECT_TRUE(fixture.whole->ReadNow(fixture.file, 0, {}, "x"));
}

TEST_P(WholeReaderTest, TheDestructorWaitsForEverythingInFlight) {
  FaultOptions faults;
  faults.max_delay_reaps = 3;
  AlignedBuffer memory = NewBuffer(16 * 16384);
  {
    Fixture fixture = Make(faults);
    for (uint64_t i = 0; i < 16; ++i) {
      const iovec segment = {memory.data() + i * 16384, 16384};
      ASSERT_TRUE(fixture.whole->TrySubmit({&fixture.file, i * 16384, {&segment, 1}, i}));
    }
    WholeCompletion completion;
    fixture.whole->Reap({&completion, 1}, WaitMode::kPoll);  // submits all 16
  }
  EXPECT_TRUE(IsPattern(kTestSeed, 0, memory.bytes()));
}

TEST(WholeReaderTailTest, AReadRoundedUpBeyondTheEndIsWhole) {
  const PatternFile pattern(10'000);
  const File file = OpenFile(pattern.path(), DirectMode::kTry);
  if (!file.direct()) GTEST_SKIP() << file.direct_note();
  WholeReader whole(NewReader(IoBackend::kUring, 4), 4);
  AlignedBuffer memory = NewBuffer(10'240);
  const iovec segment = {memory.data(), 10'240};
  ASSERT_TRUE(whole.TrySubmit({&file, 0, {&segment, 1}, 1}));
  WholeCompletion completion;
  ASSERT_EQ(whole.Reap({&completion, 1}, WaitMode::kBlock), 1u);
  EXPECT_FALSE(completion.failed) << DescribeFailure(completion.failure);
  EXPECT_TRUE(IsPattern(kTestSeed, 0, memory.bytes().first(10'000)));
}

TEST(WholeReaderTest, AnEndlessInterruptionEndsAsAFailure) {
  FaultOptions faults;
  faults.eintr_probability = 1;
  Fixture fixture(faults);
  AlignedBuffer memory = NewBuffer(4096);
  const iovec segment = {memory.data(), 4096};
  ASSERT_TRUE(fixture.whole->TrySubmit({&fixture.file, 0, {&segment, 1}, 1}));
  WholeCompletion completion;
  ASSERT_EQ(fixture.whole->Reap({&completion, 1}, WaitMode::kBlock), 1u);
  EXPECT_TRUE(completion.failed);
  EXPECT_EQ(completion.failure.error_number, EINTR);
  EXPECT_EQ(fixture.whole->statistics().num_reads, static_cast<uint64_t>(WholeReader::kMaxUnproductive) + 1);
}

TEST(WholeReaderTest, D8AHangingDeviceFailsReadsButKeepsTheirBuffers) {
  const PatternFile pattern(8192);
  const File file = OpenFile(pattern.path(), DirectMode::kOff);
  bool open = false;
  AlignedBuffer memory = NewBuffer(8192);
  WholeReader whole(std::make_unique<StuckReader>(&open), 3, 1, {0, 1});
  const iovec segment = {memory.data(), 512};
  for (uint64_t i = 0; i < 3; ++i)
    ASSERT_TRUE(whole.TrySubmit({&file, 0, {&segment, 1}, i}));  // the third is queued
  size_t num_released = 0;
  for (size_t done = 0; done < 3;) {
    WholeCompletion completions[3];
    const size_t count = whole.Reap(completions, WaitMode::kBlock);
    for (size_t i = 0; i < count; ++i) {
      EXPECT_TRUE(completions[i].failed);
      EXPECT_EQ(completions[i].failure.error_number, ETIMEDOUT);
      num_released += completions[i].destinations_released;
    }
    done += count;
  }
  EXPECT_EQ(num_released, 1u);  // the queued one never went to the kernel
  EXPECT_EQ(whole.num_pending(), 0u);
  EXPECT_EQ(whole.num_abandoned(), 2u);
  EXPECT_EQ(whole.statistics().num_slow, 2u);
  EXPECT_TRUE(whole.TrySubmit({&file, 0, {&segment, 1}, 9}));  // one slot of three is free
  EXPECT_FALSE(whole.TrySubmit({&file, 0, {&segment, 1}, 9}));

  const Status now = whole.ReadNow(file, 0, memory.bytes(), "x");
  ASSERT_FALSE(now);
  EXPECT_NE(now.error().message.find("timed out"), std::string::npos) << now.error().message;

  open = true;
  DrainAndDiscard(whole);
  EXPECT_EQ(whole.num_abandoned(), 0u);
  for (uint64_t i = 0; i < 3; ++i) EXPECT_TRUE(whole.TrySubmit({&file, 0, {&segment, 1}, i}));
}

TEST(WholeReaderTest, AnEmptyReadIsWhole) {
  Fixture fixture({});
  std::byte byte;
  const iovec segment = {&byte, 0};
  ASSERT_TRUE(fixture.whole->TrySubmit({&fixture.file, 0, {&segment, 1}, 4}));
  WholeCompletion completion;
  ASSERT_EQ(fixture.whole->Reap({&completion, 1}, WaitMode::kBlock), 1u);
  EXPECT_EQ(completion.tag, 4u);
  EXPECT_FALSE(completion.failed);
}

TEST(WholeReaderTest, MemoryGrowsWithCapacityAndSegments) {
  EXPECT_GT(WholeReader::MemoryBytes(1000), WholeReader::MemoryBytes(10));
  EXPECT_GE(WholeReader::MemoryBytes(1000, 64) - WholeReader::MemoryBytes(1000, 1),
            1000u * 63 * sizeof(iovec));
}

TEST(DescribeFailureTest, SaysWhereAndHowMuch) {
  EXPECT_EQ(DescribeFailure({0, 4096, 512, 16384}),
            "at offset 4096: short read, 512 of 16384 bytes: the file ends too early");
}

}  // namespace
}  // namespace frugal
