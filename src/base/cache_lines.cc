#include "src/base/cache_lines.h"

#include <cstdint>

#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace frugal {

#ifdef __x86_64__
namespace {

constexpr size_t kLineBytes = 64;

__attribute__((target("clflushopt"))) void FlushEach(std::span<const std::byte> bytes) {
  const std::byte* line = bytes.data() - reinterpret_cast<uintptr_t>(bytes.data()) % kLineBytes;
  for (; line < bytes.data() + bytes.size(); line += kLineBytes) _mm_clflushopt(const_cast<std::byte*>(line));
}

}  // namespace

void FlushCacheLines(std::span<const std::byte> bytes) {
  static const bool can_flush = __builtin_cpu_supports("clflushopt");
  if (can_flush) FlushEach(bytes);
}
#else
void FlushCacheLines(std::span<const std::byte>) {}
#endif

}  // namespace frugal
