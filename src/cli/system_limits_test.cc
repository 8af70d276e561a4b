#include "src/cli/system_limits.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "src/base/bytes.h"
#include "src/base/temp_dir_for_test.h"

namespace frugal {
namespace {

// A made-up /proc and /sys in a directory of its own.
class SystemLimits : public testing::Test {
 protected:
  void SetUp() override {
    roots_ = {directory_ + "/proc", directory_ + "/cgroup", directory_ + "/cpu"};
  }

  void Write(const std::string& path, const std::string& text) {
    const std::filesystem::path full = directory_ + path;
    std::filesystem::create_directories(full.parent_path());
    std::ofstream(full) << text;
  }

  const TempDir temporary_;
  const std::string directory_ = temporary_.path();
  SystemRoots roots_;
};

TEST_F(SystemLimits, NothingIsKnownWhereNothingCanBeRead) {
  EXPECT_FALSE(CgroupMemoryLimit(roots_).has_value());
  EXPECT_FALSE(AvailableMemory(roots_).has_value());
  EXPECT_EQ(FindDefaultRam(roots_).size_bytes, kGiB);
  EXPECT_GE(UsableCores(roots_), 1);
  EXPECT_FALSE(MayBeSwapped(kGiB, roots_));
}

TEST_F(SystemLimits, TakesTheSmallestLimitOfACgroupAndItsParents) {
  Write("/proc/self/cgroup", "0::/a/b\n");
  Write("/cgroup/a/b/memory.max", "max\n");
  Write("/cgroup/a/memory.max", "1048576\n");
  EXPECT_EQ(CgroupMemoryLimit(roots_), 1048576u);
  Write("/cgroup/a/b/memory.max", "4096\n");
  EXPECT_EQ(CgroupMemoryLimit(roots_), 4096u);
}

TEST_F(SystemLimits, ReadsVersionOne) {
  Write("/proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/job\n1:name=systemd:/job\n");
  Write("/cgroup/memory/job/memory.limit_in_bytes", "20971520\n");
  Write("/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_EQ(CgroupMemoryLimit(roots_), 20 * kMiB);
}

TEST_F(SystemLimits, NoLimitOfVersionOneIsNone) {
  Write("/proc/self/cgroup", "4:memory:/\n");
  Write("/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_FALSE(CgroupMemoryLimit(roots_).has_value());
}

TEST_F(SystemLimits, InAContainerTheRootIsTheOwnGroup) {
  Write("/proc/self/cgroup", "0::/docker/0123/not-here\n");
  Write("/cgroup/memory.max", "8388608\n");
  EXPECT_EQ(CgroupMemoryLimit(roots_), 8 * kMiB);
}

TEST_F(SystemLimits, SurvivesAStrangeCgroupFile) {
  Write("/proc/self/cgroup", "\n:\n::\n0::\n0::relative\nmemory\n4:memory:\n");
  EXPECT_FALSE(CgroupMemoryLimit(roots_).has_value());
}

TEST_F(SystemLimits, TheDefaultIsTheSmallerOfLimitAndMostOfTheAvailableMemory) {
  Write("/proc/meminfo", "MemTotal:       2000 kB\nMemAvailable:    1000 kB\nSwapTotal: 0 kB\n");
  EXPECT_EQ(FindDefaultRam(roots_).size_bytes, 800 * kKiB);
  Write("/proc/self/cgroup", "0::/\n");
  Write("/cgroup/memory.max", "409600\n");
  EXPECT_EQ(FindDefaultRam(roots_).size_bytes, 400 * kKiB);
  Write("/cgroup/memory.max", "4096000000\n");
  EXPECT_EQ(FindDefaultRam(roots_).size_bytes, 800 * kKiB);
}

TEST_F(SystemLimits, HardwareThreadsOfOneCoreCountOnce) {
  for (int cpu = 0; cpu < 1024; ++cpu) {
    Write("/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list", "0-1023\n");
  }
  EXPECT_EQ(UsableCores(roots_), 1);
}

TEST(FindKilobytes, FindsTheWholeName) {
  EXPECT_EQ(FindKilobytes("SwapTotalX: 5 kB\nSwapTotal:\t 7 kB\n", "SwapTotal"), 7 * kKiB);
  EXPECT_FALSE(FindKilobytes("SwapTotal:\n", "SwapTotal").has_value());
  EXPECT_FALSE(FindKilobytes("", "SwapTotal").has_value());
}

}  // namespace
}  // namespace frugal
