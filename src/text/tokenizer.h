// Text <-> token ids, exactly as Hugging Face's `tokenizers` or SentencePiece do it: BPE of bytes or of characters,
// by merges or by scores, and unigram models, with what a pipeline (pipeline.h) does before and behind. The
// vocabulary lies in one arena (a few contiguous arrays and hash tables, no node per token), so that its memory is
// one line of the ledger. Immutable after construction, any thread may use it. What Encode allocates (its result,
// 30 KiB, up to 30 bytes per byte of the longest word, and what normalisation makes of a text: up to 8 bytes per
// byte) is its own and gone when it returns. Where nothing splits a text into words (most vocabularies of
// SentencePiece) all of it is one word.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "src/text/token_decoder.h"
#include "src/text/vocabulary.h"

namespace frugal {

enum class SpecialTokens { kAdd, kOmit };  // the post-processor's (</s> in front, for OPT)
enum class ShowSpecial { kYes, kSkip };    // whether decoding prints special tokens

class Tokenizer {
 public:
  // Longer texts are refused: a word's positions are 32-bit numbers.
  static constexpr uint64_t kMaxTextBytes = uint64_t{1} << 30;
  // Enough for the added tokens of a usual vocabulary.
  static constexpr uint64_t kUsualAddedTokens = 64;

  // Checks the vocabulary: ids below 2^31, no duplicate or empty token, merges of known tokens whose result
  // is known, ... kBadModel with `name` (the file) and the place. TokenizerBuilder (tokenizer_builder.h) does
  // the same from a stream.
  static Result<Tokenizer> Create(const Vocabulary& vocabulary, const std::string& name);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // Text of added tokens (special ones too) in the input is recognised, as `tokenizers` does by default.
  // Invalid UTF-8 is an error (kUsage) that names the byte offset, as is a text above kMaxTextBytes. Time is
  // near linear in the length: 10 MB of one letter is fine. kOutOfMemory when memory is refused.
  Result<std::vector<int32_t>> Encode(std::string_view text, SpecialTokens special) const;
  // Bytes of the ids; an id outside the vocabulary gives nothing. Incomplete UTF-8 becomes U+FFFD as
  // `tokenizers` do it.
  std::string Decode(std::span<const int32_t> ids, ShowSpecial show) const;
  // Raw bytes of one token (may be a part of a UTF-8 character), for streaming through Utf8Stream: with kFirst for
  // the first token of a text the stream is what Decode gives, but where bytes are no UTF-8 (the decoders of models
  // with byte fallback mark each of them) or the decoder drops something from the end. kLater: in the middle of a
  // text, as for what continues a prompt.
  std::string TokenBytes(int32_t id, TokenPlace place = TokenPlace::kLater) const;
  bool IsSpecial(int32_t id) const;

  int32_t vocab_size() const;  // largest id + 1
  // The token spelled so in the vocabulary ("</s>", "Ġthe", "▁the"), -1 if there is none.
  int32_t FindToken(std::string_view spelled) const;
  // Size of the longest token (four times that where characters are composed): a text of more than n times that is
  // more than n tokens, whatever it says, but for spaces that are dropped and unknown characters that are one token
  // together.
  uint64_t max_token_bytes() const;
  // Bytes held (arena, added tokens, compiled expressions), for the ledger.
  uint64_t memory_bytes() const;
  // memory_bytes() of a tokenizer to be built: never below it, and above it by less than 5% where a
  // vocabulary has a thousand tokens or more. `total_token_bytes` is the sum of the tokens' sizes as spelled
  // in the vocabulary; `num_added_tokens` counts the kinds kControl, kUserDefined and kUnknown, and matters
  // above kUsualAddedTokens. `settings` is the vocabulary without its tokens and merges.
  static uint64_t EstimateMemoryBytes(uint64_t num_tokens, uint64_t num_merges, uint64_t total_token_bytes,
                                      uint64_t num_added_tokens = kUsualAddedTokens,
                                      const Vocabulary& settings = Vocabulary());

 private:
  friend class TokenizerBuilder;
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Collects bytes and releases only whole UTF-8 characters, so that a terminal never sees half of one.
class Utf8Stream {
 public:
  std::string Push(std::string_view bytes);  // what can be printed now
  std::string Flush();                       // the rest; incomplete sequences become U+FFFD

 private:
  std::string pending_;
};

}  // namespace frugal
