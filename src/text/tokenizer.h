// Text <-> token ids, exactly as Hugging Face's `tokenizers` do it. Byte-level BPE with the GPT-2 pre-tokenisation (more kinds come
// later). The vocabulary lies in one arena (a few contiguous arrays and hash tables, no node per token), so that its memory is one line of
// the ledger. Immutable after construction, any thread may use it; each Encode allocates only its own result.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "src/text/vocabulary.h"

namespace frugal {

enum class SpecialTokens { kAdd, kOmit };    // the post-processor's (</s> in front, for OPT)
enum class ShowSpecial { kYes, kSkip };      // whether decoding prints special tokens

class Tokenizer {
 public:
  // Checks the vocabulary: ids below 2^31, no duplicate or empty token, merges of known tokens whose result is known, ...
  // kBadModel with `name` (the file) and the place.
  static Result<Tokenizer> Create(const Vocabulary& vocabulary, const std::string& name);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // Text of added tokens (special ones too) in the input is recognised, as `tokenizers` does by default. Invalid UTF-8 is
  // an error (kUsage) that names the byte offset. Time is near linear in the length: 10 MB of one letter is fine.
  Result<std::vector<int32_t>> Encode(std::string_view text, SpecialTokens special) const;
  // Bytes of the ids; an id outside the vocabulary gives nothing. Incomplete UTF-8 becomes U+FFFD as `tokenizers` do it.
  std::string Decode(std::span<const int32_t> ids, ShowSpecial show) const;
  // Raw bytes of one token (may be a part of a UTF-8 character), for streaming through Utf8Stream.
  std::string_view TokenBytes(int32_t id) const;
  bool IsSpecial(int32_t id) const;

  int32_t vocab_size() const;  // largest id + 1
  // Bytes held (arena), for the ledger.
  uint64_t memory_bytes() const;

 private:
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
