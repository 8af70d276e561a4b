// Streams a cyclic or one-way list of large sequential reads through a few buffers, ahead of their use. A buffer is overwritten
// only after its group was released. Engine thread only.
#pragma once

#include <array>
#include <span>
#include <vector>

#include "src/base/aligned_buffer.h"
#include "src/io/whole_reader.h"
#include "src/model/weight_plan.h"

namespace frugal {

class StreamRing {
 public:
  // `tag_owner`: the bits of WholeRead::tag that say "this ring's".
  // `files`: StreamGroup::file_index counts in them; they outlive this.
  static Result<StreamRing> Create(std::span<const File> files, WholeReader& reader, uint64_t buffer_bytes, uint32_t num_buffers,
                                   uint64_t tag_owner);
  StreamRing(StreamRing&&) = default;

  // More buffers, in borrowed memory of the reader's alignment, until Shrink; both between lists. So many reads are in flight at once as
  // there are buffers of its own: of more, the first would be done late.
  void Extend(std::span<std::byte> memory);
  void Shrink() { Extend({}); }

  enum class Order { kCyclic, kOnce };
  // Begins a list; the former one must be used up (kOnce) or never change (kCyclic). `groups` is borrowed.
  void Start(std::span<const StreamGroup> groups, Order order, bool read_ahead);
  // Group `sequence` (0, 1, 2, ... in order of use; cyclic lists count on): submits what there is room for.
  void Advance();
  bool ready(uint64_t sequence) const;
  const std::byte* data(uint64_t sequence) const;
  // Gives the buffer back and reads ahead. In order.
  void Release(uint64_t sequence);
  // Asks for group `sequence` when nothing is read ahead.
  void Demand(uint64_t sequence);
  void OnCompletion(const WholeCompletion& completion);
  // What a read of this ring was for.
  const StreamGroup& GroupOf(const WholeCompletion& completion) const;
  uint64_t next_to_release() const { return next_release_; }
  const StreamGroup& group(uint64_t sequence) const { return groups_[sequence % groups_.size()]; }
  bool active() const { return !groups_.empty(); }

 private:
  StreamRing(std::span<const File> files, WholeReader& reader, uint64_t buffer_bytes, uint32_t num_buffers, uint64_t tag_owner);
  static constexpr uint32_t kMostBuffers = 64;
  bool TrySubmit(uint64_t sequence);
  std::byte* BufferAt(uint64_t buffer) {
    return buffer < num_own_ ? memory_.data() + buffer * buffer_bytes_ : borrowed_.data() + (buffer - num_own_) * buffer_bytes_;
  }

  std::span<const File> files_;
  WholeReader* reader_;
  uint64_t buffer_bytes_;
  uint32_t num_own_;
  uint32_t num_buffers_;
  uint64_t tag_owner_;
  AlignedBuffer memory_;                // [num_own, buffer_bytes]
  std::span<std::byte> borrowed_;       // [num_buffers - num_own, buffer_bytes]
  std::array<uint8_t, kMostBuffers> ready_{};
  uint32_t num_reading_ = 0;
  std::span<const StreamGroup> groups_;
  Order order_ = Order::kOnce;
  bool read_ahead_ = true;
  uint64_t next_submit_ = 0;
  uint64_t next_release_ = 0;
};

}  // namespace frugal
