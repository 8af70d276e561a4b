// Tokens and merges in one arena: a few arrays and two open-addressing hash tables, no node per token. Filled
// once, in order of id and then of rank; read-only and free to share between threads afterwards.
//
// Bytes per token: 4 (offset) + 2 (flags) + 5 1/3 (slots) + its text, with scores 8 + 4 (its place by text) more;
// per merge: 12 + 5 1/3. The whole is allocated, and charged, when the table is made, so that the ledger can know
// it before.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

#include "src/base/aligned_buffer.h"
#include "src/base/function_ref.h"
#include "src/base/result.h"
#include "src/text/vocabulary.h"

namespace frugal {

// How the text of tokens is spelled.
enum class TokenSpelling { kByteLevel, kPlain };

class TokenTable {
 public:
  struct Sizes {
    uint64_t num_tokens = 0;
    uint64_t num_merges = 0;
    uint64_t token_bytes =
        0;  // sum of the sizes of the tokens as spelled in the vocabulary: enough for their bytes
    bool has_scores = false;
  };
  // Far above any published vocabulary (262,144 tokens), and small enough that no count of a bad file asks
  // for gigabytes.
  static constexpr uint64_t kMaxTokens = 1 << 22;
  static constexpr uint64_t kMaxMerges = 1 << 22;
  static constexpr uint64_t kMaxTokenBytes = 1 << 28;
  static constexpr uint32_t kNoMerge = UINT32_MAX;

  // kBadModel above the limits, kOutOfMemory when memory is refused.
  static Result<TokenTable> Allocate(const Sizes& sizes, TokenSpelling spelling);
  static uint64_t ArenaBytes(const Sizes& sizes);

  // The next id's token as spelled in the vocabulary. kBadModel: empty (but of kind kUnused), known already,
  // not UTF-8, a score that is no number, more tokens or bytes than announced. A kPlain token of kind kUnused
  // keeps its text, but is not found by it.
  Status AddToken(std::string_view spelled, TokenKind kind, double score);
  // The next rank's merge, "left right". All tokens come before. kBadModel: not of that form, unknown tokens,
  // a result that is no token. A merge that is there already gets the later rank, as in `tokenizers`.
  Status AddMerge(std::string_view left_right);
  // kBadModel when there are fewer tokens or merges than announced. Then tokens can be found by prefix.
  Status Complete();

  uint32_t num_tokens() const { return num_tokens_; }
  TokenSpelling spelling() const { return spelling_; }
  // kByteLevel: what the token decodes to; kPlain: its text as spelled. "" for a hole. `id` < num_tokens().
  std::string_view bytes(uint32_t id) const {
    return {text_.data() + offsets_[id], static_cast<size_t>(offsets_[id + 1] - offsets_[id])};
  }
  TokenKind kind(uint32_t id) const { return static_cast<TokenKind>(flags_[id] & kKindMask); }

  // Whether the token is byte-level spelling; else its bytes are the text of the vocabulary as it is.
  bool form_is_bytes(uint32_t id) const { return form(id) == Form::kBytes; }

  // 0 without scores.
  double score(uint32_t id) const { return scores_.empty() ? 0.0 : scores_[id]; }

  // The token that stands for these bytes (kPlain: for this text), -1 if there is none.
  int32_t Find(std::string_view text) const {
    return FindKey(text, spelling_ == TokenSpelling::kPlain ? Form::kLiteral : Form::kBytes);
  }
  // The token that is spelled so in the vocabulary, -1 if there is none.
  int32_t FindSpelled(std::string_view spelled) const;
  // Calls `token` with the id of each token that `text` begins with, the shortest first. Needs scores.
  void ForEachPrefix(std::string_view text, FunctionRef<void(uint32_t id)> token) const;
  // The token of a single byte (kPlain: "<0x0A>"), -1 if the vocabulary lacks it.
  int32_t byte_token(uint8_t byte) const { return byte_tokens_[byte]; }

  // Rank of the merge of two neighbours, or kNoMerge.
  uint32_t FindMerge(uint32_t left, uint32_t right) const;
  uint32_t merged(uint32_t rank) const { return merges_[rank].result; }

  uint64_t memory_bytes() const { return arena_.size_bytes(); }

 private:
  // A token that cannot be read as byte-level spelling is kept as it is; "  " and "ĠĠ" have the same bytes
  // and are two tokens.
  enum class Form : uint16_t { kBytes = 0, kLiteral = 8 };
  static constexpr uint16_t kKindMask = 7;

  struct Merge {
    uint32_t left, right, result;
  };

  Form form(uint32_t id) const {
    return static_cast<Form>(flags_[id] & static_cast<uint16_t>(Form::kLiteral));
  }
  void InsertToken(uint32_t id);
  int32_t FindKey(std::string_view bytes, Form form) const;
  uint64_t SlotOf(std::string_view bytes, Form form) const;
  uint64_t SlotOf(uint32_t left, uint32_t right) const;

  AlignedBuffer arena_;
  std::span<double> scores_;         // [num_tokens], or empty
  std::span<uint32_t> by_text_;      // [num_tokens] ids, in order of their text; or empty
  std::array<uint32_t, 257> by_first_byte_{};  // where in by_text_ the tokens begin that begin with a byte
  std::span<uint32_t> offsets_;      // [num_tokens + 1] into text_
  std::span<Merge> merges_;          // [num_merges] by rank
  std::span<uint32_t> token_slots_;  // [capacity] id + 1, 0: empty
  std::span<uint32_t> merge_slots_;  // [capacity] rank + 1, 0: empty
  std::span<uint16_t> flags_;        // [num_tokens] kind and form
  std::span<char> text_;             // [token_bytes]
  std::array<int32_t, 256> byte_tokens_{};
  TokenSpelling spelling_ = TokenSpelling::kByteLevel;
  uint32_t num_tokens_ = 0;
  uint32_t num_merges_ = 0;
};

}  // namespace frugal
