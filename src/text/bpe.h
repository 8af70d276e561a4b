// Byte-pair encoding of one word: always the merge of the lowest rank, the leftmost first, until none
// applies. O(n log n) in the length of the word: a heap of candidates, and a bitmap instead of a linked list.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "src/text/token_table.h"

namespace frugal {

// One encoder per call of Tokenizer::Encode; its buffers serve every word. Working memory is up to about 30
// bytes per byte of the longest word (a word of 10 MB takes 300 MB), so a caller with a budget limits the
// text.
class BpeEncoder {
 public:
  // `unknown_id`: what stands for a byte that the vocabulary lacks, -1 drops it. The table outlives the
  // encoder.
  BpeEncoder(const TokenTable& table, int32_t unknown_id) : table_(table), unknown_id_(unknown_id) {}

  // Appends the tokens of `word`, of less than 2^32 bytes.
  void Encode(std::string_view word, std::vector<int32_t>& ids);

 private:
  void PushCandidate(uint32_t left, uint32_t right);
  void Merge(uint32_t left, uint32_t right, uint32_t rank);
  uint32_t Next(uint32_t position) const;
  uint32_t Previous(uint32_t position) const;

  const TokenTable& table_;
  const int32_t unknown_id_;
  uint32_t size_ = 0;                 // symbols at the beginning
  std::vector<uint32_t> symbols_;     // [size_] the token that begins here, where starts_ says that one does
  std::vector<uint64_t> starts_;      // [size_ / 64 + 1] bit i: a symbol begins at i; bit size_ is always set
  std::vector<uint64_t> candidates_;  // heap, lowest first: rank << 32 | position of the left symbol
};

}  // namespace frugal
