#include "src/kernels/plain_read.h"

namespace frugal {

uint64_t PlainRead(const std::byte* from, size_t size_bytes) {
  constexpr size_t kStreams = 4;
  constexpr size_t kLineBytes = 64;
  constexpr size_t kAheadBytes = 1024;
  using Words [[gnu::vector_size(16), gnu::aligned(8), gnu::may_alias]] = uint64_t;
  const size_t stream_bytes = size_bytes / kStreams / kLineBytes * kLineBytes;
  Words found[4] = {};
  for (size_t at = 0; at < stream_bytes; at += kLineBytes) {
    for (size_t stream = 0; stream < kStreams; ++stream) {
      const std::byte* const line = from + stream * stream_bytes + at;
      __builtin_prefetch(line + kAheadBytes);
      for (size_t i = 0; i < 4; ++i) found[i] |= *reinterpret_cast<const Words*>(line + i * sizeof(Words));
    }
  }
  const Words all = (found[0] | found[1]) | (found[2] | found[3]);
  return all[0] | all[1];
}

}  // namespace frugal
