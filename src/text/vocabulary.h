// What a tokenizer is made of, as plain data: read from Hugging Face files (below) or from a GGUF's keys by
// the engine, written into a GGUF by pack. No behaviour.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"

namespace frugal {

// GGUF's tokenizer.ggml.token_type.
enum class TokenKind : uint8_t {
  kNormal = 1,
  kUnknown = 2,      // an added, special token
  kControl = 3,      // an added, special token
  kUserDefined = 4,  // an added token that is not special
  kUnused = 5,       // a hole, or (not in "gpt2") a token that no text gives
  kByte = 6,         // "<0x0A>"
};

struct AddedToken {
  int32_t id = 0;
  std::string content;  // plain text, not the byte-level alphabet
  bool special = false;
  bool lstrip = false, rstrip = false, single_word = false, normalized = false;
};

struct Vocabulary {
  // GGUF's tokenizer.ggml.model: "gpt2" is byte-level BPE; "llama" is BPE of characters, by its merges if there are any, else by its
  // scores as SentencePiece does it; "t5" is a unigram model.
  std::string model = "gpt2";
  std::string pre_tokenizer = "gpt-2";  // GGUF's tokenizer.ggml.pre; only "gpt2" has them
  // How text becomes words and tokens text, where the names above do not say it all: see ParsePipeline (pipeline.h). Else "".
  std::string pipeline;
  bool add_prefix_space = false;
  bool use_regex = true;
  bool ignore_merges = false;
  bool byte_fallback = false;         // of "llama" and "t5": a character that no token spells is spelled by bytes
  bool removes_extra_spaces = false;  // SentencePiece: outer spaces go, and all but one of those between words
  // As SentencePiece, which has no added tokens: only those listed below are recognised in a raw text. Tokens of kind kUserDefined are
  // looked for in the normalised text, and the text of a kControl or kUnknown is ordinary text.
  bool sentencepiece = false;
  // By id, as the model spells them: for "gpt2" in the byte-level alphabet ("Ġthe"), else "▁the". Holes are "" of kind kUnused.
  std::vector<std::string> tokens;
  std::vector<TokenKind> kinds;     // by id
  std::vector<double> scores;       // by id: of "llama" without merges, and of "t5"; else empty
  std::vector<std::string> merges;  // "left right", spelled as tokens are, by rank
  // Each is also in `tokens`, as `content`, with a kind that says added and whether special: a GGUF without
  // the flags below loses nothing but them, and a tokenizer takes every token of such a kind for an added
  // one.
  std::vector<AddedToken> added_tokens;
  std::vector<int32_t> prefix_ids;  // what the post-processor puts in front: {2} for OPT
  std::vector<int32_t> suffix_ids;  // and behind
  int32_t bos_id = -1, eos_id = -1, pad_id = -1, unk_id = -1;  // -1: none
};

// The flags of an added token as one number, for an array in a GGUF: bit 0 special, 1 lstrip, 2 rstrip, 3
// single_word, 4 normalized. Unknown bits are ignored.
uint32_t AddedTokenFlags(const AddedToken& token);
AddedToken MakeAddedToken(int32_t id, std::string_view content, uint32_t flags);

// Whether a model of this name has a score for each token.
bool HasScores(std::string_view model, uint64_t num_merges);

// tokenizer.json if it is there, else tokenizer.model, else vocab.json + merges.txt (or gpt2-vocab.json +
// gpt2-merges.txt, as OPT was first published). Then added tokens come from tokenizer_config.json, special_tokens_map.json,
// added_tokens.json and config.json; without these, OPT's are </s>, put in front, and <pad> (its <s> in a
// text is ordinary text), GPT-2's <|endoftext|>. bos_id, eos_id and pad_id come from the same files with a
// tokenizer.json too. kFailed with "no tokenizer" when there is neither; kIo; kBadModel with file and place
// for what is broken or not supported (named: "pre_tokenizer type UnicodeScripts is not supported").
Result<Vocabulary> ReadHuggingFaceVocabulary(const std::string& directory);
// The same from only one kind of file.
enum class TokenizerFiles { kAny, kTokenizerJson, kSentencePiece, kVocabAndMerges };
Result<Vocabulary> ReadHuggingFaceVocabulary(const std::string& directory, TokenizerFiles files);
// Parsers of the single files, for tests and fuzzers. `name` is for messages.
Result<Vocabulary> ParseTokenizerJson(std::string_view text, const std::string& name);
// A SentencePiece model (tokenizer.model): the tokens, and how its trainer was told to treat text.
Result<Vocabulary> ParseSentencePiece(std::string_view bytes, const std::string& name);
Result<Vocabulary> ParseVocabAndMerges(std::string_view vocab_json, std::string_view merges_txt,
                                       const std::string& name);

}  // namespace frugal
