// Unigram language model (Kudo 2018, arXiv 1804.10959): of all ways to cut a word into tokens the one whose scores have the highest sum,
// found by Viterbi's algorithm. A character that is no token costs a penalty. Time is linear in the word's length times that of tokens.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "src/text/bpe.h"
#include "src/text/token_table.h"

namespace frugal {

// As BpeEncoder: one for each call of Tokenizer::Encode, about 24 bytes per byte of the longest word.
class UnigramEncoder {
 public:
  // `min_score`: the lowest of all tokens.
  UnigramEncoder(const TokenTable& table, const UnknownPolicy& unknown, double min_score);

  // Appends the tokens of `word`, UTF-8 of less than 2^32 bytes.
  void Encode(std::string_view word, std::vector<int32_t>& ids);

 private:
  static constexpr int32_t kUnknown = -1, kUnreached = -2;
  struct Node {
    double score;    // of the best way to end here
    uint32_t begin;  // of its last token
    int32_t id;      // that token
  };

  void Search(std::string_view word);
  void AddUnknown(std::string_view text, std::vector<int32_t>& ids) const;

  const TokenTable& table_;
  const UnknownPolicy unknown_;
  const double unknown_score_;
  std::vector<Node> nodes_;     // [word size + 1]
  std::vector<uint32_t> ends_;  // of the tokens of the best way, the last first
};

}  // namespace frugal
