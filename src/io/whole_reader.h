// Whole reads over an ExtentReader: short reads are continued, EINTR and EAGAIN resubmitted, errors retried
// kMaxRetries times with back-off, and what comes out is "all bytes are there" or one error. All memory is
// allocated at construction. Owned and called by the engine thread. The destructor waits for everything in
// flight.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/aligned_buffer.h"
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
  // A read whose end was rounded up to the alignment beyond the file's end is whole when the file's bytes are
  // there; what follows them in the destination is unspecified.
  uint64_t offset_bytes = 0;
  std::span<const iovec> destinations;  // copied by Submit; at most ExtentReader::kMaxSegments
  uint64_t tag = 0;                     // any value
};

struct WholeCompletion {
  uint64_t tag = 0;
  bool failed = false;
  ReadFailure failure;  // when failed
  // False after a deadline (ETIMEDOUT): the kernel still owns the destinations, until the WholeReader is
  // destroyed or num_abandoned() is 0. They must not be used or freed before.
  bool destinations_released = true;
};

struct ReadDeadlines {
  uint64_t slow_ns = 1'000'000'000;   // counted in num_slow
  uint64_t fail_ns = 30'000'000'000;  // without a completion: ETIMEDOUT
};

struct ReadStatistics {
  uint64_t num_reads = 0;    // handed to the ExtentReader, retries and continuations included
  uint64_t bytes_read = 0;   // that arrived
  uint64_t busy_ns = 0;      // time during which at least one read was in flight (as seen by this thread)
  uint64_t num_retries = 0;  // after errors
  uint64_t num_short = 0;    // continued after a short read
  uint64_t num_slow = 0;     // whole reads that took longer than ReadDeadlines::slow_ns: worth a warning
};

class WholeReader {
 public:
  static constexpr int kMaxRetries = 3;

  static constexpr int kMaxUnproductive = 1000;  // EINTR, EAGAIN and short reads without progress, in a row

  // `capacity` reads may be pending at once (queued here or in flight), each of at most `max_segments`
  // destinations.
  WholeReader(std::unique_ptr<ExtentReader> reader, uint32_t capacity,
              uint32_t max_segments = ExtentReader::kMaxSegments, const ReadDeadlines& deadlines = {});
  ~WholeReader();
  WholeReader(const WholeReader&) = delete;
  WholeReader& operator=(const WholeReader&) = delete;

  // False when `capacity` reads are pending already; then Reap first. Never blocks.
  bool TrySubmit(const WholeRead& read);
  // Pushes queued reads to the device, and returns reads that are finished. kBlock waits for at least one
  // while any is pending; when none is but some are abandoned, it waits for at most 0.1 s and may return 0.
  // kPoll starts at most `most_starts` reads: the caller's thread works for each.
  size_t Reap(std::span<WholeCompletion> completions, WaitMode mode, size_t most_starts = SIZE_MAX);
  // Blocking convenience for opening and offline work: reads one extent into memory, in parts of at most 1
  // MiB of which several are in flight. Nothing need be aligned: what is not, goes through a bounce buffer of
  // 1 MiB, which the first such call allocates. Other reads go on meanwhile. `what` names it in the error
  // ("opt.gguf: blk.7.ffn_norm.weight"). After ETIMEDOUT the destination is the kernel's until
  // num_abandoned() is 0 or the WholeReader is destroyed.
  Status ReadNow(const File& file, uint64_t offset_bytes, std::span<std::byte> destination,
                 std::string_view what);

  size_t num_pending() const { return num_pending_; }
  // Reads reported as ETIMEDOUT that the kernel has not given back yet.
  size_t num_abandoned() const { return num_abandoned_; }
  const ReadStatistics& statistics() const { return statistics_; }
  std::string_view backend_name() const;

  // Memory of its own tables for that capacity; ReadNow's bounce buffer comes on top where something is not aligned.
  static uint64_t MemoryBytes(uint32_t capacity, uint32_t max_segments = ExtentReader::kMaxSegments);

 private:
  struct Slot;
  struct NowRead;
  // A queue of slot indexes in a ring that never grows.
  struct IndexQueue {
    std::vector<uint32_t> items;
    size_t head = 0;
    size_t size = 0;
    void Push(uint32_t index);
    uint32_t Pop();
  };

  void StartSlot(uint32_t index, const WholeRead& read);
  void FreeSlot(uint32_t index);
  void Queue(uint32_t index);
  void RetryLater(uint32_t index, uint64_t now_ns, uint64_t pause_ns);
  void Finish(uint32_t index, uint64_t now_ns);
  void Fail(uint32_t index, int error_number, uint64_t partial_bytes, uint64_t now_ns);
  void TimeOut(uint32_t index, uint64_t now_ns);
  void Advance(uint32_t index, uint64_t advance_bytes);

  // One round: due retries, at most `most_starts` submissions, completions (waiting up to timeout_ns for one), deadlines.
  void Pump(uint64_t timeout_ns, size_t most_starts = SIZE_MAX);
  void WakeRetries(uint64_t now_ns);
  // Takes what it submits from `starts_left`.
  void SubmitQueued(uint64_t now_ns, size_t& starts_left);
  void WaitForCompletions(uint64_t now_ns, uint64_t timeout_ns);
  void HandleCompletion(const ReadCompletion& completion, uint64_t now_ns);
  void HandleBytes(uint32_t index, uint64_t got_bytes, uint64_t now_ns);
  void HandleError(uint32_t index, int error_number, uint64_t now_ns);
  void HandleNoProgress(uint32_t index, int error_number, uint64_t partial_bytes, uint64_t now_ns);
  void CheckDeadlines(uint64_t now_ns);
  void AccountBusy(uint64_t now_ns);
  size_t TakeFinished(std::span<WholeCompletion> completions);

  // whole_reader_now.cc
  bool StartPart(NowRead& now);
  void TakeParts(NowRead& now);
  Status NowError(const NowRead& now, std::string_view what) const;

  const ReadDeadlines deadlines_;
  const uint32_t capacity_;
  const uint32_t max_segments_;
  std::unique_ptr<ExtentReader> reader_;
  std::vector<Slot> slots_;                  // [capacity + kNowParts]; the last ones belong to ReadNow
  std::vector<iovec> segments_;              // [capacity + kNowParts, max_segments]
  std::vector<uint32_t> free_slots_;         // of the first [capacity]
  IndexQueue queued_;                        // to be submitted
  IndexQueue finished_;                      // to be returned by Reap
  std::vector<ReadRequest> requests_;        // [kBatch], scratch
  std::vector<ReadCompletion> completions_;  // [kBatch], scratch
  AlignedBuffer bounce_;                     // [kNowParts, kBouncePieceBytes], or empty
  size_t num_pending_ = 0;
  size_t num_abandoned_ = 0;
  size_t num_retries_waiting_ = 0;
  uint64_t next_deadline_check_ns_ = 0;
  uint64_t last_completion_ns_ = 0;
  uint64_t busy_mark_ns_ = 0;
  bool was_busy_ = false;
  ReadStatistics statistics_;
};

// Waits until nothing is pending (or abandoned) and drops the completions: for destructors of what owns
// destinations.
inline void DrainAndDiscard(WholeReader& reader) {
  WholeCompletion completions[16];
  while (reader.num_pending() > 0 || reader.num_abandoned() > 0) reader.Reap(completions, WaitMode::kBlock);
}

// "short read, 512 of 16384 bytes" / "Input/output error", with the offset: the end of an error message.
std::string DescribeFailure(const ReadFailure& failure);

}  // namespace frugal
