// How much of its budget this process uses: what a memory cgroup charges it without file cache, and its code. Sampled when asked,
// since a sample reads /proc (about 30 us). One thread.
#pragma once

#include <cstdint>
#include <string_view>

#include "src/base/result.h"

namespace frugal {

// Kernel stack of one thread on x86-64 and arm64.
constexpr uint64_t kKernelStackBytes = 16 * 1024;
// Rings, request structs and registrations of one io_uring of 64 to 128 entries, which no file of /proc
// shows.
constexpr uint64_t kRingKernelBytes = 128 * 1024;

// Pages of the program and its libraries that a run comes back to. They are file cache to a memory cgroup, which charges them where nobody
// else has them in memory already, and cannot do without them. In one of the smallest budget, caches dropped before, runs of tale, SmolLM2
// and Gemma 3 270M were killed with 1.6 MiB of room, took seconds with 3.6, and were not held up with 5.6.
constexpr uint64_t kCodeBytes = 4 * 1024 * 1024;

// RssAnon + RssShmem + VmPTE + VmSwap of a /proc/PID/status text, plus a kernel stack for each thread, `num_rings` rings, and RssFile up to
// kCodeBytes: around each page that is touched the kernel maps whatever else is in its cache. kFailed when a line is missing.
Result<uint64_t> UsedBytesOfStatus(std::string_view status, uint32_t num_rings);

class ProcessMemory {
 public:
  explicit ProcessMemory(uint32_t num_rings = 1) : num_rings_(num_rings) {}
  // Looks now; the maximum is kept. kIo when /proc cannot be read.
  Status Sample();
  uint64_t used_bytes() const { return used_bytes_; }  // of the last sample
  uint64_t peak_bytes() const { return peak_bytes_; }

 private:
  const uint32_t num_rings_;
  uint64_t used_bytes_ = 0;
  uint64_t peak_bytes_ = 0;
};

}  // namespace frugal
