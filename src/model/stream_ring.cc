#include "src/model/stream_ring.h"

#include <algorithm>

#include "src/base/bytes.h"
#include "src/base/cache_lines.h"

namespace frugal {

StreamRing::StreamRing(std::span<const File> files, WholeReader& reader, uint64_t buffer_bytes, uint32_t num_buffers, uint64_t tag_owner)
    : files_(files),
      reader_(&reader),
      buffer_bytes_(buffer_bytes),
      num_own_(num_buffers),
      num_buffers_(num_buffers),
      tag_owner_(tag_owner) {}

Result<StreamRing> StreamRing::Create(std::span<const File> files, WholeReader& reader, uint64_t buffer_bytes, uint32_t num_buffers,
                                      uint64_t tag_owner) {
  CHECK(num_buffers > 0 && num_buffers <= kMostBuffers);
  StreamRing ring(files, reader, RoundUp(buffer_bytes, 4096), num_buffers, tag_owner);
  FRUGAL_ASSIGN(ring.memory_, AlignedBuffer::Allocate(ring.buffer_bytes_ * num_buffers));
  return ring;
}

void StreamRing::Extend(std::span<std::byte> memory) {
  CHECK(next_submit_ == next_release_);  // nothing in flight, nothing in use
  borrowed_ = memory;
  num_buffers_ = static_cast<uint32_t>(std::min<uint64_t>(num_own_ + memory.size() / buffer_bytes_, kMostBuffers));
}

void StreamRing::Start(std::span<const StreamGroup> groups, Order order, bool read_ahead) {
  CHECK(next_submit_ == next_release_);  // nothing in flight, nothing in use
  groups_ = groups;
  order_ = order;
  read_ahead_ = read_ahead;
  next_submit_ = 0;
  next_release_ = 0;
  Advance();
}

void StreamRing::Advance() {
  if (!read_ahead_) return;
  while (next_submit_ - next_release_ < num_buffers_ && num_reading_ < num_own_) {
    if (order_ == Order::kOnce && next_submit_ == groups_.size()) return;
    if (!TrySubmit(next_submit_)) return;
  }
}

void StreamRing::Demand(uint64_t sequence) {
  if (next_submit_ > sequence) return;
  CHECK(sequence == next_submit_ && next_submit_ - next_release_ < num_buffers_);
  TrySubmit(sequence);
}

bool StreamRing::TrySubmit(uint64_t sequence) {
  const StreamGroup& wanted = group(sequence);
  CHECK(wanted.extent.size_bytes <= buffer_bytes_);
  const uint32_t buffer = static_cast<uint32_t>(sequence % num_buffers_);
  const File& file = files_[wanted.file_index];
  // A group ends at a multiple of 4096, a file anywhere; the reader takes an end that the device's alignment asks for.
  const uint64_t file_end = RoundUp(file.size_bytes(), file.alignment_bytes());
  const uint64_t size_bytes = std::min(wanted.extent.end_bytes(), file_end) - wanted.extent.offset_bytes;
  const iovec destination = {BufferAt(buffer), size_bytes};
  WholeRead read;
  read.file = &file;
  read.offset_bytes = wanted.extent.offset_bytes;
  read.destinations = {&destination, 1};
  read.tag = tag_owner_ | buffer;
  ready_[buffer] = 0;
  if (!reader_->TrySubmit(read)) return false;
  ++next_submit_;
  ++num_reading_;
  return true;
}

bool StreamRing::ready(uint64_t sequence) const { return sequence < next_submit_ && ready_[sequence % num_buffers_] != 0; }

const std::byte* StreamRing::data(uint64_t sequence) const {
  DCHECK(ready(sequence));
  return const_cast<StreamRing*>(this)->BufferAt(sequence % num_buffers_);
}

void StreamRing::Release(uint64_t sequence) {
  CHECK(sequence == next_release_);
  FlushCacheLines({data(sequence), group(sequence).extent.size_bytes});
  ++next_release_;
  Advance();
}

const StreamGroup& StreamRing::GroupOf(const WholeCompletion& completion) const {
  const uint64_t buffer = completion.tag & ~tag_owner_;
  // The only one of the groups in the buffers that is in this one.
  return group(next_release_ + (buffer + num_buffers_ - next_release_ % num_buffers_) % num_buffers_);
}

void StreamRing::OnCompletion(const WholeCompletion& completion) {
  ready_[completion.tag & ~tag_owner_] = 1;
  --num_reading_;
}

}  // namespace frugal
