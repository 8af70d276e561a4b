// What a Tokenizer holds; for tokenizer.cc and tokenizer_builder.cc only.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "src/text/added_tokens.h"
#include "src/text/pre_tokenizer.h"
#include "src/text/token_table.h"
#include "src/text/tokenizer.h"

namespace frugal {

struct TokenizerParts {
  TokenizerParts(TokenTable token_table, PreTokenizer words)
      : table(std::move(token_table)), pre_tokenizer(std::move(words)) {}

  bool IsSpecial(uint32_t id) const {
    return table.kind(id) == TokenKind::kControl || table.kind(id) == TokenKind::kUnknown;
  }

  TokenTable table;
  PreTokenizer pre_tokenizer;
  AddedTokenMatcher added_tokens;
  std::vector<int32_t> prefix_ids;
  std::vector<int32_t> suffix_ids;
  int32_t unknown_id = -1;
  bool add_prefix_space = false;
  bool use_regex = true;
  bool ignore_merges = false;
  uint64_t max_token_bytes = 0;
};

struct Tokenizer::Impl : TokenizerParts {
  using TokenizerParts::TokenizerParts;
};

}  // namespace frugal
