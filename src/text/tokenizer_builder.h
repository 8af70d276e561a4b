// Builds a Tokenizer token by token, so that a vocabulary of 256k tokens can go from a GGUF's array into the
// arena without a std::string per token in between. One thread; used once.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "src/base/result.h"
#include "src/text/tokenizer.h"
#include "src/text/vocabulary.h"

namespace frugal {

class TokenizerBuilder {
 public:
  // Of `settings` everything but tokens, kinds, scores and merges is copied. The counts are exact;
  // `total_token_bytes` is at least the sum of the sizes of the tokens as they will be given. See Begin for when
  // the arena is allocated.
  TokenizerBuilder(const Vocabulary& settings, uint64_t num_tokens, uint64_t num_merges,
                   uint64_t total_token_bytes);
  ~TokenizerBuilder();
  TokenizerBuilder(const TokenizerBuilder&) = delete;
  TokenizerBuilder& operator=(const TokenizerBuilder&) = delete;

  // Checks the settings and allocates the arena; else the first Add or Finish does.
  Status Begin();
  // In order of id, all before the first merge. kBadModel with the id and what is wrong; after an error the
  // builder is of no more use.
  Status AddToken(std::string_view spelled, TokenKind kind, double score = 0.0);
  // "left right", in order of rank.
  Status AddMerge(std::string_view left_right);
  // kBadModel with `name` in front: what is missing, not supported or out of bounds.
  Result<Tokenizer> Finish(const std::string& name);

 private:
  Status CheckSettings() const;

  Vocabulary settings_;  // without tokens, kinds, scores, merges
  const uint64_t num_tokens_, num_merges_, total_token_bytes_;
  std::unique_ptr<Tokenizer::Impl> impl_;
};

}  // namespace frugal
