// How many rows of a batch chose each neuron, from their active sets.
#pragma once

#include <cstddef>
#include <cstdint>

namespace frugal {

// counts[i] = rows whose word has bit i; the words lie `stride` apart. // counts [64]
inline void CountChosen(const uint64_t* words, size_t stride, uint32_t num_rows, uint32_t* counts) {
  // Binary counters side by side: plane p has bit p of all 64.
  uint64_t planes[32] = {};
  for (size_t row = 0; row < num_rows; ++row) {
    uint64_t carry = words[row * stride];
    for (size_t p = 0; carry != 0; ++p) {
      const uint64_t sum = planes[p] ^ carry;
      carry &= planes[p];
      planes[p] = sum;
    }
  }
  for (size_t bit = 0; bit < 64; ++bit) {
    counts[bit] = 0;
    for (size_t p = 0; num_rows >> p != 0; ++p) counts[bit] |= static_cast<uint32_t>((planes[p] >> bit) & 1) << p;
  }
}

}  // namespace frugal
