#include "src/engine/process_memory.h"

#include <gtest/gtest.h>

#include "src/base/aligned_buffer.h"
#include "src/base/bytes.h"

namespace frugal {
namespace {

TEST(ProcessMemory, AddsWhatIsChargedWithoutFileCacheAndCode) {
  const std::string status =
      "Name:\tfrugal\nVmPTE:\t      40 kB\nVmRSS:\t 9000 kB\nRssAnon:\t    1000 kB\nRssFile:\t    7990 kB\n"
      "RssShmem:\t       10 kB\nVmSwap:\t       5 kB\nThreads:\t3\n";
  const Result<uint64_t> used = UsedBytesOfStatus(status, 1);
  ASSERT_TRUE(used);
  EXPECT_EQ(*used, (40 + 1000 + 10 + 5) * kKiB + 3 * kKernelStackBytes + kRingKernelBytes + kCodeBytes);
}

TEST(ProcessMemory, NamesTheLineThatIsMissing) {
  const Result<uint64_t> used =
      UsedBytesOfStatus("VmPTE: 4 kB\nRssShmem: 1 kB\nVmSwap: 0 kB\nThreads: 1\n", 0);
  ASSERT_FALSE(used);
  EXPECT_NE(used.error().message.find("RssAnon"), std::string::npos);
}

TEST(ProcessMemory, SeesTouchedMemoryAndKeepsThePeak) {
  ProcessMemory memory;
  ASSERT_TRUE(memory.Sample());
  const uint64_t before = memory.used_bytes();
  {
    Result<AlignedBuffer> buffer = AlignedBuffer::Allocate(32 * kMiB);
    ASSERT_TRUE(buffer);
    volatile std::byte* bytes = buffer->data();
    for (size_t i = 0; i < 32 * kMiB; i += 4096) bytes[i] = std::byte{1};
    ASSERT_TRUE(memory.Sample());
    EXPECT_GE(memory.used_bytes(), before + 31 * kMiB);
  }
  ASSERT_TRUE(memory.Sample());
  EXPECT_GE(memory.peak_bytes(), before + 31 * kMiB);
  EXPECT_GE(memory.peak_bytes(), memory.used_bytes());
}

}  // namespace
}  // namespace frugal
