#include "src/io/extent_reader.h"

#include <algorithm>
#include <utility>

#include "src/io/pread_reader.h"
#include "src/io/uring_reader.h"

namespace frugal {

Result<OpenedReader> OpenReader(const ReaderOptions& options) {
  if (options.queue_depth == 0 || options.queue_depth > ReaderOptions::kMaxQueueDepth) {
    return MakeError(ErrorCode::kUsage, "queue depth {} is out of range 1..{}", options.queue_depth,
                     ReaderOptions::kMaxQueueDepth);
  }
  if (options.num_pread_threads == 0 || options.num_pread_threads > ReaderOptions::kMaxPreadThreads) {
    return MakeError(ErrorCode::kUsage, "{} read threads are out of range 1..{}", options.num_pread_threads,
                     ReaderOptions::kMaxPreadThreads);
  }
  if (options.backend == IoBackend::kPread) return OpenPreadReader(options);
  Result<OpenedReader> uring = OpenUringReader(options);
  if (uring || options.backend == IoBackend::kUring) return uring;
  FRUGAL_ASSIGN(OpenedReader pread, OpenPreadReader(options));
  pread.note = pread.note.empty() ? uring.error().message : uring.error().message + "; " + pread.note;
  return pread;
}

uint64_t ReaderMemoryBytes(const ReaderOptions& options) {
  switch (options.backend) {
    case IoBackend::kUring:
      return UringReaderMemoryBytes(options);
    case IoBackend::kPread:
      return PreadReaderMemoryBytes(options);
    case IoBackend::kAuto:
      break;
  }
  return std::max(UringReaderMemoryBytes(options), PreadReaderMemoryBytes(options));
}

}  // namespace frugal
