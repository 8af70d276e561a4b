// What every ExtentReader promises, tried on both backends, bare and under the fault reader.
#include <sys/resource.h>

#include <algorithm>
#include <map>
#include <thread>

#include "src/base/random.h"
#include "src/io/at_once_reader_for_test.h"
#include "src/io/fault_reader.h"
#include "src/io/io_test_util.h"

namespace frugal {
namespace {

constexpr uint64_t kFileBytes = 1 << 20;

class ReadersTest : public testing::TestWithParam<IoBackend> {
 protected:
  std::unique_ptr<ExtentReader> New(uint32_t queue_depth) { return NewReader(GetParam(), queue_depth); }
};

INSTANTIATE_TEST_SUITE_P(Backends, ReadersTest, testing::Values(IoBackend::kUring, IoBackend::kPread),
                         [](const auto& param_info) { return std::string(BackendName(param_info.param)); });

// One read of random place and shape, its memory, and what must hold of it at the end.
struct RandomRead {
  std::vector<iovec> segments;
  uint64_t offset_bytes = 0;
  uint64_t size_bytes = 0;
};

RandomRead MakeRead(Random& random, uint64_t alignment, std::span<std::byte> memory) {
  RandomRead read;
  const size_t num_segments = 1 + random.Below(5);
  const uint64_t unit = std::max<uint64_t>(alignment, 1);
  std::byte* next = memory.data();
  for (size_t i = 0; i < num_segments; ++i) {
    const uint64_t length = unit * (1 + random.Below(std::max<uint64_t>(8192 / unit, 1)));
    read.segments.push_back({next, length});
    next += length + unit * random.Below(2);
    read.size_bytes += length;
  }
  read.offset_bytes = unit * random.Below((kFileBytes - read.size_bytes) / unit);
  return read;
}

void ExpectContent(const RandomRead& read) {
  uint64_t offset = read.offset_bytes;
  for (const iovec& segment : read.segments) {
    ASSERT_TRUE(
        IsPattern(kTestSeed, offset, {static_cast<const std::byte*>(segment.iov_base), segment.iov_len}))
        << "offset " << offset;
    offset += segment.iov_len;
  }
}

// Keeps `queue_depth` reads in flight until `num_reads` have been checked.
void ReadRandomly(ExtentReader& reader, const File& file, size_t num_reads, uint64_t seed) {
  constexpr size_t kMemoryBytes = 96 * 1024;
  const size_t depth = reader.queue_depth();
  Random random(seed);
  AlignedBuffer memory = NewBuffer(depth * kMemoryBytes);
  std::vector<RandomRead> reads(depth);
  std::vector<size_t> free;
  for (size_t i = 0; i < depth; ++i) free.push_back(i);
  std::vector<ReadCompletion> completions(depth);
  size_t submitted = 0;
  for (size_t done = 0; done < num_reads;) {
    while (submitted < num_reads && !free.empty()) {
      const size_t i = free.back();
      reads[i] =
          MakeRead(random, file.alignment_bytes(), memory.bytes().subspan(i * kMemoryBytes, kMemoryBytes));
      const ReadRequest request = {file.fd(), reads[i].offset_bytes, reads[i].segments, i};
      if (reader.Submit({&request, 1}) == 0) break;
      free.pop_back();
      ++submitted;
    }
    ASSERT_EQ(reader.num_in_flight(), submitted - done);
    const size_t count = reader.Reap(completions, WaitMode::kBlock);
    ASSERT_GT(count, 0u);
    for (size_t i = 0; i < count; ++i) {
      const RandomRead& read = reads[completions[i].tag];
      ASSERT_EQ(completions[i].result, static_cast<int64_t>(read.size_bytes));
      ASSERT_NO_FATAL_FAILURE(ExpectContent(read));
      free.push_back(completions[i].tag);
    }
    done += count;
  }
  EXPECT_EQ(reader.num_in_flight(), 0u);
}

TEST_P(ReadersTest, ReadsRandomExtentsAtEveryDepthDirectAndBuffered) {
  const PatternFile pattern(kFileBytes);
  for (const DirectMode mode : {DirectMode::kTry, DirectMode::kOff}) {
    const File file = OpenFile(pattern.path(), mode);
    for (const uint32_t depth : {1u, 3u, 64u}) {
      SCOPED_TRACE(testing::Message() << "depth " << depth << " direct " << file.direct());
      const std::unique_ptr<ExtentReader> reader = New(depth);
      EXPECT_EQ(reader->queue_depth(), depth);
      ASSERT_NO_FATAL_FAILURE(ReadRandomly(*reader, file, 300, depth));
    }
  }
}

TEST_P(ReadersTest, TakesNoMoreThanItsDepth) {
  const PatternFile pattern(kFileBytes);
  const File file = OpenFile(pattern.path(), DirectMode::kOff);
  const std::unique_ptr<ExtentReader> reader = New(5);
  AlignedBuffer memory = NewBuffer(9 * 512);
  std::vector<iovec> segments(9);
  std::vector<ReadRequest> requests(9);
  for (size_t i = 0; i < 9; ++i) {
    segments[i] = {memory.data() + i * 512, 512};
    requests[i] = {file.fd(), i * 512, {&segments[i], 1}, i};
  }
  EXPECT_EQ(reader->Submit(requests), 5u);
  EXPECT_EQ(reader->num_in_flight(), 5u);
  EXPECT_EQ(reader->Submit(std::span(requests).subspan(5)), 0u);
  ReadCompletion completion;
  EXPECT_EQ(reader->Reap({&completion, 1}, WaitMode::kBlock), 1u);
  EXPECT_EQ(reader->Submit(std::span(requests).subspan(5)), 1u);
}

TEST_P(ReadersTest, NothingInFlightNeverBlocks) {
  const std::unique_ptr<ExtentReader> reader = New(4);
  ReadCompletion completions[4];
  EXPECT_EQ(reader->Reap(completions, WaitMode::kPoll), 0u);
  EXPECT_EQ(reader->Reap(completions, WaitMode::kBlock), 0u);
  EXPECT_EQ(reader->ReapFor(completions, 1'000'000'000), 0u);
}

TEST_P(ReadersTest, ReportsTheEndOfTheFileAndErrorsAsTheKernelDid) {
  const PatternFile pattern(1000);
  const File file = OpenFile(pattern.path(), DirectMode::kOff);
  const std::unique_ptr<ExtentReader> reader = New(4);
  AlignedBuffer memory = NewBuffer(3 * 4096);
  iovec segments[3];
  for (int i = 0; i < 3; ++i) segments[i] = {memory.data() + i * 4096, 4096};
  const ReadRequest requests[] = {{file.fd(), 600, {&segments[0], 1}, 10},
                                  {file.fd(), 5000, {&segments[1], 1}, 11},
                                  {999'999, 0, {&segments[2], 1}, 12}};
  ASSERT_EQ(reader->Submit(requests), 3u);
  std::map<uint64_t, int64_t> results;
  while (reader->num_in_flight() > 0) {
    ReadCompletion completion;
    if (reader->Reap({&completion, 1}, WaitMode::kBlock) == 1) results[completion.tag] = completion.result;
  }
  EXPECT_EQ(results[10], 400);
  EXPECT_EQ(results[11], 0);
  EXPECT_EQ(results[12], -EBADF);
}

TEST_P(ReadersTest, AnIdlePipeTimesOutAndItsReadStaysInFlight) {
  int pipe_fds[2];
  ASSERT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
  const UniqueFd in(pipe_fds[0]);
  const UniqueFd out(pipe_fds[1]);
  // preadv refuses pipes, so only io_uring can be made to wait like this.
  if (GetParam() == IoBackend::kPread) GTEST_SKIP() << "no read that hangs can be made for preadv";
  const std::unique_ptr<ExtentReader> reader = New(4);
  std::byte bytes[8];
  const iovec segment = {bytes, sizeof(bytes)};
  const ReadRequest request = {in.get(), UINT64_MAX, {&segment, 1}, 7};
  ASSERT_EQ(reader->Submit({&request, 1}), 1u);
  ReadCompletion completion;
  EXPECT_EQ(reader->ReapFor({&completion, 1}, 1'000'000), 0u);
  EXPECT_EQ(reader->num_in_flight(), 1u);
  ASSERT_EQ(write(out.get(), "abc", 3), 3);
  ASSERT_EQ(reader->Reap({&completion, 1}, WaitMode::kBlock), 1u);
  EXPECT_EQ(completion.tag, 7u);
  EXPECT_EQ(completion.result, 3);
}

TEST_P(ReadersTest, TheDestructorDrains) {
  const PatternFile pattern(kFileBytes);
  const File file = OpenFile(pattern.path(), DirectMode::kTry);
  AlignedBuffer memory = NewBuffer(64 * 16384);
  std::vector<iovec> segments(64);
  {
    const std::unique_ptr<ExtentReader> reader = New(64);
    for (size_t i = 0; i < 64; ++i) {
      segments[i] = {memory.data() + i * 16384, 16384};
      const ReadRequest request = {file.fd(), i * 16384, {&segments[i], 1}, i};
      ASSERT_EQ(reader->Submit({&request, 1}), 1u);
    }
  }
  // Every byte has landed, so none can land later.
  EXPECT_TRUE(IsPattern(kTestSeed, 0, memory.bytes()));
}

TEST_P(ReadersTest, MovesToAnotherThreadWhenIdle) {
  const PatternFile pattern(kFileBytes);
  const File file = OpenFile(pattern.path(), DirectMode::kTry);
  const std::unique_ptr<ExtentReader> reader = New(8);
  ReadRandomly(*reader, file, 20, 1);
  std::thread([&] { ReadRandomly(*reader, file, 20, 2); }).join();
  ReadRandomly(*reader, file, 20, 3);
}

TEST_P(ReadersTest, RegisteredFilesAndBuffersGiveTheSameBytes) {
  const PatternFile pattern(kFileBytes);
  const PatternFile other(kFileBytes);
  const File file = OpenFile(pattern.path(), DirectMode::kTry);
  const File unregistered = OpenFile(other.path(), DirectMode::kTry);
  AlignedBuffer inside = NewBuffer(8 * 4096);
  AlignedBuffer outside = NewBuffer(8 * 4096);
  const iovec buffer = {inside.data(), inside.size_bytes()};
  const int fd = file.fd();
  ReaderOptions options;
  options.backend = GetParam();
  options.queue_depth = 16;
  options.fds = {&fd, 1};
  options.buffers = {&buffer, 1};
  Result<OpenedReader> opened = OpenReader(options);
  ASSERT_TRUE(opened);
  ExtentReader& reader = *opened->reader;
  const iovec segments[] = {
      {inside.data() + 4096, 4096}, {outside.data(), 8192}, {inside.data() + 8192, 8192}};
  const ReadRequest requests[] = {{file.fd(), 8192, {&segments[0], 1}, 0},
                                  {file.fd(), 65536, {&segments[1], 1}, 1},
                                  {unregistered.fd(), 4096, {&segments[2], 1}, 2}};
  ASSERT_EQ(reader.Submit(requests), 3u);
  while (reader.num_in_flight() > 0) {
    ReadCompletion completion;
    ASSERT_EQ(reader.Reap({&completion, 1}, WaitMode::kBlock), 1u);
    EXPECT_EQ(completion.result, static_cast<int64_t>(segments[completion.tag].iov_len));
  }
  EXPECT_TRUE(IsPattern(kTestSeed, 8192, inside.bytes().subspan(4096, 4096)));
  EXPECT_TRUE(IsPattern(kTestSeed, 65536, outside.bytes().subspan(0, 8192)));
  EXPECT_TRUE(IsPattern(kTestSeed, 4096, inside.bytes().subspan(8192, 8192)));
}

TEST_P(ReadersTest, DelaysAndReorderingLoseNothing) {
  const PatternFile pattern(kFileBytes);
  const File file = OpenFile(pattern.path(), DirectMode::kTry);
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    SCOPED_TRACE(seed);
    FaultOptions faults;
    faults.seed = seed;
    faults.max_delay_reaps = 5;
    FaultReader reader(New(16), faults);
    ASSERT_NO_FATAL_FAILURE(ReadRandomly(reader, file, 200, seed));
    EXPECT_EQ(reader.num_reads_seen(), 200u);
    EXPECT_EQ(reader.num_faults(), 0u);
  }
}

TEST_P(ReadersTest, TheFaultReaderReordersCompletions) {
  const PatternFile pattern(kFileBytes);
  const File file = OpenFile(pattern.path(), DirectMode::kTry);
  FaultOptions faults;
  faults.max_delay_reaps = 8;
  // All arrive in their order before the first is waited for: the device reorders nothing.
  FaultReader reader(std::make_unique<AtOnceReader>(New(32)), faults);
  AlignedBuffer memory = NewBuffer(32 * 4096);
  std::vector<iovec> segments(32);
  for (uint64_t i = 0; i < 32; ++i) {
    segments[i] = {memory.data() + i * 4096, 4096};
    const ReadRequest request = {file.fd(), i * 4096, {&segments[i], 1}, i};
    ASSERT_EQ(reader.Submit({&request, 1}), 1u);
  }
  std::vector<uint64_t> order;
  while (reader.num_in_flight() > 0) {
    ReadCompletion completion;
    ASSERT_EQ(reader.Reap({&completion, 1}, WaitMode::kBlock), 1u);
    order.push_back(completion.tag);
  }
  EXPECT_FALSE(std::is_sorted(order.begin(), order.end()));
  EXPECT_FALSE(std::is_sorted(order.rbegin(), order.rend()));  // last come, first served
  std::sort(order.begin(), order.end());
  for (uint64_t i = 0; i < 32; ++i) EXPECT_EQ(order[i], i);
}

TEST(FaultReaderTest, TheSameSeedGivesTheSameFaults) {
  const PatternFile pattern(kFileBytes);
  const File file = OpenFile(pattern.path(), DirectMode::kOff);
  std::vector<int64_t> outcomes[2];
  for (std::vector<int64_t>& outcome : outcomes) {
    FaultOptions faults;
    faults.seed = 9;
    faults.short_probability = faults.eintr_probability = faults.eagain_probability = 0.2;
    faults.eof_probability = 0.1;
    FaultReader reader(NewReader(IoBackend::kPread, 1), faults);
    std::byte bytes[4096];
    const iovec segment = {bytes, sizeof(bytes)};
    for (uint64_t i = 0; i < 200; ++i) {
      const ReadRequest request = {file.fd(), i * 4096, {&segment, 1}, i};
      ASSERT_EQ(reader.Submit({&request, 1}), 1u);
      ReadCompletion completion;
      ASSERT_EQ(reader.Reap({&completion, 1}, WaitMode::kBlock), 1u);
      outcome.push_back(completion.result);
    }
    EXPECT_GT(reader.num_faults(), 50u);
  }
  EXPECT_EQ(outcomes[0], outcomes[1]);
  for (const int64_t kind : {int64_t{-EINTR}, int64_t{-EAGAIN}, int64_t{0}, int64_t{4096}}) {
    EXPECT_NE(std::count(outcomes[0].begin(), outcomes[0].end(), kind), 0) << kind;
  }
  EXPECT_TRUE(
      std::any_of(outcomes[0].begin(), outcomes[0].end(), [](int64_t r) { return r > 0 && r < 4096; }));
}

TEST(FaultReaderTest, ACutLeavesGarbageBehindIt) {
  const PatternFile pattern(4096);
  const File file = OpenFile(pattern.path(), DirectMode::kOff);
  FaultOptions faults;
  faults.short_probability = 1;
  FaultReader reader(NewReader(IoBackend::kPread, 1), faults);
  std::byte bytes[4096];
  const iovec segments[] = {{bytes, 1000}, {bytes + 1000, 3096}};
  const ReadRequest request = {file.fd(), 0, segments, 0};
  ASSERT_EQ(reader.Submit({&request, 1}), 1u);
  ReadCompletion completion;
  ASSERT_EQ(reader.Reap({&completion, 1}, WaitMode::kBlock), 1u);
  ASSERT_GT(completion.result, 0);
  ASSERT_LT(completion.result, 4096);
  EXPECT_EQ(completion.result % 512, 0);
  const std::span<const std::byte> all(bytes);
  EXPECT_TRUE(IsPattern(kTestSeed, 0, all.first(static_cast<size_t>(completion.result))));
  for (const std::byte b : all.subspan(static_cast<size_t>(completion.result))) ASSERT_EQ(b, std::byte{0xA5});
}

TEST(FaultReaderTest, FlipsOneBit) {
  const PatternFile pattern(8192);
  const File file = OpenFile(pattern.path(), DirectMode::kOff);
  FaultOptions faults;
  faults.flip_offset_bytes = 5000;
  faults.flip_bit = 3;
  FaultReader reader(NewReader(IoBackend::kPread, 1), faults);
  std::vector<std::byte> bytes(8192);
  const iovec segments[] = {{bytes.data(), 4500}, {bytes.data() + 4500, 3692}};
  const ReadRequest request = {file.fd(), 0, segments, 0};
  ASSERT_EQ(reader.Submit({&request, 1}), 1u);
  ReadCompletion completion;
  ASSERT_EQ(reader.Reap({&completion, 1}, WaitMode::kBlock), 1u);
  EXPECT_EQ(bytes[5000], PatternByte(kTestSeed, 5000) ^ std::byte{8});
  bytes[5000] ^= std::byte{8};
  EXPECT_TRUE(IsPattern(kTestSeed, 0, bytes));
}

TEST(FaultReaderTest, FlipsABitInEveryBlock) {
  const PatternFile pattern(8192);
  const File file = OpenFile(pattern.path(), DirectMode::kOff);
  FaultOptions faults;
  faults.flip_offset_bytes = 100;
  faults.flip_every_bytes = 512;
  FaultReader reader(NewReader(IoBackend::kPread, 1), faults);
  std::vector<std::byte> bytes(2000);
  const iovec segment = {bytes.data(), bytes.size()};
  const ReadRequest request = {file.fd(), 1000, {&segment, 1}, 0};
  ASSERT_EQ(reader.Submit({&request, 1}), 1u);
  ReadCompletion completion;
  ASSERT_EQ(reader.Reap({&completion, 1}, WaitMode::kBlock), 1u);
  for (uint64_t i = 0; i < bytes.size(); ++i) {
    const std::byte flipped = (1000 + i) % 512 == 100 ? std::byte{1} : std::byte{0};
    ASSERT_EQ(bytes[i], PatternByte(kTestSeed, 1000 + i) ^ flipped) << i;
  }
}

TEST(OpenReaderTest, RefusesSenselessLimits) {
  ReaderOptions options;
  options.queue_depth = 0;
  EXPECT_EQ(OpenReader(options).error().code, ErrorCode::kUsage);
  options.queue_depth = ReaderOptions::kMaxQueueDepth + 1;
  EXPECT_EQ(OpenReader(options).error().code, ErrorCode::kUsage);
  options.queue_depth = 8;
  options.num_pread_threads = 0;
  EXPECT_EQ(OpenReader(options).error().code, ErrorCode::kUsage);
}

TEST(OpenReaderTest, MemoryGrowsWithDepthAndRegistration) {
  for (const IoBackend backend : {IoBackend::kAuto, IoBackend::kUring, IoBackend::kPread}) {
    ReaderOptions small;
    small.backend = backend;
    small.queue_depth = 8;
    ReaderOptions large = small;
    large.queue_depth = 1024;
    EXPECT_GT(ReaderMemoryBytes(large), ReaderMemoryBytes(small));
    EXPECT_GT(ReaderMemoryBytes(small), 0u);
  }
  ReaderOptions registered;
  registered.backend = IoBackend::kUring;
  const uint64_t before = ReaderMemoryBytes(registered);
  const iovec buffer = {nullptr, 1 << 30};
  registered.buffers = {&buffer, 1};
  EXPECT_EQ(ReaderMemoryBytes(registered) - before, (1u << 30) / 4096 * 16 + 256);
}

}  // namespace
}  // namespace frugal
