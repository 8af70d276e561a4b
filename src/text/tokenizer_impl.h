// What a Tokenizer holds; for tokenizer.cc and tokenizer_builder.cc only.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "src/text/added_tokens.h"
#include "src/text/bpe.h"
#include "src/text/text_steps.h"
#include "src/text/token_decoder.h"
#include "src/text/token_table.h"
#include "src/text/tokenizer.h"

namespace frugal {

enum class WordModel { kMerges, kScores, kUnigram };

struct TokenizerParts {
  TokenizerParts(TokenTable token_table, TextSteps normal, TextSteps words, std::vector<DecodeStep> decoder_steps)
      : table(std::move(token_table)),
        normalizer(std::move(normal)),
        pre_tokenizer(std::move(words)),
        decoder(std::move(decoder_steps)) {}

  bool IsSpecial(uint32_t id) const {
    return table.kind(id) == TokenKind::kControl || table.kind(id) == TokenKind::kUnknown;
  }

  TokenTable table;
  TextSteps normalizer;
  TextSteps pre_tokenizer;
  TokenDecoder decoder;
  AddedTokenMatcher added_tokens;
  std::vector<int32_t> prefix_ids;
  std::vector<int32_t> suffix_ids;
  WordModel model = WordModel::kMerges;
  UnknownPolicy unknown;
  bool words_are_spelled = false;      // the pre-tokenizer gives words in the byte-level alphabet
  bool normalizes_characters = false;  // a character may come of several
  bool ignore_merges = false;
  double min_score = 0.0;
  uint64_t max_token_bytes = 0;
};

struct Tokenizer::Impl : TokenizerParts {
  using TokenizerParts::TokenizerParts;
};

}  // namespace frugal
