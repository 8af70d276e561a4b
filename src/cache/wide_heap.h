// A min-heap whose nodes have eight children in one cache line: of 400,000 slots an entry is six lines deep, where a binary heap's is
// nineteen, and nearly each of them is a wait for memory between two tokens' weights. Allocates in Reserve only.
#pragma once

#include <cstddef>
#include <cstdint>

#include "src/base/aligned_vector.h"
#include "src/base/check.h"

namespace frugal {

class WideHeap {
 public:
  struct Entry {
    float priority = 0;
    uint32_t item = 0;
  };

  // Bytes of a heap of that many entries.
  static uint64_t MemoryBytes(uint64_t capacity) { return (capacity + kOffset) * sizeof(Entry); }

  void Reserve(size_t capacity) { entries_.resize(capacity + kOffset); }
  bool empty() const { return size_ == 0; }

  // There must be room.
  void Push(Entry entry) {
    CHECK(size_ + kOffset < entries_.size());
    size_t at = size_++;
    for (; at > 0; at = Parent(at)) {
      const Entry& parent = node(Parent(at));
      if (parent.priority <= entry.priority) break;
      node(at) = parent;
    }
    node(at) = entry;
  }

  // The entry of lowest priority. Not for an empty heap.
  Entry Pop() {
    DCHECK(size_ > 0);
    const Entry lowest = node(0);
    const Entry last = node(--size_);
    size_t at = 0;
    while (true) {
      const size_t first = kChildren * at + 1;
      if (first >= size_) break;
      size_t least = first;
      const size_t end = first + kChildren < size_ ? first + kChildren : size_;
      for (size_t child = first + 1; child < end; ++child) {
        if (node(child).priority < node(least).priority) least = child;
      }
      if (node(least).priority >= last.priority) break;
      node(at) = node(least);
      at = least;
    }
    node(at) = last;
    return lowest;
  }

 private:
  static constexpr size_t kChildren = 8;
  // The first child of every node, at 8 i + 1, begins a line.
  static constexpr size_t kOffset = kChildren - 1;

  static size_t Parent(size_t at) { return (at - 1) / kChildren; }
  Entry& node(size_t at) { return entries_[at + kOffset]; }

  AlignedVector<Entry> entries_;
  size_t size_ = 0;
};

}  // namespace frugal
