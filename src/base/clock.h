// Monotonic time in nanoseconds; the wall clock is never used for durations.
#pragma once

#include <chrono>
#include <cstdint>

namespace frugal {

inline uint64_t NowNs() {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count());
}

}  // namespace frugal
