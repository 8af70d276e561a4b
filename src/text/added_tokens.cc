#include "src/text/added_tokens.h"

#include <algorithm>
#include <tuple>

#include "src/text/byte_alphabet.h"
#include "src/text/utf8.h"

namespace frugal {
namespace {

constexpr uint16_t kLeftStrip = 1, kRightStrip = 2, kSingleWord = 4, kNormalized = 8;

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

Result<AddedTokenMatcher> AddedTokenMatcher::Create(const TokenTable& table,
                                                    std::span<const AddedToken> with_flags) {
  AddedTokenMatcher matcher;
  for (uint32_t id = 0; id < table.num_tokens(); ++id) {
    if (IsAdded(table.kind(id))) matcher.entries_.push_back({id, 0, 0});
  }
  matcher.entries_.shrink_to_fit();
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
  for (Entry& entry : matcher.entries_) {
    std::string spelled;
    const std::string_view bytes = table.bytes(entry.id);
    if (table.form_is_bytes(entry.id)) spelled = SpellByteLevel(bytes);
    if (!spelled.empty() && spelled != bytes) {
      if (matcher.own_contents_.size() == UINT16_MAX) {
        return BadModel("more than {} added tokens in letters of the byte-level alphabet are not supported",
                        UINT16_MAX);
      }
      matcher.own_contents_.push_back(std::move(spelled));
      entry.own_content = static_cast<uint16_t>(matcher.own_contents_.size());
    }
    const std::string_view content = matcher.content(table, entry);
    if (content.size() > kMaxContentBytes) {
      return BadModel("added token {}: {} bytes, at most {} are supported", entry.id, content.size(),
                      kMaxContentBytes);
    }
    matcher.first_bytes_[entry.flags & kNormalized ? 1 : 0].set(static_cast<unsigned char>(content[0]));
    matcher.num_raw_ += entry.flags & kNormalized ? 0 : 1;
  }
  std::sort(matcher.entries_.begin(), matcher.entries_.end(), [&](const Entry& a, const Entry& b) {
    return std::tuple(a.flags & kNormalized, matcher.content(table, a)) <
           std::tuple(b.flags & kNormalized, matcher.content(table, b));
  });
  return matcher;
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

void AddedTokenMatcher::Split(std::string_view text, AddedTokenPass pass, const TokenTable& table,
                              const PreTokenizer& characters, PreTokenizer::Scratch& scratch,
                              FunctionRef<void(std::string_view)> on_text,
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
      const bool word_before =
          begin > 0 && characters.StartsWithWordCharacter(text.substr(LastCharacter(text, begin)), scratch);
      const bool word_behind =
          end < text.size() && characters.StartsWithWordCharacter(text.substr(end), scratch);
      if (word_before || word_behind) continue;
    }
    if (entry->flags & kRightStrip) end = spaces_end = SkipSpaces(text, std::max(end, spaces_end));
    if (entry->flags & kLeftStrip) {
      begin = begin <= done ? done : SkipSpacesBackward(text, done, begin);
      // Nothing is left of it: a token of spaces within those that an rstrip took.
      if (begin >= end) continue;
    }
    if (done < begin) on_text(text.substr(done, begin - done));
    on_token(static_cast<int32_t>(entry->id));
    done = end;
  }
  if (done < text.size()) on_text(text.substr(done));
}

uint64_t AddedTokenMatcher::memory_bytes() const {
  uint64_t total = entries_.capacity() * sizeof(Entry) + own_contents_.capacity() * sizeof(std::string);
  for (const std::string& own : own_contents_) total += own.capacity();
  return total;
}

}  // namespace frugal
