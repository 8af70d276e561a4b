// Where the symbols of a word begin, while merging makes them fewer: a bitmap, 16 times smaller than a linked
// list and almost as fast. One thread.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

namespace frugal {

class Boundaries {
 public:
  // A symbol begins at each of `size` positions.
  void SetAll(uint32_t size) {
    size_ = size;
    bits_.assign(size / 64 + 1, ~uint64_t{0});  // the bit at `size` is set too, so that Next ends
  }
  // A symbol begins at none of them but the first.
  void SetFirst(uint32_t size) {
    size_ = size;
    bits_.assign(size / 64 + 1, 0);
    Set(0);
    Set(size);
  }
  void Set(uint32_t position) { bits_[position / 64] |= uint64_t{1} << (position % 64); }
  void Clear(uint32_t position) { bits_[position / 64] &= ~(uint64_t{1} << (position % 64)); }
  bool IsSet(uint32_t position) const { return (bits_[position / 64] >> (position % 64) & 1) != 0; }

  uint32_t size() const { return size_; }
  // The next symbol, or size() behind the last. `position` < size().
  uint32_t Next(uint32_t position) const {
    uint32_t word = (position + 1) / 64;
    uint64_t bits = bits_[word] & (~uint64_t{0} << ((position + 1) % 64));
    while (bits == 0) bits = bits_[++word];
    return word * 64 + static_cast<uint32_t>(std::countr_zero(bits));
  }
  // The symbol before `position`, which is above 0.
  uint32_t Previous(uint32_t position) const {
    uint32_t word = position / 64;
    uint64_t bits = bits_[word] & ~(~uint64_t{0} << (position % 64));
    while (bits == 0) bits = bits_[--word];  // ends: bit 0 is set
    return word * 64 + 63 - static_cast<uint32_t>(std::countl_zero(bits));
  }

 private:
  uint32_t size_ = 0;
  std::vector<uint64_t> bits_;  // [size_ / 64 + 1]
};

}  // namespace frugal
