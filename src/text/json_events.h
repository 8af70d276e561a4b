// JSON of a tokenizer, from an untrusted file: the vocabulary and the merges go straight into flat lists (a
// tree of 250,000 nodes would take ten times their text), the rest into a small tree. Limits: depth 64, no
// duplicate keys in the tree (duplicate tokens are found later, by content), only UTF-8. A byte order mark is
// skipped.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"

namespace frugal {

struct TokenizerDocument {
  struct Entry {
    std::string token;
    int32_t id;
    double score = 0.0;  // of a unigram model
  };
  nlohmann::json rest;              // all but the lists below
  std::vector<Entry> entries;       // of the vocabulary, in order of the file
  std::vector<std::string> merges;  // "left right"
  bool has_vocabulary = false;      // there was an object of tokens
  bool has_scored_vocabulary = false;  // there was an array of tokens with scores, as a unigram model has it
  bool has_merges = false;
};

enum class TokenizerDocumentKind {
  kTokenizerJson,  // `model.vocab` and `model.merges` go into the lists
  kVocabJson,      // the whole is the vocabulary
  kPlain,          // all of it goes into the tree
};

// kBadModel: "name: byte 17: ..." for what is not JSON, "name: model.vocab: ..." for what is out of bounds.
// Ids are 0 to 2^31 - 1.
Result<TokenizerDocument> ParseTokenizerDocument(std::string_view text, TokenizerDocumentKind kind,
                                                 const std::string& name);

}  // namespace frugal
