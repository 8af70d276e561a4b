#include "src/io/whole_reader.h"

#include <sys/stat.h>
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "src/base/clock.h"
#include "src/io/whole_reader_slot.h"

namespace frugal {
namespace {

constexpr uint64_t kForever = UINT64_MAX;
constexpr size_t kBatch = 64;
constexpr uint64_t kMillisecond = 1'000'000;
constexpr uint64_t kLongestPauseNs = kMillisecond;        // between resubmissions after EINTR and EAGAIN
constexpr uint64_t kLongestCheckNs = 100 * kMillisecond;  // between looks at the deadlines

uint64_t RetryPauseNs(int retry) { return kMillisecond << (2 * retry); }  // 1, 4, 16 ms

// The first few at once, since an interruption is over when it is reported; then slower and slower.
uint64_t UnproductivePauseNs(int count) {
  return count <= 8 ? 0 : std::min(uint64_t{1000} << std::min(count - 8, 20), kLongestPauseNs);
}

bool EndsBefore(const File& file, uint64_t offset_bytes) {
  struct stat info {};
  return fstat(file.fd(), &info) == 0 && static_cast<uint64_t>(info.st_size) <= offset_bytes;
}

void SleepNs(uint64_t pause_ns) {
  const timespec pause{static_cast<time_t>(pause_ns / 1'000'000'000),
                       static_cast<long>(pause_ns % 1'000'000'000)};
  nanosleep(&pause, nullptr);
}

}  // namespace

void WholeReader::IndexQueue::Push(uint32_t index) {
  CHECK(size < items.size());
  items[(head + size++) % items.size()] = index;
}

uint32_t WholeReader::IndexQueue::Pop() {
  CHECK(size > 0);
  const uint32_t index = items[head];
  head = (head + 1) % items.size();
  --size;
  return index;
}

WholeReader::WholeReader(std::unique_ptr<ExtentReader> reader, uint32_t capacity, uint32_t max_segments,
                         const ReadDeadlines& deadlines)
    : deadlines_(deadlines),
      capacity_(capacity),
      max_segments_(max_segments),
      reader_(std::move(reader)),
      slots_(capacity + kNowParts),
      segments_(size_t{capacity + kNowParts} * max_segments),
      requests_(kBatch),
      completions_(kBatch) {
  CHECK(reader_ != nullptr && capacity > 0);
  CHECK(max_segments > 0 && max_segments <= ExtentReader::kMaxSegments);
  free_slots_.reserve(capacity);
  for (uint32_t i = capacity; i > 0; --i) free_slots_.push_back(i - 1);
  queued_.items.resize(slots_.size());
  finished_.items.resize(slots_.size());
}

WholeReader::~WholeReader() {
  while (reader_->num_in_flight() > 0) reader_->Reap(completions_, WaitMode::kBlock);
}

std::string_view WholeReader::backend_name() const { return reader_->name(); }

uint64_t WholeReader::MemoryBytes(uint32_t capacity, uint32_t max_segments) {
  const uint64_t num_slots = uint64_t{capacity} + kNowParts;
  const uint64_t slot_bytes = sizeof(Slot) + max_segments * sizeof(iovec) + 3 * sizeof(uint32_t);
  return num_slots * slot_bytes + kBatch * (sizeof(ReadRequest) + sizeof(ReadCompletion));
}

bool WholeReader::TrySubmit(const WholeRead& read) {
  CHECK(read.file != nullptr && !read.destinations.empty() && read.destinations.size() <= max_segments_);
  if (free_slots_.empty()) return false;
  const uint32_t index = free_slots_.back();
  free_slots_.pop_back();
  ++num_pending_;
  StartSlot(index, read);
  return true;
}

void WholeReader::StartSlot(uint32_t index, const WholeRead& read) {
  Slot& slot = slots_[index];
  const uint32_t generation = slot.generation;
  slot = Slot{};
  slot.generation = generation;
  slot.file = read.file;
  slot.tag = read.tag;
  slot.offset_bytes = read.offset_bytes;
  slot.num_segments = static_cast<uint32_t>(read.destinations.size());
  std::copy(read.destinations.begin(), read.destinations.end(),
            segments_.begin() + size_t{index} * max_segments_);
  for (const iovec& segment : read.destinations) slot.want_bytes += segment.iov_len;
  const uint64_t end_bytes = read.offset_bytes + slot.want_bytes;
  const uint64_t file_bytes = read.file->size_bytes();
  if (read.offset_bytes < file_bytes && end_bytes > file_bytes &&
      end_bytes - file_bytes < read.file->alignment_bytes()) {
    slot.want_bytes = file_bytes - read.offset_bytes;
  }
  slot.queued_ns = NowNs();
  if (slot.want_bytes == 0) {
    Finish(index, slot.queued_ns);
  } else {
    Queue(index);
  }
}

void WholeReader::FreeSlot(uint32_t index) {
  Slot& slot = slots_[index];
  slot.state = Slot::State::kFree;
  slot.abandoned = false;
  ++slot.generation;
  if (index < capacity_) free_slots_.push_back(index);
}

void WholeReader::Queue(uint32_t index) {
  slots_[index].state = Slot::State::kQueued;
  queued_.Push(index);
}

void WholeReader::RetryLater(uint32_t index, uint64_t now_ns, uint64_t pause_ns) {
  if (pause_ns == 0) return Queue(index);
  slots_[index].state = Slot::State::kRetryLater;
  slots_[index].ready_ns = now_ns + pause_ns;
  ++num_retries_waiting_;
}

void WholeReader::Finish(uint32_t index, uint64_t now_ns) {
  Slot& slot = slots_[index];
  if (slot.start_ns != 0 && now_ns - slot.start_ns >= deadlines_.slow_ns) ++statistics_.num_slow;
  slot.state = Slot::State::kFinished;
  if (index < capacity_) finished_.Push(index);
}

void WholeReader::Fail(uint32_t index, int error_number, uint64_t partial_bytes, uint64_t now_ns) {
  Slot& slot = slots_[index];
  slot.failed = true;
  slot.failure = {error_number, slot.offset_bytes + partial_bytes, slot.got_bytes + partial_bytes,
                  slot.want_bytes};
  Finish(index, now_ns);
}

// The kernel cannot be made to give a buffer back: the read is reported, the slot stays until its completion
// comes.
void WholeReader::TimeOut(uint32_t index, uint64_t now_ns) {
  Fail(index, ETIMEDOUT, 0, now_ns);
  slots_[index].state = Slot::State::kInFlight;
  slots_[index].abandoned = true;
  ++num_abandoned_;
}

// Drops the first advance_bytes of what is left to read.
void WholeReader::Advance(uint32_t index, uint64_t advance_bytes) {
  Slot& slot = slots_[index];
  slot.offset_bytes += advance_bytes;
  slot.got_bytes += advance_bytes;
  slot.num_retries = 0;
  slot.num_unproductive = 0;
  iovec* segment = &segments_[size_t{index} * max_segments_ + slot.first_segment];
  while (advance_bytes >= segment->iov_len) {
    advance_bytes -= segment->iov_len;
    ++segment;
    ++slot.first_segment;
    CHECK(slot.first_segment < slot.num_segments);
  }
  segment->iov_base = static_cast<std::byte*>(segment->iov_base) + advance_bytes;
  segment->iov_len -= advance_bytes;
}

size_t WholeReader::Reap(std::span<WholeCompletion> completions, WaitMode mode, size_t most_starts) {
  if (completions.empty()) return 0;
  Pump(0, mode == WaitMode::kPoll ? most_starts : SIZE_MAX);
  size_t count = TakeFinished(completions);
  while (count == 0 && mode == WaitMode::kBlock && num_pending_ > 0) {
    Pump(kForever);
    count = TakeFinished(completions);
  }
  if (count == 0 && mode == WaitMode::kBlock && num_abandoned_ > 0) Pump(kLongestCheckNs);
  return count;
}

size_t WholeReader::TakeFinished(std::span<WholeCompletion> completions) {
  size_t count = 0;
  while (count < completions.size() && finished_.size > 0) {
    const uint32_t index = finished_.Pop();
    Slot& slot = slots_[index];
    completions[count++] = {slot.tag, slot.failed, slot.failure, !slot.abandoned};
    slot.reported = true;
    --num_pending_;
    if (!slot.abandoned) FreeSlot(index);
  }
  return count;
}

void WholeReader::Pump(uint64_t timeout_ns, size_t most_starts) {
  uint64_t now_ns = NowNs();
  AccountBusy(now_ns);
  WakeRetries(now_ns);
  SubmitQueued(now_ns, most_starts);
  AccountBusy(now_ns);
  if (timeout_ns > 0) {
    WaitForCompletions(now_ns, timeout_ns);
  } else {
    size_t count = 0;
    do {  // at most all that can be in flight
      count = reader_->Reap(completions_, WaitMode::kPoll);
      now_ns = NowNs();
      for (size_t i = 0; i < count; ++i) HandleCompletion(completions_[i], now_ns);
    } while (count == completions_.size());
  }
  now_ns = NowNs();
  AccountBusy(now_ns);
  CheckDeadlines(now_ns);
  SubmitQueued(now_ns, most_starts);
  AccountBusy(now_ns);
}

void WholeReader::WaitForCompletions(uint64_t now_ns, uint64_t timeout_ns) {
  uint64_t wait_ns = std::min({timeout_ns, kLongestCheckNs, std::max<uint64_t>(deadlines_.fail_ns / 4, 1)});
  if (num_retries_waiting_ > 0) {
    for (const Slot& slot : slots_) {
      if (slot.state != Slot::State::kRetryLater) continue;
      wait_ns = std::min(wait_ns, slot.ready_ns > now_ns ? slot.ready_ns - now_ns : 1);
    }
  }
  if (reader_->num_in_flight() == 0) {
    if (num_retries_waiting_ > 0) SleepNs(wait_ns);
    return;
  }
  const size_t count = reader_->ReapFor(completions_, wait_ns);
  now_ns = NowNs();
  for (size_t i = 0; i < count; ++i) HandleCompletion(completions_[i], now_ns);
}

void WholeReader::WakeRetries(uint64_t now_ns) {
  for (uint32_t i = 0; num_retries_waiting_ > 0 && i < slots_.size(); ++i) {
    if (slots_[i].state != Slot::State::kRetryLater || slots_[i].ready_ns > now_ns) continue;
    --num_retries_waiting_;
    Queue(i);
  }
}

void WholeReader::SubmitQueued(uint64_t now_ns, size_t& starts_left) {
  while (queued_.size > 0) {
    const size_t in_flight = reader_->num_in_flight();
    const size_t room = in_flight < reader_->queue_depth() ? reader_->queue_depth() - in_flight : 0;
    const size_t count = std::min({queued_.size, room, requests_.size(), starts_left});
    if (count == 0) return;
    for (size_t i = 0; i < count; ++i) {
      const uint32_t index = queued_.items[(queued_.head + i) % queued_.items.size()];
      const Slot& slot = slots_[index];
      const iovec* segments = &segments_[size_t{index} * max_segments_];
      requests_[i] = {slot.file->fd(), slot.offset_bytes,
                      std::span(segments + slot.first_segment, slot.num_segments - slot.first_segment),
                      (uint64_t{slot.generation} << 32) | index};
    }
    const size_t taken = reader_->Submit(std::span(requests_).first(count));
    for (size_t i = 0; i < taken; ++i) {
      Slot& slot = slots_[queued_.Pop()];
      slot.state = Slot::State::kInFlight;
      if (slot.start_ns == 0) slot.start_ns = now_ns;
    }
    statistics_.num_reads += taken;
    starts_left -= taken;
    if (taken < count) return;
  }
}

void WholeReader::HandleCompletion(const ReadCompletion& completion, uint64_t now_ns) {
  const uint32_t index = static_cast<uint32_t>(completion.tag);
  if (index >= slots_.size() || slots_[index].generation != static_cast<uint32_t>(completion.tag >> 32))
    return;
  Slot& slot = slots_[index];
  if (slot.state != Slot::State::kInFlight) return;
  last_completion_ns_ = now_ns;
  if (completion.result > 0) statistics_.bytes_read += static_cast<uint64_t>(completion.result);
  if (slot.abandoned) {
    --num_abandoned_;
    if (slot.reported) {
      FreeSlot(index);
    } else {
      slot.abandoned = false;  // in finished_ still: it will be reported as an ordinary failure
      slot.state = Slot::State::kFinished;
    }
    return;
  }
  if (completion.result > 0) return HandleBytes(index, static_cast<uint64_t>(completion.result), now_ns);
  HandleError(index, static_cast<int>(-completion.result), now_ns);
}

void WholeReader::HandleBytes(uint32_t index, uint64_t got_bytes, uint64_t now_ns) {
  Slot& slot = slots_[index];
  if (slot.got_bytes + got_bytes >= slot.want_bytes) return Finish(index, now_ns);
  ++statistics_.num_short;
  // O_DIRECT continues at a multiple of the alignment: what came beyond it is read again.
  const uint64_t advance_bytes = RoundDown(got_bytes, slot.file->alignment_bytes());
  if (advance_bytes == 0) return HandleNoProgress(index, 0, got_bytes, now_ns);
  Advance(index, advance_bytes);
  Queue(index);
}

void WholeReader::HandleNoProgress(uint32_t index, int error_number, uint64_t partial_bytes,
                                   uint64_t now_ns) {
  Slot& slot = slots_[index];
  const bool at_end = error_number == 0 && EndsBefore(*slot.file, slot.offset_bytes + partial_bytes);
  if (at_end || ++slot.num_unproductive > kMaxUnproductive)
    return Fail(index, error_number, partial_bytes, now_ns);
  RetryLater(index, now_ns, UnproductivePauseNs(slot.num_unproductive));
}

void WholeReader::HandleError(uint32_t index, int error_number, uint64_t now_ns) {
  Slot& slot = slots_[index];
  if (error_number == EINTR || error_number == EAGAIN || error_number == ECANCELED) {
    return HandleNoProgress(index, error_number, 0, now_ns);
  }
  // 0 is the end of the file; when the file says that it is longer, it is treated as an error that may pass.
  const bool at_end = error_number == 0 && EndsBefore(*slot.file, slot.offset_bytes);
  if (at_end || slot.num_retries >= kMaxRetries) return Fail(index, error_number, 0, now_ns);
  ++statistics_.num_retries;
  RetryLater(index, now_ns, RetryPauseNs(slot.num_retries++));
}

void WholeReader::CheckDeadlines(uint64_t now_ns) {
  if (now_ns < next_deadline_check_ns_) return;
  next_deadline_check_ns_ = now_ns + std::min(kLongestCheckNs, deadlines_.fail_ns / 4);
  for (uint32_t i = 0; i < slots_.size(); ++i) {
    const Slot& slot = slots_[i];
    if (slot.state == Slot::State::kInFlight && !slot.abandoned &&
        now_ns - slot.start_ns >= deadlines_.fail_ns) {
      TimeOut(i, now_ns);
    }
  }
  // Queued reads do not run against their own clock (a long queue on a slow device is no fault), but when
  // nothing at all has come back for so long, the device hangs and their turn will not come.
  for (size_t left = queued_.size; left > 0; --left) {
    const uint32_t index = queued_.Pop();
    const uint64_t since_ns = std::max(slots_[index].queued_ns, last_completion_ns_);
    if (reader_->num_in_flight() > 0 && now_ns - since_ns >= deadlines_.fail_ns) {
      Fail(index, ETIMEDOUT, 0, now_ns);
    } else {
      queued_.Push(index);
    }
  }
}

// busy_ns is the sum of the intervals in which something was in flight, as seen at these calls: before and
// after every change of the number in flight.
void WholeReader::AccountBusy(uint64_t now_ns) {
  if (was_busy_) statistics_.busy_ns += now_ns - busy_mark_ns_;
  busy_mark_ns_ = now_ns;
  was_busy_ = reader_->num_in_flight() > 0;
}

std::string DescribeFailure(const ReadFailure& failure) {
  if (failure.error_number == 0) {
    return fmt::format("at offset {}: short read, {} of {} bytes: the file ends too early",
                       failure.offset_bytes, failure.got_bytes, failure.want_bytes);
  }
  return fmt::format("at offset {}: {}, {} of {} bytes read", failure.offset_bytes,
                     std::generic_category().message(failure.error_number), failure.got_bytes,
                     failure.want_bytes);
}

}  // namespace frugal
