#include "src/text/tokenizer.h"

#include <new>

#include "src/base/bytes.h"
#include "src/text/bpe.h"
#include "src/text/byte_alphabet.h"
#include "src/text/score_encoder.h"
#include "src/text/tokenizer_builder.h"
#include "src/text/tokenizer_impl.h"
#include "src/text/unigram.h"
#include "src/text/utf8.h"

namespace frugal {
namespace {

constexpr uint64_t kPageBytes = 4096;  // of the arena, which is a mapping of its own

// What the compiled pipeline takes: compiling it is the only way to know. Nothing where it is not supported, which
// building the tokenizer will say.
uint64_t PipelineBytes(const Vocabulary& settings) {
  constexpr uint64_t kPostProcessorBytes = 1024;  // its ids, of which there are few
  Result<Pipeline> pipeline = MakePipeline(settings);
  if (!pipeline) return 0;
  const Result<TextSteps> normalizer = TextSteps::Create(pipeline->normalizer);
  const Result<TextSteps> words = TextSteps::Create(pipeline->pre_tokenizer);
  if (!normalizer || !words) return 0;
  return normalizer->memory_bytes() + words->memory_bytes() +
         TokenDecoder(std::move(pipeline->decoder)).memory_bytes() + kPostProcessorBytes;
}

// One call of Encode: a text goes through the added tokens of the raw text, the normalizer, the added tokens of the
// normalised text, words, and the model.
class Encoder {
 public:
  Encoder(const TokenizerParts& parts, uint64_t text_bytes, std::vector<int32_t>& ids)
      : parts_(parts),
        ids_(ids),
        scratch_(text_bytes),
        bpe_(parts.table, parts.unknown),
        scores_(parts.table, parts.unknown),
        unigram_(parts.table, parts.unknown, parts.min_score) {}

  Status Run(std::string_view text) {
    return Split(text, AddedTokenPass::kRaw, [this](std::string_view raw, size_t begin) -> Status {
      const PiecePlace place = begin == 0 ? PiecePlace::kBegin : PiecePlace::kLater;
      if (parts_.normalizer.empty()) return AddNormalized(raw, place);
      std::string normalized(raw);
      FRUGAL_TRY(parts_.normalizer.Transform(normalized, scratch_));
      return AddNormalized(normalized, place);
    });
  }

 private:
  Status Split(std::string_view text, AddedTokenPass pass, FunctionRef<Status(std::string_view, size_t)> on_text) {
    return parts_.added_tokens.Split(text, pass, parts_.table, scratch_, on_text,
                                     [this](int32_t id) { ids_.push_back(id); });
  }

  Status AddNormalized(std::string_view text, PiecePlace place) {
    return Split(text, AddedTokenPass::kNormalized, [&](std::string_view piece, size_t begin) {
      return parts_.pre_tokenizer.Split(piece, begin == 0 ? place : PiecePlace::kLater, scratch_,
                                        [this](std::string_view word) { AddWord(word); });
    });
  }

  void AddWord(std::string_view word) {
    std::string bytes;
    if (parts_.words_are_spelled) {
      // Where steps behind the spelling have made other characters, the model has no token for them.
      if (TryDecodeByteLevel(word, bytes)) word = bytes;
    }
    if (parts_.ignore_merges) {
      const int32_t id = parts_.table.Find(word);
      if (id >= 0) return ids_.push_back(id);
    }
    switch (parts_.model) {
      case WordModel::kMerges: return bpe_.Encode(word, ids_);
      case WordModel::kScores: return scores_.Encode(word, ids_);
      case WordModel::kUnigram: return unigram_.Encode(word, ids_);
    }
  }

  const TokenizerParts& parts_;
  std::vector<int32_t>& ids_;
  Expression::Scratch scratch_;
  BpeEncoder bpe_;
  ScoreEncoder scores_;
  UnigramEncoder unigram_;
};

// What can be said of `text` now: whole characters, and U+FFFD for broken ones. Removes it from `text`.
std::string TakeWholeCharacters(std::string& text) {
  std::string out;
  size_t at = 0;
  while (at < text.size()) {
    const Utf8Step step = NextUtf8(std::string_view(text).substr(at));
    if (step.state == Utf8State::kIncomplete) break;
    if (step.state == Utf8State::kWhole) {
      out.append(text, at, step.size_bytes);
    } else {
      AppendUtf8(step.code_point, out);
    }
    at += step.size_bytes;
  }
  text.erase(0, at);
  return out;
}

}  // namespace

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Result<Tokenizer> Tokenizer::Create(const Vocabulary& vocabulary, const std::string& name) {
  if (vocabulary.kinds.size() != vocabulary.tokens.size()) {
    return BadModel("{}: {} kinds of {} tokens", name, vocabulary.kinds.size(), vocabulary.tokens.size());
  }
  if (!vocabulary.scores.empty() && vocabulary.scores.size() != vocabulary.tokens.size()) {
    return BadModel("{}: {} scores of {} tokens", name, vocabulary.scores.size(), vocabulary.tokens.size());
  }
  uint64_t token_bytes = 0;
  for (const std::string& token : vocabulary.tokens) token_bytes += token.size();
  TokenizerBuilder builder(vocabulary, vocabulary.tokens.size(), vocabulary.merges.size(), token_bytes);
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const double score = vocabulary.scores.empty() ? 0.0 : vocabulary.scores[id];
    Status status = builder.AddToken(vocabulary.tokens[id], vocabulary.kinds[id], score);
    if (!status) return WithContext(std::move(status).error(), name);
  }
  for (const std::string& merge : vocabulary.merges) {
    Status status = builder.AddMerge(merge);
    if (!status) return WithContext(std::move(status).error(), name);
  }
  return builder.Finish(name);
}

Result<std::vector<int32_t>> Tokenizer::Encode(std::string_view text, SpecialTokens special) const {
  if (text.size() > kMaxTextBytes) {
    return MakeError(ErrorCode::kUsage, "the text has {} bytes, at most {} are supported", text.size(),
                     kMaxTextBytes);
  }
  if (const auto broken = FindInvalidUtf8(text)) {
    return MakeError(ErrorCode::kUsage, "the text is not UTF-8 at byte {} of {}", *broken, text.size());
  }
  try {
    std::vector<int32_t> ids;
    if (special == SpecialTokens::kAdd) ids = impl_->prefix_ids;
    FRUGAL_TRY(Encoder(*impl_, text.size(), ids).Run(text));
    if (special == SpecialTokens::kAdd) {
      ids.insert(ids.end(), impl_->suffix_ids.begin(), impl_->suffix_ids.end());
    }
    return ids;
  } catch (const std::bad_alloc&) {
    return MakeError(ErrorCode::kOutOfMemory, "no memory to tokenise a text of {} bytes", text.size());
  }
}

std::string Tokenizer::Decode(std::span<const int32_t> ids, ShowSpecial show) const {
  std::vector<int32_t> shown;
  shown.reserve(ids.size());
  for (const int32_t id : ids) {
    const bool is_known = id >= 0 && id < vocab_size();
    if (is_known && (show == ShowSpecial::kYes || !IsSpecial(id))) shown.push_back(id);
  }
  return impl_->decoder.Decode(shown, impl_->table);
}

std::string Tokenizer::TokenBytes(int32_t id, TokenPlace place) const {
  if (id < 0 || id >= vocab_size()) return {};
  return impl_->decoder.TokenBytes(static_cast<uint32_t>(id), place, impl_->table);
}

bool Tokenizer::IsSpecial(int32_t id) const {
  return id >= 0 && id < vocab_size() && impl_->IsSpecial(static_cast<uint32_t>(id));
}

int32_t Tokenizer::vocab_size() const { return static_cast<int32_t>(impl_->table.num_tokens()); }

int32_t Tokenizer::FindToken(std::string_view spelled) const { return impl_->table.FindSpelled(spelled); }

uint64_t Tokenizer::max_token_bytes() const {
  // No character comes of more than four times its size: a Hangul syllable of three comes of three letters of three.
  return impl_->max_token_bytes * (impl_->normalizes_characters ? 4 : 1);
}

uint64_t Tokenizer::memory_bytes() const {
  return sizeof(Impl) + RoundUp(impl_->table.memory_bytes(), kPageBytes) + impl_->normalizer.memory_bytes() +
         impl_->pre_tokenizer.memory_bytes() + impl_->decoder.memory_bytes() + impl_->added_tokens.memory_bytes() +
         (impl_->prefix_ids.capacity() + impl_->suffix_ids.capacity()) * sizeof(int32_t);
}

uint64_t Tokenizer::EstimateMemoryBytes(uint64_t num_tokens, uint64_t num_merges, uint64_t total_token_bytes,
                                        uint64_t num_added_tokens, const Vocabulary& settings) {
  const bool has_scores = HasScores(settings.model, num_merges);
  const uint64_t arena_bytes = TokenTable::ArenaBytes({num_tokens, num_merges, total_token_bytes, has_scores});
  return sizeof(Impl) + RoundUp(arena_bytes, kPageBytes) + PipelineBytes(settings) +
         num_added_tokens * sizeof(AddedTokenMatcher::Entry);
}

std::string Utf8Stream::Push(std::string_view bytes) {
  pending_ += bytes;
  return TakeWholeCharacters(pending_);
}

std::string Utf8Stream::Flush() {
  std::string rest;
  if (!pending_.empty()) AppendUtf8(0xFFFD, rest);  // the beginning of one character, so one mark
  pending_.clear();
  return rest;
}

}  // namespace frugal
