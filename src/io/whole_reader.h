// Whole reads over an ExtentReader: short reads are continued, EINTR and EAGAIN resubmitted, errors retried kMaxRetries
// times with back-off, and what comes out is "all bytes are there" or one error. All memory is allocated at construction.
// Owned and called by the engine thread. The destructor waits for everything in flight.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "src/io/extent_reader.h"
#include "src/io/file.h"

namespace frugal {

struct ReadFailure {
  int error_number = 0;       // errno; 0: the end of the file came too early
  uint64_t offset_bytes = 0;  // the first byte that could not be read
  uint64_t got_bytes = 0;     // of the read, before it
  uint64_t want_bytes = 0;
};

struct WholeRead {
  const File* file = nullptr;  // borrowed until the completion
  uint64_t offset_bytes = 0;
  std::span<const iovec> destinations;  // copied by Submit; at most ExtentReader::kMaxSegments
  uint64_t tag = 0;                     // any value
};

struct WholeCompletion {
  uint64_t tag = 0;
  bool failed = false;
  ReadFailure failure;  // when failed
};

struct ReadStatistics {
  uint64_t num_reads = 0;    // handed to the ExtentReader, retries and continuations included
  uint64_t bytes_read = 0;   // that arrived
  uint64_t busy_ns = 0;      // time during which at least one read was in flight (as seen by this thread)
  uint64_t num_retries = 0;  // after errors
  uint64_t num_short = 0;    // continued after a short read
};

class WholeReader {
 public:
  static constexpr int kMaxRetries = 3;

  // `capacity` reads may be pending at once (queued here or in flight).
  WholeReader(std::unique_ptr<ExtentReader> reader, uint32_t capacity);
  ~WholeReader();
  WholeReader(const WholeReader&) = delete;
  WholeReader& operator=(const WholeReader&) = delete;

  // False when `capacity` reads are pending already; then Reap first. Never blocks.
  bool TrySubmit(const WholeRead& read);
  // Pushes queued reads to the device, and returns reads that are finished. kBlock waits for at least one while any is pending.
  size_t Reap(std::span<WholeCompletion> completions, WaitMode mode);
  // Blocking convenience for opening and offline work: reads one extent into memory, in parts of at most 1 MiB.
  // `what` names it in the error ("opt.gguf: blk.7.ffn_norm.weight").
  Status ReadNow(const File& file, uint64_t offset_bytes, std::span<std::byte> destination, std::string_view what);

  size_t num_pending() const { return num_pending_; }
  const ReadStatistics& statistics() const { return statistics_; }
  std::string_view backend_name() const;

  // Memory of its own tables for that capacity.
  static uint64_t MemoryBytes(uint32_t capacity);

 private:
  struct Slot;
  std::unique_ptr<ExtentReader> reader_;
  std::vector<Slot> slots_;
  size_t num_pending_ = 0;
  ReadStatistics statistics_;
};

// "short read, 512 of 16384 bytes" / "Input/output error", with the offset: the end of an error message.
std::string DescribeFailure(const ReadFailure& failure);

}  // namespace frugal
