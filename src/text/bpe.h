// Byte-pair encoding of one word: always the merge of the lowest rank, the leftmost first, until none
// applies. O(n log n) in the length of the word: a heap of candidates, and a bitmap instead of a linked list.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "src/text/boundaries.h"
#include "src/text/token_table.h"

namespace frugal {

// What becomes of a character that the vocabulary lacks (of a byte, where words are bytes).
struct UnknownPolicy {
  int32_t unknown_id = -1;    // -1: it is dropped
  bool byte_fallback = false;  // its bytes' tokens, where the vocabulary has all of them
  bool fuse = false;           // one unknown token for all that lie beside each other
};

// One encoder per call of Tokenizer::Encode; its buffers serve every word. Working memory is up to about 30
// bytes per byte of the longest word (a word of 10 MB takes 300 MB), so a caller with a budget limits the
// text.
class BpeEncoder {
 public:
  // The table outlives the encoder.
  BpeEncoder(const TokenTable& table, const UnknownPolicy& unknown) : table_(table), unknown_(unknown) {}

  // Appends the tokens of `word`, of less than 2^32 bytes.
  void Encode(std::string_view word, std::vector<int32_t>& ids);

 private:
  void AddSymbols(std::string_view word);
  bool TryAddBytes(std::string_view character);
  void PushCandidate(uint32_t left, uint32_t right);
  void Merge(uint32_t left, uint32_t right, uint32_t rank);

  const TokenTable& table_;
  const UnknownPolicy unknown_;
  std::vector<uint32_t> symbols_;     // the token that begins here, where starts_ says that one does
  Boundaries starts_;
  std::vector<uint64_t> candidates_;  // heap, lowest first: rank << 32 | position of the left symbol
};

}  // namespace frugal
