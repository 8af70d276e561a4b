#include "src/io/fault_reader.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "src/base/bytes.h"

namespace frugal {
namespace {

// What a caller finds behind a cut if it looks there without having read it.
constexpr std::byte kGarbage{0xA5};

uint64_t TotalBytes(std::span<const iovec> segments) {
  uint64_t total = 0;
  for (const iovec& segment : segments) total += segment.iov_len;
  return total;
}

// The byte at `offset` of the scattered destination.
std::byte& ByteAt(std::span<const iovec> segments, uint64_t offset) {
  size_t i = 0;
  while (offset >= segments[i].iov_len) offset -= segments[i++].iov_len;
  return static_cast<std::byte*>(segments[i].iov_base)[offset];
}

}  // namespace

FaultReader::FaultReader(std::unique_ptr<ExtentReader> inner, const FaultOptions& options)
    : inner_(std::move(inner)),
      options_(options),
      name_(fmt::format("fault({})", inner_->name())),
      random_(options.seed),
      slots_(inner_->queue_depth()),
      completed_(inner_->queue_depth()),
      fail_times_left_(options.fail_times) {
  CHECK(options.short_multiple_bytes > 0 && options.flip_bit < 8);
  held_.reserve(slots_.size());
  free_slots_.reserve(slots_.size());
  for (size_t i = slots_.size(); i > 0; --i) free_slots_.push_back(static_cast<uint32_t>(i - 1));
}

FaultReader::~FaultReader() = default;  // `inner_` drains what it has; held completions need no device

std::optional<int64_t> FaultReader::DecideFailure(const ReadRequest& request, uint64_t number) {
  if (options_.fail_read == number) failing_ = request;
  if (failing_ && fail_times_left_ > 0 && request.fd == failing_->fd &&
      request.offset_bytes <= failing_->offset_bytes &&
      failing_->offset_bytes < request.offset_bytes + TotalBytes(request.destinations)) {
    if (fail_times_left_ != FaultOptions::kAlways) --fail_times_left_;
    return -options_.fail_error;
  }
  if (random_.Uniform() < options_.eintr_probability) return -EINTR;
  if (random_.Uniform() < options_.eagain_probability) return -EAGAIN;
  if (random_.Uniform() < options_.eof_probability) return 0;
  return std::nullopt;
}

size_t FaultReader::Submit(std::span<const ReadRequest> requests) {
  size_t taken = 0;
  while (taken < requests.size() && !free_slots_.empty()) {
    const uint32_t index = free_slots_.back();
    slots_[index].request = requests[taken];
    if (const std::optional<int64_t> failure = DecideFailure(requests[taken], num_reads_seen_)) {
      ++num_faults_;
      free_slots_.pop_back();
      Hold(index, *failure);
    } else {
      ReadRequest inner_request = requests[taken];
      inner_request.tag = index;
      if (inner_->Submit({&inner_request, 1}) == 0) break;
      free_slots_.pop_back();
    }
    ++num_reads_seen_;
    ++taken;
  }
  return taken;
}

void FaultReader::Hold(uint32_t index, int64_t result) {
  slots_[index].result = result;
  slots_[index].reaps_left = static_cast<uint32_t>(random_.Below(uint64_t{options_.max_delay_reaps} + 1));
  held_.push_back(index);
}

void FaultReader::Cut(const ReadRequest& request, int64_t& result) {
  if (result <= static_cast<int64_t>(options_.short_multiple_bytes)) return;
  if (random_.Uniform() >= options_.short_probability) return;
  const uint64_t num_cuts = (static_cast<uint64_t>(result) - 1) / options_.short_multiple_bytes;
  const int64_t cut = static_cast<int64_t>((1 + random_.Below(num_cuts)) * options_.short_multiple_bytes);
  int64_t position = 0;
  for (const iovec& segment : request.destinations) {
    const int64_t length = static_cast<int64_t>(segment.iov_len);
    const int64_t begin = std::clamp<int64_t>(cut - position, 0, length);
    const int64_t end = std::clamp<int64_t>(result - position, 0, length);
    std::byte* base = static_cast<std::byte*>(segment.iov_base);
    std::fill(base + begin, base + std::max(begin, end), kGarbage);
    position += length;
  }
  result = cut;
  ++num_faults_;
}

void FaultReader::Flip(const ReadRequest& request, int64_t result) {
  if (!options_.flip_offset_bytes || (options_.flip_fd >= 0 && options_.flip_fd != request.fd)) return;
  const uint64_t every = options_.flip_every_bytes;
  const uint64_t end = request.offset_bytes + static_cast<uint64_t>(result);
  uint64_t offset = *options_.flip_offset_bytes;
  if (every > 0 && offset < request.offset_bytes) offset += RoundUp(request.offset_bytes - offset, every);
  if (offset < request.offset_bytes) return;
  for (; offset < end; offset += every) {
    ByteAt(request.destinations, offset - request.offset_bytes) ^= std::byte{1} << options_.flip_bit;
    ++num_faults_;
    if (every == 0) return;
  }
}

// Moves what the inner reader has finished to held_.
void FaultReader::Collect(WaitMode mode) {
  const size_t count = inner_->Reap(completed_, mode);
  for (size_t i = 0; i < count; ++i) {
    const uint32_t index = static_cast<uint32_t>(completed_[i].tag);
    int64_t result = completed_[i].result;
    if (result > 0) {
      Cut(slots_[index].request, result);
      Flip(slots_[index].request, result);
    }
    Hold(index, result);
  }
}

void FaultReader::ReleaseAt(size_t held, ReadCompletion& completion) {
  const uint32_t index = held_[held];
  completion = {slots_[index].request.tag, slots_[index].result};
  held_[held] = held_.back();
  held_.pop_back();
  free_slots_.push_back(index);
}

size_t FaultReader::Reap(std::span<ReadCompletion> completions, WaitMode mode) {
  if (completions.empty() || num_in_flight() == 0) return 0;
  Collect(WaitMode::kPoll);
  if (held_.empty() && mode == WaitMode::kBlock) Collect(WaitMode::kBlock);

  size_t num_due = 0;  // those that are due are moved to the front of held_
  for (size_t i = 0; i < held_.size(); ++i) {
    Slot& slot = slots_[held_[i]];
    if (slot.reaps_left > 0) {
      --slot.reaps_left;
    } else {
      std::swap(held_[i], held_[num_due++]);
    }
  }
  if (num_due == 0 && mode == WaitMode::kBlock && !held_.empty()) {
    std::swap(held_[0], held_[random_.Below(held_.size())]);
    num_due = 1;
  }
  size_t count = 0;
  while (num_due > 0 && count < completions.size()) {
    if (options_.max_delay_reaps > 0) std::swap(held_[num_due - 1], held_[random_.Below(num_due)]);
    ReleaseAt(num_due - 1, completions[count++]);
    --num_due;
  }
  return count;
}

}  // namespace frugal
