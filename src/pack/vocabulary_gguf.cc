#include "src/pack/vocabulary_gguf.h"

#include <bit>
#include <cstdint>
#include <string_view>
#include <vector>

#include "src/base/check.h"
#include "src/format/tokenizer_keys.h"

namespace frugal {
namespace {

namespace keys = tokenizer_keys;

void AddId(const char* key, int32_t id, GgufWriter& writer) {
  if (id >= 0) writer.AddUint32(key, static_cast<uint32_t>(id));
}

void AddAddedTokens(const std::vector<AddedToken>& added, GgufWriter& writer) {
  std::vector<int32_t> ids, flags;
  std::vector<std::string_view> contents;
  for (const AddedToken& token : added) {
    ids.push_back(token.id);
    flags.push_back(static_cast<int32_t>(AddedTokenFlags(token)));
    contents.push_back(token.content);
  }
  writer.AddInt32Array(keys::kAddedIds, ids);
  writer.AddStringArray(keys::kAddedContents, contents);
  writer.AddInt32Array(keys::kAddedFlags, flags);
}

// Scores are f32 in every SentencePiece file; those of a tokenizer.json may need all bits of a double.
void AddScores(const std::vector<double>& scores, GgufWriter& writer) {
  if (scores.empty()) return;
  std::vector<float> rounded;
  std::vector<int32_t> bits;
  bool is_exact = true;
  for (const double score : scores) {
    rounded.push_back(static_cast<float>(score));
    is_exact = is_exact && static_cast<double>(rounded.back()) == score;
    const uint64_t all = std::bit_cast<uint64_t>(score);
    bits.push_back(static_cast<int32_t>(static_cast<uint32_t>(all)));
    bits.push_back(static_cast<int32_t>(static_cast<uint32_t>(all >> 32)));
  }
  writer.AddFloat32Array(keys::kScores, rounded);
  if (!is_exact) writer.AddInt32Array(keys::kScoreBits, bits);
}

}  // namespace

void AddVocabularyKeys(const Vocabulary& vocabulary, GgufWriter& writer) {
  CHECK(vocabulary.tokens.size() == vocabulary.kinds.size());
  writer.AddString(keys::kModel, vocabulary.model);
  writer.AddString(keys::kPre, vocabulary.pre_tokenizer);
  writer.AddStringArray(keys::kTokens, vocabulary.tokens);
  std::vector<int32_t> kinds;
  kinds.reserve(vocabulary.kinds.size());
  for (const TokenKind kind : vocabulary.kinds) kinds.push_back(static_cast<int32_t>(kind));
  writer.AddInt32Array(keys::kTokenTypes, kinds);
  AddScores(vocabulary.scores, writer);
  if (vocabulary.scores.empty()) writer.AddStringArray(keys::kMerges, vocabulary.merges);
  AddId(keys::kBosId, vocabulary.bos_id, writer);
  AddId(keys::kEosId, vocabulary.eos_id, writer);
  AddId(keys::kPadId, vocabulary.pad_id, writer);
  AddId(keys::kUnkId, vocabulary.unk_id, writer);
  const bool adds_bos = !vocabulary.prefix_ids.empty() && vocabulary.prefix_ids[0] == vocabulary.bos_id;
  writer.AddBool(keys::kAddBos, adds_bos);
  writer.AddInt32Array(keys::kPrefixIds, vocabulary.prefix_ids);
  writer.AddInt32Array(keys::kSuffixIds, vocabulary.suffix_ids);
  writer.AddBool(keys::kAddPrefixSpace, vocabulary.add_prefix_space);
  writer.AddBool(keys::kUseRegex, vocabulary.use_regex);
  writer.AddBool(keys::kIgnoreMerges, vocabulary.ignore_merges);
  if (vocabulary.model != "gpt2") {
    writer.AddBool(keys::kSpacePrefix, vocabulary.add_prefix_space);
    writer.AddBool(keys::kRemoveSpaces, vocabulary.removes_extra_spaces);
    writer.AddBool(keys::kByteFallback, vocabulary.byte_fallback);
    writer.AddBool(keys::kSentencePiece, vocabulary.sentencepiece);
  }
  if (!vocabulary.pipeline.empty()) writer.AddString(keys::kPipeline, vocabulary.pipeline);
  AddAddedTokens(vocabulary.added_tokens, writer);
}

}  // namespace frugal
