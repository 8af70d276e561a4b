#include "src/text/tokenizer_builder.h"

#include <algorithm>

#include "src/text/tokenizer_impl.h"
#include "src/text/utf8.h"

namespace frugal {
namespace {

// The post-processor's lists are a token or two; a bad file's must not make every text long.
constexpr size_t kMaxPostProcessorIds = 64;

Status CheckId(std::string_view what, int64_t id, int64_t min, uint64_t num_tokens) {
  if (id < min || (id >= 0 && static_cast<uint64_t>(id) >= num_tokens)) {
    return BadModel("{}: id {} is not in the vocabulary of {} tokens", what, id, num_tokens);
  }
  return {};
}

}  // namespace

TokenizerBuilder::TokenizerBuilder(const Vocabulary& settings, uint64_t num_tokens, uint64_t num_merges,
                                   uint64_t total_token_bytes)
    : num_tokens_(num_tokens), num_merges_(num_merges), total_token_bytes_(total_token_bytes) {
  settings_.model = settings.model;
  settings_.pre_tokenizer = settings.pre_tokenizer;
  settings_.pipeline = settings.pipeline;
  settings_.byte_fallback = settings.byte_fallback;
  settings_.removes_extra_spaces = settings.removes_extra_spaces;
  settings_.sentencepiece = settings.sentencepiece;
  settings_.add_prefix_space = settings.add_prefix_space;
  settings_.use_regex = settings.use_regex;
  settings_.ignore_merges = settings.ignore_merges;
  settings_.added_tokens = settings.added_tokens;
  settings_.prefix_ids = settings.prefix_ids;
  settings_.suffix_ids = settings.suffix_ids;
  settings_.bos_id = settings.bos_id;
  settings_.eos_id = settings.eos_id;
  settings_.pad_id = settings.pad_id;
  settings_.unk_id = settings.unk_id;
}

TokenizerBuilder::~TokenizerBuilder() = default;

Status TokenizerBuilder::CheckSettings() const {
  if (num_tokens_ == 0) return BadModel("the vocabulary has no tokens");
  FRUGAL_TRY(CheckId("bos", settings_.bos_id, -1, num_tokens_));
  FRUGAL_TRY(CheckId("eos", settings_.eos_id, -1, num_tokens_));
  FRUGAL_TRY(CheckId("pad", settings_.pad_id, -1, num_tokens_));
  FRUGAL_TRY(CheckId("unk", settings_.unk_id, -1, num_tokens_));
  if (settings_.prefix_ids.size() > kMaxPostProcessorIds ||
      settings_.suffix_ids.size() > kMaxPostProcessorIds) {
    return BadModel("the post-processor adds {} and {} tokens, at most {} are supported",
                    settings_.prefix_ids.size(), settings_.suffix_ids.size(), kMaxPostProcessorIds);
  }
  for (const int32_t id : settings_.prefix_ids) FRUGAL_TRY(CheckId("post-processor", id, 0, num_tokens_));
  for (const int32_t id : settings_.suffix_ids) FRUGAL_TRY(CheckId("post-processor", id, 0, num_tokens_));
  return {};
}

Status TokenizerBuilder::Begin() {
  if (impl_ != nullptr) return {};
  FRUGAL_ASSIGN(Pipeline pipeline, MakePipeline(settings_));
  FRUGAL_TRY(CheckSettings());
  const bool has_scores = HasScores(settings_.model, num_merges_);
  FRUGAL_ASSIGN(TokenTable table,
                TokenTable::Allocate({num_tokens_, num_merges_, total_token_bytes_, has_scores},
                                     pipeline.byte_level ? TokenSpelling::kByteLevel : TokenSpelling::kPlain));
  // Where spelling is the last step it is left out: words are bytes as they are.
  bool words_are_spelled = pipeline.byte_level;
  if (!pipeline.pre_tokenizer.empty() && std::holds_alternative<SpellStep>(pipeline.pre_tokenizer.back())) {
    pipeline.pre_tokenizer.pop_back();
    words_are_spelled = false;
  }
  FRUGAL_ASSIGN(TextSteps normalizer, TextSteps::Create(pipeline.normalizer));
  FRUGAL_ASSIGN(TextSteps words, TextSteps::Create(pipeline.pre_tokenizer));
  impl_ = std::make_unique<Tokenizer::Impl>(std::move(table), std::move(normalizer), std::move(words),
                                            std::move(pipeline.decoder));
  impl_->words_are_spelled = words_are_spelled;
  impl_->unknown = {settings_.unk_id, pipeline.byte_fallback, pipeline.fuse_unknown};
  for (const TextStep& step : pipeline.normalizer) {
    impl_->normalizes_characters |= std::holds_alternative<UnicodeStep>(step);
  }
  if (has_scores) impl_->model = settings_.model == "t5" ? WordModel::kUnigram : WordModel::kScores;
  return {};
}

Status TokenizerBuilder::AddToken(std::string_view spelled, TokenKind kind, double score) {
  FRUGAL_TRY(Begin());
  return impl_->table.AddToken(spelled, kind, score);
}

Status TokenizerBuilder::AddMerge(std::string_view left_right) {
  FRUGAL_TRY(Begin());
  return impl_->table.AddMerge(left_right);
}

Result<Tokenizer> TokenizerBuilder::Finish(const std::string& name) {
  const auto finish = [this]() -> Status {
    FRUGAL_TRY(Begin());
    FRUGAL_TRY(impl_->table.Complete());
    Expression::Scratch scratch(0);
    const auto kinds =
        settings_.sentencepiece ? AddedTokenMatcher::Kinds::kSentencePiece : AddedTokenMatcher::Kinds::kAll;
    FRUGAL_ASSIGN(impl_->added_tokens,
                  AddedTokenMatcher::Create(impl_->table, settings_.added_tokens, kinds, [&](std::string& text) {
                    return impl_->normalizer.Transform(text, scratch);
                  }));
    for (const AddedToken& token : settings_.added_tokens) {
      if (impl_->IsSpecial(static_cast<uint32_t>(token.id)) != token.special) {
        return BadModel("added token {}: its kind says special, its flags say not, or the other way round",
                        Quoted(token.content));
      }
    }
    return {};
  };
  if (Status status = finish(); !status) return WithContext(std::move(status).error(), name);
  impl_->prefix_ids = std::move(settings_.prefix_ids);
  impl_->suffix_ids = std::move(settings_.suffix_ids);
  impl_->ignore_merges = settings_.ignore_merges;
  for (uint32_t id = 0; id < impl_->table.num_tokens(); ++id) {
    impl_->max_token_bytes = std::max<uint64_t>(impl_->max_token_bytes, impl_->table.bytes(id).size());
    impl_->min_score = std::min(impl_->min_score, impl_->table.score(id));
  }
  return Tokenizer(std::move(impl_));
}

}  // namespace frugal
