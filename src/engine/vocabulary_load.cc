#include "src/engine/vocabulary_load.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/aligned_buffer.h"
#include "src/base/bytes.h"
#include "src/format/tokenizer_keys.h"
#include "src/text/tokenizer_builder.h"
#include "src/text/vocabulary.h"

namespace frugal {
namespace {

namespace keys = tokenizer_keys;

// Far more than any published vocabulary has; they are held as strings, so a bad file must not have
// millions.
constexpr uint64_t kMaxAddedTokens = 1 << 16;
constexpr uint64_t kMaxPostProcessorIds = 64;

struct Sizes {
  uint64_t num_tokens = 0;
  uint64_t num_merges = 0;
  uint64_t token_bytes = 0;  // of all tokens, as spelled in the file
};

Error WithKey(Error error, const GgufReader& gguf, std::string_view key) {
  return WithContext(std::move(error), fmt::format("{}: key '{}'", gguf.name(), key));
}

Result<uint64_t> CountStrings(const GgufReader& gguf, std::string_view key, uint64_t* text_bytes) {
  FRUGAL_ASSIGN(const uint64_t count, gguf.ArrayCount(key));
  const auto& array = std::get<GgufArray>(gguf.Find(key)->value);
  if (array.element_type != GgufType::kString) {
    return BadModel("{}: key '{}': expected an array of strings", gguf.name(), key);
  }
  if (text_bytes != nullptr) *text_bytes = array.size_bytes - count * sizeof(uint64_t);
  return count;
}

Result<Sizes> ReadSizes(const GgufReader& gguf) {
  Sizes sizes;
  FRUGAL_ASSIGN(sizes.num_tokens, CountStrings(gguf, keys::kTokens, &sizes.token_bytes));
  if (gguf.Find(keys::kMerges) != nullptr) {
    FRUGAL_ASSIGN(sizes.num_merges, CountStrings(gguf, keys::kMerges, nullptr));
  }
  if (gguf.Find(keys::kTokenTypes) != nullptr) {
    FRUGAL_ASSIGN(const uint64_t num_types, gguf.ArrayCount(keys::kTokenTypes));
    if (num_types != sizes.num_tokens) {
      return BadModel("{}: key '{}': {} types of {} tokens", gguf.name(), keys::kTokenTypes, num_types,
                      sizes.num_tokens);
    }
  }
  return sizes;
}

Result<uint64_t> CountAdded(const GgufReader& gguf) {
  if (gguf.Find(keys::kAddedIds) == nullptr) return uint64_t{0};
  FRUGAL_ASSIGN(const uint64_t count, gguf.ArrayCount(keys::kAddedIds));
  if (count > kMaxAddedTokens) {
    return BadModel("{}: key '{}': {} added tokens, at most {} are supported", gguf.name(), keys::kAddedIds,
                    count, kMaxAddedTokens);
  }
  for (const char* key : {keys::kAddedContents, keys::kAddedFlags}) {
    FRUGAL_ASSIGN(const uint64_t other, gguf.ArrayCount(key));
    if (other != count) {
      return BadModel("{}: key '{}': {} elements, expected {} as in '{}'", gguf.name(), key, other, count,
                      keys::kAddedIds);
    }
  }
  return count;
}

Result<int32_t> ReadId(const GgufReader& gguf, const char* key) {
  if (gguf.Find(key) == nullptr) return -1;
  FRUGAL_ASSIGN(const uint64_t id, gguf.GetUint(key));
  if (id == UINT32_MAX) return -1;  // how some writers say "none"
  if (id > INT32_MAX) {
    return BadModel("{}: key '{}': is {}, expected an id of 0 to {}", gguf.name(), key, id, INT32_MAX);
  }
  return static_cast<int32_t>(id);
}

Result<bool> ReadBool(const GgufReader& gguf, const char* key, bool fallback) {
  if (gguf.Find(key) == nullptr) return fallback;
  return gguf.GetBool(key);
}

// Ids and flags: all are 0 to 2^31 - 1.
Status ForEachNatural(const GgufReader& gguf, const char* key, FunctionRef<void(uint64_t, int32_t)> fn) {
  return gguf.ForEachInt(key, [&](uint64_t i, int64_t value) -> Status {
    if (value < 0 || value > INT32_MAX) {
      return BadModel("{}: key '{}': {} is no number of 0 to {}", gguf.name(), key, value, INT32_MAX);
    }
    fn(i, static_cast<int32_t>(value));
    return {};
  });
}

Result<std::vector<int32_t>> ReadPostProcessorIds(const GgufReader& gguf, const char* key) {
  FRUGAL_ASSIGN(const uint64_t count, gguf.ArrayCount(key));
  if (count > kMaxPostProcessorIds) {
    return BadModel("{}: key '{}': {} ids, at most {} are supported", gguf.name(), key, count,
                    kMaxPostProcessorIds);
  }
  std::vector<int32_t> ids(count);
  FRUGAL_TRY(ForEachNatural(gguf, key, [&ids](uint64_t i, int32_t id) { ids[i] = id; }));
  return ids;
}

Result<std::vector<AddedToken>> ReadAddedTokens(const GgufReader& gguf) {
  FRUGAL_ASSIGN(const uint64_t count, CountAdded(gguf));
  std::vector<AddedToken> added(count);
  if (count == 0) return added;
  FRUGAL_TRY(ForEachNatural(gguf, keys::kAddedFlags, [&added](uint64_t i, int32_t flags) {
    added[i] = MakeAddedToken(0, {}, static_cast<uint32_t>(flags));
  }));
  FRUGAL_TRY(ForEachNatural(gguf, keys::kAddedIds, [&added](uint64_t i, int32_t id) { added[i].id = id; }));
  FRUGAL_TRY(gguf.ForEachString(keys::kAddedContents, [&](uint64_t i, std::string_view text) -> Status {
    added[i].content = text;
    return {};
  }));
  return added;
}

// All but tokens, kinds and merges.
Result<Vocabulary> ReadSettings(const GgufReader& gguf) {
  Vocabulary settings;
  FRUGAL_ASSIGN(settings.model, gguf.GetString(keys::kModel));
  if (gguf.Find(keys::kPre) != nullptr) {
    FRUGAL_ASSIGN(settings.pre_tokenizer, gguf.GetString(keys::kPre));
  }
  FRUGAL_ASSIGN(settings.bos_id, ReadId(gguf, keys::kBosId));
  FRUGAL_ASSIGN(settings.eos_id, ReadId(gguf, keys::kEosId));
  FRUGAL_ASSIGN(settings.pad_id, ReadId(gguf, keys::kPadId));
  FRUGAL_ASSIGN(settings.unk_id, ReadId(gguf, keys::kUnkId));
  FRUGAL_ASSIGN(settings.add_prefix_space, ReadBool(gguf, keys::kAddPrefixSpace, false));
  FRUGAL_ASSIGN(settings.use_regex, ReadBool(gguf, keys::kUseRegex, true));
  FRUGAL_ASSIGN(settings.ignore_merges, ReadBool(gguf, keys::kIgnoreMerges, false));
  FRUGAL_ASSIGN(const bool add_bos, ReadBool(gguf, keys::kAddBos, false));
  if (gguf.Find(keys::kPrefixIds) != nullptr) {
    FRUGAL_ASSIGN(settings.prefix_ids, ReadPostProcessorIds(gguf, keys::kPrefixIds));
  } else if (add_bos && settings.bos_id >= 0) {
    settings.prefix_ids = {settings.bos_id};
  }
  if (gguf.Find(keys::kSuffixIds) != nullptr) {
    FRUGAL_ASSIGN(settings.suffix_ids, ReadPostProcessorIds(gguf, keys::kSuffixIds));
  }
  FRUGAL_ASSIGN(settings.added_tokens, ReadAddedTokens(gguf));
  return settings;
}

// Kinds and tokens are two arrays of the file: one has to be held while the other is walked.
Status ForEachKind(const GgufReader& gguf, FunctionRef<void(uint64_t, TokenKind)> fn) {
  if (gguf.Find(keys::kTokenTypes) == nullptr) return {};
  return gguf.ForEachInt(keys::kTokenTypes, [&](uint64_t id, int64_t value) -> Status {
    if (value < static_cast<int64_t>(TokenKind::kNormal) || value > static_cast<int64_t>(TokenKind::kByte)) {
      return BadModel("{}: key '{}': token {}: kind {} is unknown", gguf.name(), keys::kTokenTypes, id,
                      value);
    }
    fn(id, static_cast<TokenKind>(value));
    return {};
  });
}

bool IsAdded(TokenKind kind) {
  return kind == TokenKind::kControl || kind == TokenKind::kUserDefined || kind == TokenKind::kUnknown;
}

}  // namespace

Result<bool> HasTokenizer(const GgufReader& gguf) {
  if (gguf.Find(keys::kTokens) != nullptr) return true;
  // How llama.cpp's converter says that there is none.
  const GgufKeyValue* const model = gguf.Find(keys::kModel);
  const auto* const model_name = model == nullptr ? nullptr : std::get_if<std::string>(&model->value);
  const bool says_none = model_name != nullptr && (*model_name == "none" || *model_name == "no_vocab");
  for (const char* key : {keys::kModel, keys::kMerges, keys::kTokenTypes}) {
    if (gguf.Find(key) != nullptr && !(says_none && key == keys::kModel)) {
      return BadModel("{}: key '{}' is there, but '{}' is absent", gguf.name(), key, keys::kTokens);
    }
  }
  return false;
}

Result<Tokenizer> LoadTokenizer(const GgufReader& gguf) {
  FRUGAL_ASSIGN(const Sizes sizes, ReadSizes(gguf));
  FRUGAL_ASSIGN(const Vocabulary settings, ReadSettings(gguf));
  FRUGAL_ASSIGN(AlignedBuffer kinds, AlignedBuffer::Allocate(sizes.num_tokens));
  std::memset(kinds.data(), static_cast<int>(TokenKind::kNormal), sizes.num_tokens);
  FRUGAL_TRY(ForEachKind(
      gguf, [&](uint64_t id, TokenKind kind) { kinds.data()[id] = static_cast<std::byte>(kind); }));
  TokenizerBuilder builder(settings, sizes.num_tokens, sizes.num_merges, sizes.token_bytes);
  FRUGAL_TRY(gguf.ForEachString(keys::kTokens, [&](uint64_t id, std::string_view token) -> Status {
    Status added = builder.AddToken(token, static_cast<TokenKind>(kinds.data()[id]));
    if (!added) return WithKey(std::move(added).error(), gguf, keys::kTokens);
    return {};
  }));
  if (sizes.num_merges > 0) {
    FRUGAL_TRY(gguf.ForEachString(keys::kMerges, [&](uint64_t, std::string_view merge) -> Status {
      Status added = builder.AddMerge(merge);
      if (!added) return WithKey(std::move(added).error(), gguf, keys::kMerges);
      return {};
    }));
  }
  return builder.Finish(gguf.name());
}

Result<uint64_t> EstimateTokenizerBytes(const GgufReader& gguf) {
  FRUGAL_ASSIGN(const Sizes sizes, ReadSizes(gguf));
  uint64_t num_added = 0;
  FRUGAL_TRY(ForEachKind(gguf, [&](uint64_t, TokenKind kind) { num_added += IsAdded(kind) ? 1 : 0; }));
  // Settings hold the added tokens as strings, and the builder copies them, until the tokenizer is made.
  FRUGAL_ASSIGN(const uint64_t num_with_flags, CountAdded(gguf));
  uint64_t settings_bytes = 2 * num_with_flags * sizeof(AddedToken);
  if (num_with_flags > 0) {
    settings_bytes += 2 * std::get<GgufArray>(gguf.Find(keys::kAddedContents)->value).size_bytes;
  }
  return Tokenizer::EstimateMemoryBytes(sizes.num_tokens, sizes.num_merges, sizes.token_bytes,
                                        std::max(num_added, Tokenizer::kUsualAddedTokens)) +
         RoundUp(sizes.num_tokens, 4096) + settings_bytes;
}

}  // namespace frugal
