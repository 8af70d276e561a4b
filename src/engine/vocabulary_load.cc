#include "src/engine/vocabulary_load.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/aligned_buffer.h"
#include "src/base/bytes.h"
#include "src/format/tokenizer_keys.h"
#include "src/text/pipeline.h"
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

Result<int32_t> ReadId(const GgufReader& gguf, const char* key, int32_t fallback) {
  if (gguf.Find(key) == nullptr) return fallback;
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

Result<std::string> ReadString(const GgufReader& gguf, const char* key, std::string_view fallback) {
  if (gguf.Find(key) == nullptr) return std::string(fallback);
  return gguf.GetString(key);
}

// What a file means that does not say: llama.cpp's defaults for each model.
struct Defaults {
  int32_t bos_id = -1, eos_id = -1, unk_id = -1;
  bool add_bos = false, add_eos = false;
};

Defaults DefaultsOf(const Vocabulary& settings, uint64_t num_tokens) {
  constexpr uint64_t kMinTokens = 3;
  Defaults defaults;
  if (settings.model == "gpt2") defaults.add_bos = FlagsOfPreTokenizer(settings.pre_tokenizer).add_bos;
  if (num_tokens < kMinTokens) return defaults;
  if (settings.model == "llama") defaults = {.bos_id = 1, .eos_id = 2, .unk_id = 0, .add_bos = true};
  if (settings.model == "t5") defaults = {.eos_id = 1, .unk_id = 2, .add_eos = true};
  return defaults;
}

// How text becomes words and tokens text.
Status ReadPipelineSettings(const GgufReader& gguf, Vocabulary& settings) {
  FRUGAL_ASSIGN(settings.model, gguf.GetString(keys::kModel));
  FRUGAL_ASSIGN(settings.pre_tokenizer, ReadString(gguf, keys::kPre, "default"));
  FRUGAL_ASSIGN(settings.pipeline, ReadString(gguf, keys::kPipeline, ""));
  const bool is_gpt2 = settings.model == "gpt2";
  FRUGAL_ASSIGN(const bool space_prefix, ReadBool(gguf, keys::kSpacePrefix, !is_gpt2));
  FRUGAL_ASSIGN(settings.add_prefix_space, ReadBool(gguf, keys::kAddPrefixSpace, space_prefix));
  FRUGAL_ASSIGN(settings.use_regex, ReadBool(gguf, keys::kUseRegex, true));
  const bool ignores = FlagsOfPreTokenizer(settings.pre_tokenizer).ignore_merges;
  FRUGAL_ASSIGN(settings.ignore_merges, ReadBool(gguf, keys::kIgnoreMerges, is_gpt2 && ignores));
  FRUGAL_ASSIGN(settings.removes_extra_spaces, ReadBool(gguf, keys::kRemoveSpaces, false));
  FRUGAL_ASSIGN(settings.byte_fallback, ReadBool(gguf, keys::kByteFallback, settings.model == "llama"));
  FRUGAL_ASSIGN(settings.sentencepiece, ReadBool(gguf, keys::kSentencePiece, false));
  if (gguf.Find(keys::kCharsmap) != nullptr && settings.pipeline.empty()) {
    FRUGAL_ASSIGN(const uint64_t charsmap_bytes, gguf.ArrayCount(keys::kCharsmap));
    if (charsmap_bytes > 0) {
      return BadModel("{}: key '{}': a precompiled map of characters is not supported", gguf.name(), keys::kCharsmap);
    }
  }
  return {};
}

// All but tokens, kinds, scores and merges.
Result<Vocabulary> ReadSettings(const GgufReader& gguf, uint64_t num_tokens) {
  Vocabulary settings;
  FRUGAL_TRY(ReadPipelineSettings(gguf, settings));
  const Defaults defaults = DefaultsOf(settings, num_tokens);
  FRUGAL_ASSIGN(settings.bos_id, ReadId(gguf, keys::kBosId, defaults.bos_id));
  FRUGAL_ASSIGN(settings.eos_id, ReadId(gguf, keys::kEosId, defaults.eos_id));
  FRUGAL_ASSIGN(settings.pad_id, ReadId(gguf, keys::kPadId, -1));
  FRUGAL_ASSIGN(settings.unk_id, ReadId(gguf, keys::kUnkId, defaults.unk_id));
  FRUGAL_ASSIGN(const bool add_bos, ReadBool(gguf, keys::kAddBos, defaults.add_bos));
  FRUGAL_ASSIGN(const bool add_eos, ReadBool(gguf, keys::kAddEos, defaults.add_eos));
  if (gguf.Find(keys::kPrefixIds) != nullptr) {
    FRUGAL_ASSIGN(settings.prefix_ids, ReadPostProcessorIds(gguf, keys::kPrefixIds));
  } else if (add_bos && settings.bos_id >= 0) {
    settings.prefix_ids = {settings.bos_id};
  }
  if (gguf.Find(keys::kSuffixIds) != nullptr) {
    FRUGAL_ASSIGN(settings.suffix_ids, ReadPostProcessorIds(gguf, keys::kSuffixIds));
  } else if (add_eos && settings.eos_id >= 0) {
    settings.suffix_ids = {settings.eos_id};
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

// [num_tokens]; empty for a model without scores.
Result<AlignedBuffer> ReadScores(const GgufReader& gguf, const Sizes& sizes, const Vocabulary& settings) {
  if (!HasScores(settings.model, sizes.num_merges)) return AlignedBuffer();
  const bool has_bits = gguf.Find(keys::kScoreBits) != nullptr;
  const char* key = has_bits ? keys::kScoreBits : keys::kScores;
  FRUGAL_ASSIGN(const uint64_t count, gguf.ArrayCount(key));
  if (count != (has_bits ? 2 : 1) * sizes.num_tokens) {
    return BadModel("{}: key '{}': {} elements for {} tokens", gguf.name(), key, count, sizes.num_tokens);
  }
  FRUGAL_ASSIGN(AlignedBuffer buffer, AlignedBuffer::Allocate(sizes.num_tokens * sizeof(double)));
  const std::span<double> scores = buffer.As<double>();
  if (has_bits) {
    const std::span<uint32_t> halves = buffer.As<uint32_t>();
    FRUGAL_TRY(gguf.ForEachInt(key, [&](uint64_t i, int64_t value) -> Status {
      halves[i] = static_cast<uint32_t>(value);
      return {};
    }));
  } else {
    FRUGAL_TRY(gguf.ForEachFloat(key, [&](uint64_t i, float value) -> Status {
      scores[i] = value;
      return {};
    }));
  }
  for (uint64_t id = 0; id < sizes.num_tokens; ++id) {
    if (std::isnan(scores[id])) return BadModel("{}: key '{}': token {}: is no number", gguf.name(), key, id);
  }
  return buffer;
}

bool IsAdded(TokenKind kind) {
  return kind == TokenKind::kControl || kind == TokenKind::kUserDefined || kind == TokenKind::kUnknown;
}

}  // namespace

Result<bool> HasTokenizer(const GgufReader& gguf) {
  if (gguf.Find(keys::kTokens) != nullptr) return true;
  // How llama.cpp's converter says that there is none.
  FRUGAL_ASSIGN(const std::string model, ReadString(gguf, keys::kModel, "none"));
  const bool says_none = model == "none" || model == "no_vocab";
  for (const char* key : {keys::kModel, keys::kMerges, keys::kScores, keys::kTokenTypes}) {
    if (gguf.Find(key) != nullptr && !(says_none && key == keys::kModel)) {
      return BadModel("{}: key '{}' is there, but '{}' is absent", gguf.name(), key, keys::kTokens);
    }
  }
  return false;
}

Result<Tokenizer> LoadTokenizer(const GgufReader& gguf) {
  FRUGAL_ASSIGN(const Sizes sizes, ReadSizes(gguf));
  FRUGAL_ASSIGN(const Vocabulary settings, ReadSettings(gguf, sizes.num_tokens));
  FRUGAL_ASSIGN(AlignedBuffer scores, ReadScores(gguf, sizes, settings));
  FRUGAL_ASSIGN(AlignedBuffer kinds, AlignedBuffer::Allocate(sizes.num_tokens));
  std::memset(kinds.data(), static_cast<int>(TokenKind::kNormal), sizes.num_tokens);
  FRUGAL_TRY(ForEachKind(
      gguf, [&](uint64_t id, TokenKind kind) { kinds.data()[id] = static_cast<std::byte>(kind); }));
  TokenizerBuilder builder(settings, sizes.num_tokens, sizes.num_merges, sizes.token_bytes);
  if (Status begun = builder.Begin(); !begun) return WithContext(std::move(begun).error(), gguf.name());
  FRUGAL_TRY(gguf.ForEachString(keys::kTokens, [&](uint64_t id, std::string_view token) -> Status {
    const double score = scores.size_bytes() == 0 ? 0.0 : scores.As<double>()[id];
    Status added = builder.AddToken(token, static_cast<TokenKind>(kinds.data()[id]), score);
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
  FRUGAL_ASSIGN(const Vocabulary settings, ReadSettings(gguf, sizes.num_tokens));
  // Settings hold the added tokens as strings, and the builder copies them, until the tokenizer is made.
  FRUGAL_ASSIGN(const uint64_t num_with_flags, CountAdded(gguf));
  uint64_t settings_bytes = 2 * num_with_flags * sizeof(AddedToken);
  if (num_with_flags > 0) {
    settings_bytes += 2 * std::get<GgufArray>(gguf.Find(keys::kAddedContents)->value).size_bytes;
    // Contents that are normalised are held beside the tokens.
    if (!settings.pipeline.empty()) settings_bytes *= 2;
  }
  // The pipeline's text is parsed into a tree.
  constexpr uint64_t kJsonFactor = 16;
  settings_bytes += kJsonFactor * settings.pipeline.size();
  if (HasScores(settings.model, sizes.num_merges)) settings_bytes += RoundUp(sizes.num_tokens * sizeof(double), 4096);
  return Tokenizer::EstimateMemoryBytes(sizes.num_tokens, sizes.num_merges, sizes.token_bytes,
                                        std::max(num_added, Tokenizer::kUsualAddedTokens), settings) +
         RoundUp(sizes.num_tokens, 4096) + settings_bytes;
}

}  // namespace frugal
