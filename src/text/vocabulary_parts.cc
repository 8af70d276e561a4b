#include "src/text/vocabulary_parts.h"

#include <algorithm>
#include <utility>

#include "src/text/utf8.h"

namespace frugal {
namespace {

// Far more than any published vocabulary has; each new one is compared with those before.
constexpr size_t kMaxAddedTokens = 1 << 16;

constexpr uint32_t kSpecial = 1, kLeftStrip = 2, kRightStrip = 4, kSingleWord = 8, kNormalized = 16;

// Real vocabularies have no holes or a few; twice as many ids as tokens is generous and keeps memory linear
// in the file.
uint64_t MaxIds(uint64_t num_tokens) { return 2 * num_tokens + 1024; }

}  // namespace

uint32_t AddedTokenFlags(const AddedToken& token) {
  return (token.special ? kSpecial : 0) | (token.lstrip ? kLeftStrip : 0) | (token.rstrip ? kRightStrip : 0) |
         (token.single_word ? kSingleWord : 0) | (token.normalized ? kNormalized : 0);
}

AddedToken MakeAddedToken(int32_t id, std::string_view content, uint32_t flags) {
  AddedToken token;
  token.id = id;
  token.content = content;
  token.special = (flags & kSpecial) != 0;
  token.lstrip = (flags & kLeftStrip) != 0;
  token.rstrip = (flags & kRightStrip) != 0;
  token.single_word = (flags & kSingleWord) != 0;
  token.normalized = (flags & kNormalized) != 0;
  return token;
}

bool HasScores(std::string_view model, uint64_t num_merges) {
  return model == "t5" || (model == "llama" && num_merges == 0);
}

Status PlaceTokens(std::vector<TokenizerDocument::Entry> entries, Vocabulary& vocabulary) {
  if (entries.empty()) return BadModel("the vocabulary has no tokens");
  int32_t max_id = 0;
  for (const auto& entry : entries) max_id = std::max(max_id, entry.id);
  if (static_cast<uint64_t>(max_id) >= MaxIds(entries.size())) {
    return BadModel("id {} in a vocabulary of {} tokens: too many holes", max_id, entries.size());
  }
  vocabulary.tokens.assign(static_cast<size_t>(max_id) + 1, {});
  vocabulary.kinds.assign(static_cast<size_t>(max_id) + 1, TokenKind::kUnused);
  const bool has_scores = vocabulary.model == "t5";
  if (has_scores) vocabulary.scores.assign(static_cast<size_t>(max_id) + 1, 0.0);
  for (auto& entry : entries) {
    const size_t id = static_cast<size_t>(entry.id);
    if (entry.token.empty()) return BadModel("token {} is empty", id);
    if (vocabulary.kinds[id] != TokenKind::kUnused) {
      return BadModel("id {} twice: {} and {}", id, Quoted(vocabulary.tokens[id]), Quoted(entry.token));
    }
    vocabulary.tokens[id] = std::move(entry.token);
    vocabulary.kinds[id] = TokenKind::kNormal;
    if (has_scores) vocabulary.scores[id] = entry.score;
  }
  return {};
}

Status PlaceAddedToken(AddedToken token, Vocabulary& vocabulary) {
  if (token.content.empty()) return BadModel("added token {} is empty", token.id);
  if (token.id < 0 || static_cast<uint64_t>(token.id) >= MaxIds(vocabulary.tokens.size())) {
    return BadModel("added token {}: id {} does not fit a vocabulary of {} tokens", Quoted(token.content),
                    token.id, vocabulary.tokens.size());
  }
  const size_t id = static_cast<size_t>(token.id);
  if (id >= vocabulary.tokens.size()) {
    vocabulary.tokens.resize(id + 1);
    vocabulary.kinds.resize(id + 1, TokenKind::kUnused);
    if (!vocabulary.scores.empty()) vocabulary.scores.resize(id + 1, 0.0);
  }
  if (vocabulary.added_tokens.size() == kMaxAddedTokens) {
    return BadModel("more than {} added tokens are not supported", kMaxAddedTokens);
  }
  const auto is_same = [&](const AddedToken& other) { return other.id == token.id; };
  if (vocabulary.kinds[id] == TokenKind::kUnused && vocabulary.tokens[id].empty()) {
    vocabulary.tokens[id] = token.content;
  } else if (std::any_of(vocabulary.added_tokens.begin(), vocabulary.added_tokens.end(), is_same)) {
    return BadModel("added token {}: id {} twice", Quoted(token.content), id);
  } else if (vocabulary.tokens[id] != token.content) {
    return BadModel("added token {}: id {} is {} in the vocabulary", Quoted(token.content), id,
                    Quoted(vocabulary.tokens[id]));
  }
  vocabulary.kinds[id] = token.special ? TokenKind::kControl : TokenKind::kUserDefined;
  vocabulary.added_tokens.push_back(std::move(token));
  return {};
}

int32_t FindTokenId(const Vocabulary& vocabulary, std::string_view token) {
  if (token.empty()) return -1;
  const auto at = std::find(vocabulary.tokens.begin(), vocabulary.tokens.end(), token);
  return at == vocabulary.tokens.end() ? -1 : static_cast<int32_t>(at - vocabulary.tokens.begin());
}

const nlohmann::json* Member(const nlohmann::json& object, const char* key) {
  const auto at = object.find(key);
  return at == object.end() || at->is_null() ? nullptr : &*at;
}

Result<bool> BoolMember(const nlohmann::json& object, const char* key, bool fallback) {
  const nlohmann::json* member = Member(object, key);
  if (member == nullptr) return fallback;
  if (!member->is_boolean()) return BadModel("{}: expected a boolean", key);
  return member->get<bool>();
}

Result<std::string> StringMember(const nlohmann::json& object, const char* key, std::string_view fallback) {
  const nlohmann::json* member = Member(object, key);
  if (member == nullptr) return std::string(fallback);
  if (!member->is_string()) return BadModel("{}: expected a string", key);
  return member->get<std::string>();
}

Result<AddedToken> AddedTokenFromJson(const nlohmann::json& object) {
  AddedToken token;
  if (!object.is_object()) return BadModel("expected an object");
  FRUGAL_ASSIGN(token.content, StringMember(object, "content", ""));
  if (token.content.empty()) return BadModel("content: expected a string that is not empty");
  FRUGAL_ASSIGN(token.special, BoolMember(object, "special", false));
  FRUGAL_ASSIGN(token.lstrip, BoolMember(object, "lstrip", false));
  FRUGAL_ASSIGN(token.rstrip, BoolMember(object, "rstrip", false));
  FRUGAL_ASSIGN(token.single_word, BoolMember(object, "single_word", false));
  FRUGAL_ASSIGN(token.normalized, BoolMember(object, "normalized", !token.special));
  return token;
}

}  // namespace frugal
