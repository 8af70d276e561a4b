// SentencePiece's BPE (Kudo and Richardson 2018, arXiv 1808.06226; its bpe_model.cc): of two neighbours whose texts together are a token,
// those of the highest score become one, the leftmost first, until none do. What is no token in the end is spelled by bytes, or unknown.
// O(n log n) in the length of the word.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "src/text/boundaries.h"
#include "src/text/bpe.h"
#include "src/text/token_table.h"

namespace frugal {

// As BpeEncoder: one for each call of Tokenizer::Encode, up to about 30 bytes per byte of the longest word.
class ScoreEncoder {
 public:
  ScoreEncoder(const TokenTable& table, const UnknownPolicy& unknown) : table_(table), unknown_(unknown) {}

  // Appends the tokens of `word`, UTF-8 of less than 2^32 bytes.
  void Encode(std::string_view word, std::vector<int32_t>& ids);

 private:
  struct Candidate {
    uint32_t order;  // the lowest comes first: a higher score
    uint32_t left;   // where the left symbol begins
    uint32_t size_bytes;
    bool operator>(const Candidate& other) const {
      return order != other.order ? order > other.order : left > other.left;
    }
  };

  // The token that this text is, unless it is one that no text gives (<s>, <0x0A>); -1: none.
  int32_t FindPiece(std::string_view text) const;
  bool TryPush(uint32_t left, uint32_t right);
  void Merge(const Candidate& candidate);
  void AddIds(std::vector<int32_t>& ids) const;

  const TokenTable& table_;
  const UnknownPolicy unknown_;
  std::string_view word_;
  Boundaries starts_;  // of the bytes of the word
  std::vector<Candidate> candidates_;
};

}  // namespace frugal
