// What this machine and its control groups leave to the process: the defaults of --ram and --threads. Reads
// /proc and /sys only.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace frugal {

// Where the kernel's files are; another root for tests.
struct SystemRoots {
  std::string proc = "/proc";
  std::string cgroup = "/sys/fs/cgroup";
  std::string cpu = "/sys/devices/system/cpu";
};

// The smallest memory limit of the process's cgroups (v1 and v2) and of all groups above them; nothing when
// there is none.
std::optional<uint64_t> CgroupMemoryLimit(const SystemRoots& roots = {});
// MemAvailable of /proc/meminfo.
std::optional<uint64_t> AvailableMemory(const SystemRoots& roots = {});

struct DefaultRam {
  uint64_t size_bytes = 0;
  std::string reason;  // "80% of the available memory", "the cgroup's limit"
};
// min(cgroup limit, 80% of MemAvailable); 1 GiB when neither can be read.
DefaultRam FindDefaultRam(const SystemRoots& roots = {});

// Cores the process may run on, hardware threads of one core counted once; at least 1.
int UsableCores(const SystemRoots& roots = {});

// True when a swap area is on and this process may not lock `size_bytes` into memory, so that weights may be
// swapped out.
bool MayBeSwapped(uint64_t size_bytes, const SystemRoots& roots = {});

// "Name:   123 kB" of a /proc file's text, in bytes; nothing when the line is absent.
std::optional<uint64_t> FindKilobytes(std::string_view text, std::string_view name);

}  // namespace frugal
