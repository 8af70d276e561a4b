// Added tokens (special ones, and words added after training) are cut out of a text before it is split into
// words: at each place the longest one that begins there, then its flags decide. First those of the raw text,
// then, in what is left, those of the normalised text (`normalized`), as `tokenizers` does.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/function_ref.h"
#include "src/base/result.h"
#include "src/text/expression.h"
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

  // kAll: every token that is kControl, kUserDefined or kUnknown is an added one, of a raw text where no flags say otherwise.
  // kSentencePiece: of those without flags only kUserDefined ones, of the normalised text.
  enum class Kinds { kAll, kSentencePiece };

  // Tokens in `with_flags` have these flags. `normalize` makes of a content what it is in a normalised text. kBadModel: an id that is no
  // token or another one, a content that is too long, the same id twice.
  static Result<AddedTokenMatcher> Create(const TokenTable& table, std::span<const AddedToken> with_flags, Kinds kinds,
                                          FunctionRef<Status(std::string&)> normalize);

  // Cuts `text` (valid UTF-8) into what is between added tokens (never empty) and added tokens, in order.
  // `table` is the one of Create. `on_text` gets the place of its text in `text` too.
  Status Split(std::string_view text, AddedTokenPass pass, const TokenTable& table, Expression::Scratch& scratch,
               FunctionRef<Status(std::string_view, size_t begin)> on_text, FunctionRef<void(int32_t)> on_token) const;

  bool HasTokens(AddedTokenPass pass) const { return !entries(pass).empty(); }
  uint64_t memory_bytes() const;

 private:
  std::span<const Entry> entries(AddedTokenPass pass) const;
  Status SetContent(const TokenTable& table, FunctionRef<Status(std::string&)> normalize, Entry& entry);
  Result<bool> IsWordAt(std::string_view text, size_t at, Expression::Scratch& scratch) const;
  Result<bool> TouchesWord(std::string_view text, size_t begin, size_t end, Expression::Scratch& scratch) const;
  std::string_view content(const TokenTable& table, const Entry& entry) const;
  // The longest content that `text` begins with; nullptr if none.
  const Entry* LongestAt(const TokenTable& table, std::span<const Entry> sorted, std::string_view text) const;

  std::vector<Entry> entries_;  // by pass, then by content
  size_t num_raw_ = 0;
  std::array<std::bitset<256>, 2> first_bytes_;  // [pass] bytes that a content begins with
  // Content that differs from the token's bytes in the table: it has letters of the byte-level alphabet ("é"), or is normalised.
  std::vector<std::string> own_contents_;
  std::optional<Expression> word_character_;  // where a token stands alone only
};

}  // namespace frugal
