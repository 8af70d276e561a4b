// The seam at the disk: asynchronous reads of extents. Three implementations: io_uring (uring_reader.h), a
// pread thread pool (pread_reader.h) and a decorator that injects faults (fault_reader.h). A reader reports
// what the kernel said: completions may be short, out of order, or errors. WholeReader (whole_reader.h) turns
// them into whole reads.
//
// One thread (the engine thread) calls a reader. Destinations belong to the kernel from Submit until the
// completion has been returned; destructors drain first.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "src/base/result.h"
#include "src/tensor/tensor_info.h"

namespace frugal {

// One read of a contiguous extent of a file, scattered over iovecs. With O_DIRECT everything (offset, every
// iovec's base and length) is a multiple of the file's alignment.
struct ReadRequest {
  int fd = -1;
  uint64_t offset_bytes = 0;
  std::span<const iovec> destinations;  // at most kMaxSegments; lives until the completion
  uint64_t tag = 0;                     // returned with the completion, unique among those in flight
};

struct ReadCompletion {
  uint64_t tag = 0;
  int64_t result = 0;  // bytes read (short is possible, 0 at the end of the file), or -errno
};

enum class WaitMode {
  kPoll,
  kBlock
};  // kBlock: until at least one completion is there (or none is in flight)

class ExtentReader {
 public:
  static constexpr size_t kMaxSegments = 64;

  virtual ~ExtentReader() = default;

  // Takes as many of the requests, from the front, as there is room for; returns how many. Nothing is
  // allocated.
  virtual size_t Submit(std::span<const ReadRequest> requests) = 0;
  // Fills `completions` from the front; returns how many. Nothing is allocated.
  virtual size_t Reap(std::span<ReadCompletion> completions, WaitMode mode) = 0;
  // Reap with kBlock that gives up after timeout_ns and then returns 0: deadlines need it. A reader that
  // cannot give up (a fake in a test) may block as Reap does.
  virtual size_t ReapFor(std::span<ReadCompletion> completions, uint64_t timeout_ns) {
    static_cast<void>(timeout_ns);
    return Reap(completions, WaitMode::kBlock);
  }

  virtual size_t num_in_flight() const = 0;
  virtual size_t queue_depth() const = 0;     // most requests in flight at once
  virtual std::string_view name() const = 0;  // "io_uring", "pread"
};

enum class IoBackend { kAuto, kUring, kPread };

struct ReaderOptions {
  static constexpr uint32_t kMaxQueueDepth = 4096;
  static constexpr uint32_t kMaxPreadThreads = 64;

  IoBackend backend = IoBackend::kAuto;
  uint32_t queue_depth = 64;
  uint32_t num_pread_threads = 8;
  // Optional registration for io_uring (files by fd, buffers by address range); refused registrations are not
  // an error. Both must stay open and mapped as long as the reader lives: the kernel remembers the file, not
  // the number.
  std::span<const int> fds;
  std::span<const iovec> buffers;
};

struct OpenedReader {
  std::unique_ptr<ExtentReader> reader;
  std::string
      note;  // why io_uring was not taken, what was not registered; empty when there is nothing to say
};

// io_uring when it works (proved by setting up a ring), else the pread pool. kUring that is refused is an
// error (kIo).
Result<OpenedReader> OpenReader(const ReaderOptions& options);

// Kernel and user memory a reader of this depth costs, for the ledger.
uint64_t ReaderMemoryBytes(const ReaderOptions& options);

}  // namespace frugal
