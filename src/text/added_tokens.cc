#include "src/text/added_tokens.h"

#include <algorithm>
#include <tuple>

#include "src/text/byte_alphabet.h"
#include "src/text/oniguruma.h"
#include "src/text/utf8.h"

namespace frugal {
namespace {

constexpr uint16_t kLeftStrip = 1, kRightStrip = 2, kSingleWord = 4, kNormalized = 8;
constexpr uint16_t kAsItIs = 16;  // the content is in a normalised text as the vocabulary spells it

uint16_t FlagsOf(const AddedToken& token) {
  return static_cast<uint16_t>((token.lstrip ? kLeftStrip : 0) | (token.rstrip ? kRightStrip : 0) |
                               (token.single_word ? kSingleWord : 0) | (token.normalized ? kNormalized : 0));
}

bool IsAdded(TokenKind kind) {
  return kind == TokenKind::kControl || kind == TokenKind::kUserDefined || kind == TokenKind::kUnknown;
}

// Where the last character of text[0, end) begins; end > 0.
size_t LastCharacter(std::string_view text, size_t end) {
  do --end;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80);
  return end;
}

size_t SkipSpaces(std::string_view text, size_t from) {
  while (from < text.size()) {
    const Utf8Step step = NextUtf8(text.substr(from));
    if (!IsWhiteSpace(step.code_point)) break;
    from += step.size_bytes;
  }
  return from;
}

// The beginning of the spaces that end at `end`, not before `begin`.
size_t SkipSpacesBackward(std::string_view text, size_t begin, size_t end) {
  while (end > begin) {
    const size_t last = LastCharacter(text, end);
    if (!IsWhiteSpace(NextUtf8(text.substr(last)).code_point)) break;
    end = last;
  }
  return end;
}

}  // namespace

std::string_view AddedTokenMatcher::content(const TokenTable& table, const Entry& entry) const {
  if (entry.own_content != 0) return own_contents_[entry.own_content - 1];
  return table.bytes(entry.id);
}

std::span<const AddedTokenMatcher::Entry> AddedTokenMatcher::entries(AddedTokenPass pass) const {
  const std::span<const Entry> all(entries_);
  return pass == AddedTokenPass::kRaw ? all.first(num_raw_) : all.subspan(num_raw_);
}

// What the entry's text is: the token's bytes, or an own content.
Status AddedTokenMatcher::SetContent(const TokenTable& table, FunctionRef<Status(std::string&)> normalize, Entry& entry) {
  const std::string_view bytes = table.bytes(entry.id);
  std::string text = table.form_is_bytes(entry.id) ? SpellByteLevel(bytes) : std::string(bytes);
  if (entry.flags & kNormalized) FRUGAL_TRY(normalize(text));
  if (text.size() > kMaxContentBytes) {
    return BadModel("added token {}: {} bytes, at most {} are supported", entry.id, text.size(), kMaxContentBytes);
  }
  if (text == bytes) return {};
  if (own_contents_.size() == UINT16_MAX) {
    return BadModel("more than {} added tokens in letters of the byte-level alphabet, or normalised, are not supported",
                    UINT16_MAX);
  }
  own_contents_.push_back(std::move(text));
  entry.own_content = static_cast<uint16_t>(own_contents_.size());
  return {};
}

Result<AddedTokenMatcher> AddedTokenMatcher::Create(const TokenTable& table, std::span<const AddedToken> with_flags,
                                                    Kinds kinds, FunctionRef<Status(std::string&)> normalize) {
  AddedTokenMatcher matcher;
  const bool is_sentencepiece = kinds == Kinds::kSentencePiece;
  const uint16_t flags = is_sentencepiece ? kNormalized | kAsItIs : 0;
  for (uint32_t id = 0; id < table.num_tokens(); ++id) {
    if (IsAdded(table.kind(id))) matcher.entries_.push_back({id, flags, 0});
  }
  std::vector<bool> seen(table.num_tokens());
  for (const AddedToken& token : with_flags) {
    const auto at = std::lower_bound(
        matcher.entries_.begin(), matcher.entries_.end(), token.id,
        [](const Entry& entry, int32_t id) { return static_cast<int64_t>(entry.id) < int64_t{id}; });
    if (token.id < 0 || at == matcher.entries_.end() || static_cast<int64_t>(at->id) != token.id) {
      return BadModel("added token {}: id {} is not an added token of the vocabulary", Quoted(token.content),
                      token.id);
    }
    if (table.FindSpelled(token.content) != token.id) {
      return BadModel("added token {}: id {} is another token", Quoted(token.content), token.id);
    }
    if (seen[at->id]) return BadModel("added token {}: id {} twice", Quoted(token.content), token.id);
    seen[at->id] = true;
    at->flags = FlagsOf(token);
  }
  if (is_sentencepiece) {
    std::erase_if(matcher.entries_, [&](const Entry& entry) {
      return !seen[entry.id] && table.kind(entry.id) != TokenKind::kUserDefined;
    });
  }
  matcher.entries_.shrink_to_fit();
  const auto as_it_is = [](std::string&) -> Status { return {}; };
  for (Entry& entry : matcher.entries_) {
    FRUGAL_TRY(matcher.SetContent(table, entry.flags & kAsItIs ? as_it_is : normalize, entry));
  }
  // A content of which normalisation leaves nothing is in no text.
  std::erase_if(matcher.entries_, [&](const Entry& entry) { return matcher.content(table, entry).empty(); });
  bool has_single_words = false;
  for (const Entry& entry : matcher.entries_) {
    const std::string_view content = matcher.content(table, entry);
    matcher.first_bytes_[entry.flags & kNormalized ? 1 : 0].set(static_cast<unsigned char>(content[0]));
    matcher.num_raw_ += entry.flags & kNormalized ? 0 : 1;
    has_single_words = has_single_words || (entry.flags & kSingleWord) != 0;
  }
  if (has_single_words) {
    // Rust's \w, which `tokenizers` asks here, knows joiners too.
    const std::string word = fmt::format(R"([{}\p{{Join_Control}}])", kWordClass);
    FRUGAL_ASSIGN(matcher.word_character_, Expression::Compile({word, TextPattern::Kind::kExpression}));
  }
  std::sort(matcher.entries_.begin(), matcher.entries_.end(), [&](const Entry& a, const Entry& b) {
    return std::tuple(a.flags & kNormalized, matcher.content(table, a)) <
           std::tuple(b.flags & kNormalized, matcher.content(table, b));
  });
  return matcher;
}

Result<bool> AddedTokenMatcher::IsWordAt(std::string_view text, size_t at, Expression::Scratch& scratch) const {
  const std::string_view character = text.substr(at, NextUtf8(text.substr(at)).size_bytes);
  FRUGAL_ASSIGN(const auto match, word_character_->Find(character, 0, scratch));
  return match.has_value();
}

Result<bool> AddedTokenMatcher::TouchesWord(std::string_view text, size_t begin, size_t end,
                                            Expression::Scratch& scratch) const {
  if (begin > 0) {
    FRUGAL_ASSIGN(const bool before, IsWordAt(text, LastCharacter(text, begin), scratch));
    if (before) return true;
  }
  if (end == text.size()) return false;
  return IsWordAt(text, end, scratch);
}

const AddedTokenMatcher::Entry* AddedTokenMatcher::LongestAt(const TokenTable& table,
                                                             std::span<const Entry> sorted,
                                                             std::string_view text) const {
  const Entry* longest = nullptr;
  // Invariant: `sorted` are the contents that begin with text[0, depth).
  for (size_t depth = 0;; ++depth) {
    if (!sorted.empty() && content(table, sorted.front()).size() == depth) {
      longest = &sorted.front();
      sorted = sorted.subspan(1);
    }
    if (sorted.empty() || depth == text.size()) return longest;
    const auto byte_of = [&](const Entry& entry) {
      return static_cast<unsigned char>(content(table, entry)[depth]);
    };
    const unsigned char byte = static_cast<unsigned char>(text[depth]);
    const auto low = std::partition_point(sorted.begin(), sorted.end(),
                                          [&](const Entry& entry) { return byte_of(entry) < byte; });
    const auto high =
        std::partition_point(low, sorted.end(), [&](const Entry& entry) { return byte_of(entry) == byte; });
    sorted = std::span<const Entry>(low, high);
  }
}

Status AddedTokenMatcher::Split(std::string_view text, AddedTokenPass pass, const TokenTable& table,
                                Expression::Scratch& scratch,
                                FunctionRef<Status(std::string_view, size_t begin)> on_text,
                                FunctionRef<void(int32_t)> on_token) const {
  const std::span<const Entry> sorted = entries(pass);
  const std::bitset<256>& first_bytes = first_bytes_[pass == AddedTokenPass::kRaw ? 0 : 1];
  size_t done = 0;        // text before this has been given out
  size_t spaces_end = 0;  // the last rstrip saw nothing but spaces up to here
  for (size_t at = 0; at < text.size() && !sorted.empty();) {
    const Entry* entry = nullptr;
    if (first_bytes[static_cast<unsigned char>(text[at])]) entry = LongestAt(table, sorted, text.substr(at));
    if (entry == nullptr) {
      ++at;
      continue;
    }
    size_t begin = at;
    size_t end = at + content(table, *entry).size();
    at = end;  // the search goes on behind the content, even where spaces behind it are taken too
    if (entry->flags & kSingleWord) {
      FRUGAL_ASSIGN(const bool touches, TouchesWord(text, begin, end, scratch));
      if (touches) continue;
    }
    if (entry->flags & kRightStrip) end = spaces_end = SkipSpaces(text, std::max(end, spaces_end));
    if (entry->flags & kLeftStrip) {
      begin = begin <= done ? done : SkipSpacesBackward(text, done, begin);
      // Nothing is left of it: a token of spaces within those that an rstrip took.
      if (begin >= end) continue;
    }
    if (done < begin) FRUGAL_TRY(on_text(text.substr(done, begin - done), done));
    on_token(static_cast<int32_t>(entry->id));
    done = end;
  }
  if (done < text.size()) return on_text(text.substr(done), done);
  return {};
}

uint64_t AddedTokenMatcher::memory_bytes() const {
  uint64_t total = entries_.capacity() * sizeof(Entry) + own_contents_.capacity() * sizeof(std::string);
  for (const std::string& own : own_contents_) total += own.capacity();
  if (word_character_) total += word_character_->memory_bytes();
  return total;
}

}  // namespace frugal
