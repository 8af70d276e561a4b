// Added tokens (special ones, and words added after training) are cut out of a text before it is split into
// words: at each place the longest one that begins there, then its flags decide. First those of the raw text,
// then, in what is left, those of the normalised text (`normalized`), as `tokenizers` does.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/function_ref.h"
#include "src/base/result.h"
#include "src/text/pre_tokenizer.h"
#include "src/text/token_table.h"
#include "src/text/vocabulary.h"

namespace frugal {

enum class AddedTokenPass { kRaw, kNormalized };

class AddedTokenMatcher {
 public:
  // Matching is a walk down a sorted list, at most this many steps at each byte of a text.
  static constexpr size_t kMaxContentBytes = 512;

  struct Entry {
    uint32_t id;
    uint16_t flags;
    uint16_t own_content;  // 1 + index into own_contents_, 0: the token's bytes are its content
  };

  // All tokens of the table that are kControl, kUserDefined or kUnknown; those in `with_flags` have these
  // flags. kBadModel: an id that is no token or another one, a content that is too long, the same id twice.
  static Result<AddedTokenMatcher> Create(const TokenTable& table, std::span<const AddedToken> with_flags);

  // Cuts `text` (valid UTF-8) into what is between added tokens (never empty) and added tokens, in order.
  // `table` is the one of Create.
  void Split(std::string_view text, AddedTokenPass pass, const TokenTable& table,
             const PreTokenizer& characters, PreTokenizer::Scratch& scratch,
             FunctionRef<void(std::string_view)> on_text, FunctionRef<void(int32_t)> on_token) const;

  bool HasTokens(AddedTokenPass pass) const { return !entries(pass).empty(); }
  uint64_t memory_bytes() const;

 private:
  std::span<const Entry> entries(AddedTokenPass pass) const;
  std::string_view content(const TokenTable& table, const Entry& entry) const;
  // The longest content that `text` begins with; nullptr if none.
  const Entry* LongestAt(const TokenTable& table, std::span<const Entry> sorted, std::string_view text) const;

  std::vector<Entry> entries_;  // by pass, then by content
  size_t num_raw_ = 0;
  std::array<std::bitset<256>, 2> first_bytes_;  // [pass] bytes that a content begins with
  // Content that differs from the bytes that the token decodes to: it has letters of the byte-level alphabet
  // ("é").
  std::vector<std::string> own_contents_;
};

}  // namespace frugal
