// What a tokenizer is made of, as plain data: read from Hugging Face files (vocabulary_huggingface.h) or from a GGUF's keys
// by the engine, written into a GGUF by pack. No behaviour.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "src/base/result.h"

namespace frugal {

enum class TokenKind : uint8_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };  // GGUF's token_type

struct AddedToken {
  int32_t id = 0;
  std::string content;  // plain text, not the byte-level alphabet
  bool special = false;
  bool lstrip = false, rstrip = false, single_word = false, normalized = false;
};

struct Vocabulary {
  std::string model = "gpt2";          // GGUF's tokenizer.ggml.model: "gpt2" is byte-level BPE
  std::string pre_tokenizer = "gpt-2";  // GGUF's tokenizer.ggml.pre
  bool add_prefix_space = false;
  bool use_regex = true;
  bool ignore_merges = false;
  std::vector<std::string> tokens;     // by id, in the byte-level alphabet ("Ġthe"); holes are "" of kind kUnused
  std::vector<TokenKind> kinds;        // by id
  std::vector<std::string> merges;     // "left right" in the byte-level alphabet, by rank
  std::vector<AddedToken> added_tokens;
  std::vector<int32_t> prefix_ids;     // what the post-processor puts in front: {2} for OPT
  std::vector<int32_t> suffix_ids;     // and behind
  int32_t bos_id = -1, eos_id = -1, pad_id = -1, unk_id = -1;  // -1: none
};

// tokenizer.json if it is there, else vocab.json + merges.txt (then special tokens come from tokenizer_config.json /
// special_tokens_map.json / config.json; without these, OPT's: </s> in front (id 2), <pad> (1); the cases of
// shared/tokenizers/opt show it). kFailed with "no tokenizer" when there is neither; kBadModel with file and place for what is broken or
// not supported (named: "pre_tokenizer type Metaspace is not supported").
Result<Vocabulary> ReadHuggingFaceVocabulary(const std::string& directory);
// Parsers of the single files, for tests and fuzzers. `name` is for messages.
Result<Vocabulary> ParseTokenizerJson(std::string_view text, const std::string& name);
Result<Vocabulary> ParseVocabAndMerges(std::string_view vocab_json, std::string_view merges_txt, const std::string& name);

}  // namespace frugal
