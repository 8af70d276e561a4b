#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "src/base/aligned_buffer.h"
#include "src/base/bytes.h"
#include "src/base/cache_lines.h"
#include "src/base/memory_ledger.h"
#include "src/base/thread_pool.h"

namespace frugal {
namespace {

TEST(ParseSizeTest, TakesBinaryUnits) {
  EXPECT_EQ(ParseSize("7G").value(), 7 * kGiB);
  EXPECT_EQ(ParseSize("6700M").value(), 6700 * kMiB);
  EXPECT_EQ(ParseSize("1.5GiB").value(), kGiB + kGiB / 2);
  EXPECT_EQ(ParseSize("20m").value(), 20 * kMiB);
  EXPECT_EQ(ParseSize("4096").value(), 4096u);
}

TEST(ParseSizeTest, RefusesWhatIsNoSize) {
  for (const char* text : {"", "G", "-1G", "7X", "1e999", "nan", "7 G", "99999999T"}) {
    const Result<uint64_t> size = ParseSize(text);
    ASSERT_FALSE(size) << text;
    EXPECT_EQ(size.error().code, ErrorCode::kUsage);
  }
}

TEST(AlignedBufferTest, IsPageAlignedZeroedAndMovable) {
  Result<AlignedBuffer> made = AlignedBuffer::Allocate(10'000);
  ASSERT_TRUE(made);
  AlignedBuffer buffer = std::move(made).value();
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 4096, 0u);
  for (std::byte b : buffer.bytes()) ASSERT_EQ(b, std::byte{0});
  AlignedBuffer moved = std::move(buffer);
  EXPECT_EQ(moved.size_bytes(), 10'000u);
  EXPECT_EQ(buffer.data(), nullptr);  // NOLINT: the moved-from state is part of the contract
}

TEST(AlignedBufferTest, LargeOnesAreWhollyInMemoryAndBeginWithAHugePage) {
  const size_t sizes[] = {2 << 20, (2 << 20) + 1, 5'000'000, 33'000'000, 70'000'001};
  std::vector<AlignedBuffer> buffers;
  for (const size_t size : sizes) {
    Result<AlignedBuffer> made = AlignedBuffer::Allocate(size);
    ASSERT_TRUE(made);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(made->data()) % (2 << 20), 0u) << size;
    std::vector<unsigned char> in_memory((size + 4095) / 4096);
    ASSERT_EQ(mincore(made->data(), size, in_memory.data()), 0) << size;
    for (const unsigned char page : in_memory) ASSERT_EQ(page & 1, 1) << size;
    EXPECT_EQ(made->bytes().back(), std::byte{0});
    buffers.push_back(std::move(made).value());
  }
  // What was mapped for their alignment and given back is nobody's.
  for (size_t i = 0; i < buffers.size(); ++i) std::fill(buffers[i].bytes().begin(), buffers[i].bytes().end(), static_cast<std::byte>(i + 1));
  for (size_t i = 0; i < buffers.size(); ++i) {
    for (const std::byte byte : buffers[i].bytes()) ASSERT_EQ(byte, static_cast<std::byte>(i + 1));
  }
}

TEST(AlignedBufferTest, RefusalIsAnError) {
  const Result<AlignedBuffer> huge = AlignedBuffer::Allocate(uint64_t{1} << 60);
  ASSERT_FALSE(huge);
  EXPECT_EQ(huge.error().code, ErrorCode::kOutOfMemory);
}

TEST(CacheLinesTest, FlushedBytesStay) {
  std::vector<std::byte> bytes(1000);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i);
  for (size_t begin : {0, 1, 63, 64, 999}) {
    for (size_t size : {0, 1, 65, 1000}) FlushCacheLines(std::span(bytes).subspan(begin, std::min(size, bytes.size() - begin)));
  }
  for (size_t i = 0; i < bytes.size(); ++i) ASSERT_EQ(bytes[i], static_cast<std::byte>(i)) << i;
}

TEST(ThreadPoolTest, EveryTileRunsOnce) {
  for (int num_threads : {1, 2, 3, 5}) {
    auto pool = ThreadPool::Create(num_threads);
    ASSERT_TRUE(pool);
    for (int round = 0; round < 200; ++round) {
      std::vector<std::atomic<int>> counts(17);
      (*pool)->Run(17, [&](int tile, int) { counts[tile].fetch_add(1); });
      for (const std::atomic<int>& count : counts) ASSERT_EQ(count.load(), 1);
    }
  }
}

TEST(ThreadPoolTest, EveryWorkerWorks) {
  for (int num_threads : {1, 2, 3, 5}) {
    auto pool = ThreadPool::Create(num_threads);
    ASSERT_TRUE(pool);
    // A tile ends when all have begun: so each has a worker of its own.
    std::atomic<int> begun = 0;
    (*pool)->Run(num_threads, [&](int, int) {
      begun.fetch_add(1);
      while (begun.load() < num_threads) std::this_thread::yield();
    });
    for (uint64_t tiles : (*pool)->tiles_done()) EXPECT_EQ(tiles, 1u);
  }
}

TEST(ThreadPoolTest, TheHookRunsBeforeEachOfTheCallersTiles) {
  auto pool = ThreadPool::Create(1);
  ASSERT_TRUE(pool);
  int hooks = 0;
  (*pool)->Run(5, [&](int tile, int) { EXPECT_EQ(hooks, tile + 1); }, [&] { ++hooks; });
  EXPECT_GE(hooks, 5);
}

TEST(ThreadPoolTest, TheHookDoesNotRunWhenTheOthersWouldWaitForIt) {
  constexpr int kTiles = 16, kThreads = 2;
  auto pool = ThreadPool::Create(kThreads);
  ASSERT_TRUE(pool);
  std::atomic<int> begun = 0;
  int left = kTiles, fewest_left = kTiles;  // when the hook ran before a tile of the caller's
  // The other worker's tile ends when all have begun: the caller takes the rest.
  const auto tile = [&](int, int worker) {
    if (worker == 0) fewest_left = std::min(fewest_left, left);
    begun.fetch_add(1);
    while (worker != 0 && begun.load() < kTiles) std::this_thread::yield();
  };
  (*pool)->Run(kTiles, tile, [&] { left = kTiles - begun.load(); });
  // The other may take its tile after the caller looked.
  EXPECT_GE(fewest_left, static_cast<int>(ThreadPool::kUntakenPerThread) * kThreads - 1);
  EXPECT_LT(fewest_left, kTiles);
  int hooks = 0;
  (*pool)->Run(1, [&](int, int) {}, [&] { ++hooks; });
  EXPECT_GE(hooks, 1) << "products of few tiles keep the reads going too";
}

TEST(ThreadPoolTest, RefusesSillyCounts) {
  EXPECT_FALSE(ThreadPool::Create(0));
  EXPECT_FALSE(ThreadPool::Create(100'000));
}

TEST(MemoryLedgerTest, SumsLines) {
  MemoryLedger ledger;
  ledger.Add("slots", 100);
  ledger.Add("kv cache", 10);
  ledger.Add("slots", 5);
  EXPECT_EQ(ledger.total_bytes(), 115u);
  EXPECT_EQ(ledger.line_bytes("slots"), 105u);
  EXPECT_EQ(ledger.lines().size(), 2u);
}

}  // namespace
}  // namespace frugal
