// tokenizer.json of Hugging Face's `tokenizers`: https://huggingface.co/docs/tokenizers/api: BPE and unigram models.
// Whatever would change a result and is not understood is refused by name.
#include <string>
#include <string_view>

#include "src/text/pipeline_json.h"
#include "src/text/utf8.h"
#include "src/text/vocabulary_parts.h"

namespace frugal {
namespace {

using nlohmann::json;

// Whether nothing but one ByteLevel pre-tokenizer and decoder is there, as GPT-2 has it.
Result<bool> IsPlainByteLevel(const json& document, const Pipeline& pipeline) {
  const json* words = Member(document, "pre_tokenizer");
  if (!pipeline.normalizer.empty() || words == nullptr || pipeline.byte_fallback || pipeline.fuse_unknown) return false;
  if (pipeline.decoder.size() != 1 || pipeline.decoder[0].kind != DecodeStep::Kind::kByteLevel) return false;
  FRUGAL_ASSIGN(const auto elements, PartElements(*words, "pre_tokenizer", "pretokenizers"));
  if (elements.size() != 1) return false;
  FRUGAL_ASSIGN(const std::string type, PartType(*elements[0], "pre_tokenizer"));
  return type == "ByteLevel";
}

Status ReadBpe(const json& model, const TokenizerDocument& parsed, Vocabulary& vocabulary) {
  if (!parsed.has_vocabulary) return BadModel("model.vocab: expected an object");
  if (!parsed.has_merges) return BadModel("model.merges: expected an array");
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    FRUGAL_ASSIGN(const std::string text, StringMember(model, affix, ""));
    if (!text.empty()) return BadModel("model.{} {} is not supported", affix, Quoted(text));
  }
  if (const json* dropout = Member(model, "dropout"); dropout != nullptr && *dropout != 0.0) {
    return BadModel("model.dropout is not supported");
  }
  FRUGAL_ASSIGN(vocabulary.ignore_merges, BoolMember(model, "ignore_merges", false));
  return {};
}

// Of BPE, "gpt2" or "llama" is known when its words are: for now it is the latter.
Status ReadModel(const json& document, const TokenizerDocument& parsed, Vocabulary& vocabulary) {
  const json* model = Member(document, "model");
  if (model == nullptr) return BadModel("model: not there");
  FRUGAL_ASSIGN(const std::string type, PartType(*model, "model"));
  if (type == "Unigram") {
    vocabulary.model = "t5";
    if (!parsed.has_scored_vocabulary) return BadModel("model.vocab: expected an array of tokens with scores");
    return {};
  }
  // Old files (gpt2's own) do not name the type.
  if (type != "BPE" && !(type.empty() && parsed.has_vocabulary && parsed.has_merges))
    return UnsupportedPart("model", type);
  vocabulary.model = "llama";
  return ReadBpe(*model, parsed, vocabulary);
}

// What becomes of text before and behind the model. The usual pipeline of GPT-2 has keys of its own in a packed model; any other is kept
// as the file says it.
Status ReadPipeline(const json& document, Vocabulary& vocabulary) {
  const json& model = *Member(document, "model");
  const bool is_unigram = vocabulary.model == "t5";
  json parts = json::object();
  for (const char* part : {"normalizer", "pre_tokenizer", "decoder"}) {
    if (const json* value = Member(document, part)) parts[part] = *value;
  }
  FRUGAL_ASSIGN(parts["byte_fallback"], BoolMember(model, "byte_fallback", false));
  // `tokenizers` always fuses the unknown characters of a unigram model.
  FRUGAL_ASSIGN(parts["fuse_unk"], BoolMember(model, "fuse_unk", is_unigram));
  FRUGAL_ASSIGN(const Pipeline pipeline, PipelineFromJson(parts));
  if (is_unigram && pipeline.byte_level) return BadModel("pre_tokenizer type ByteLevel with Unigram is not supported");
  if (pipeline.byte_level) vocabulary.model = "gpt2";

  FRUGAL_ASSIGN(const bool is_gpt2, IsPlainByteLevel(document, pipeline));
  if (is_gpt2) {
    FRUGAL_ASSIGN(const auto elements, PartElements(*Member(document, "pre_tokenizer"), "pre_tokenizer", "pretokenizers"));
    FRUGAL_ASSIGN(vocabulary.add_prefix_space, BoolMember(*elements[0], "add_prefix_space", true));
    FRUGAL_ASSIGN(vocabulary.use_regex, BoolMember(*elements[0], "use_regex", true));
    return {};
  }
  vocabulary.pre_tokenizer = "default";
  vocabulary.pipeline = parts.dump();
  if (vocabulary.pipeline.size() > kMaxPipelineTextBytes) {
    return BadModel("normalizer, pre_tokenizer and decoder have {} bytes, at most {} are supported",
                    vocabulary.pipeline.size(), kMaxPipelineTextBytes);
  }
  return {};
}

Status ReadUnknownToken(const json& model, Vocabulary& vocabulary) {
  if (const json* id = Member(model, "unk_id"); id != nullptr && vocabulary.model == "t5") {
    if (!id->is_number_unsigned() || id->get<uint64_t>() >= vocabulary.tokens.size()) {
      return BadModel("model.unk_id: expected an id in the vocabulary of {} tokens", vocabulary.tokens.size());
    }
    vocabulary.unk_id = id->get<int32_t>();
    return {};
  }
  FRUGAL_ASSIGN(const std::string unknown, StringMember(model, "unk_token", ""));
  if (unknown.empty()) return {};
  vocabulary.unk_id = FindTokenId(vocabulary, unknown);
  if (vocabulary.unk_id < 0) return BadModel("model.unk_token {} is not in the vocabulary", Quoted(unknown));
  return {};
}

Status AppendTemplateIds(const json& processor, const json& piece, std::vector<int32_t>& ids) {
  FRUGAL_ASSIGN(const std::string name, StringMember(piece, "id", ""));
  const json* tokens = Member(processor, "special_tokens");
  if (tokens == nullptr || !tokens->is_object())
    return BadModel("post_processor.special_tokens: expected an object");
  const json* token = Member(*tokens, name.c_str());
  const json* list = token != nullptr && token->is_object() ? Member(*token, "ids") : nullptr;
  if (list == nullptr || !list->is_array()) {
    return BadModel("post_processor.special_tokens: {}: expected an object with ids", Quoted(name));
  }
  for (const json& id : *list) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX) {
      return BadModel("post_processor.special_tokens: {}: expected ids of 0 to 2147483647", Quoted(name));
    }
    ids.push_back(id.get<int32_t>());
  }
  return {};
}

// `single`: what is put around one text.
Status ReadTemplate(const json& processor, Vocabulary& vocabulary) {
  const json* single = Member(processor, "single");
  if (single == nullptr || !single->is_array()) return BadModel("post_processor.single: expected an array");
  bool text_seen = false;
  for (const json& piece : *single) {
    const json* special = piece.is_object() ? Member(piece, "SpecialToken") : nullptr;
    const json* sequence = piece.is_object() ? Member(piece, "Sequence") : nullptr;
    if (special != nullptr && special->is_object()) {
      FRUGAL_TRY(
          AppendTemplateIds(processor, *special, text_seen ? vocabulary.suffix_ids : vocabulary.prefix_ids));
    } else if (sequence != nullptr && !text_seen) {
      text_seen = true;
    } else {
      return BadModel("post_processor.single: expected special tokens around one Sequence");
    }
  }
  if (!text_seen) return BadModel("post_processor.single: expected a Sequence");
  return {};
}

// BERT's and RoBERTa's: "cls" in front, "sep" behind, each a token and its id.
Status ReadClsAndSep(const json& processor, Vocabulary& vocabulary) {
  for (const char* key : {"cls", "sep"}) {
    const json* pair = Member(processor, key);
    const bool is_pair = pair != nullptr && pair->is_array() && pair->size() == 2 && (*pair)[1].is_number_unsigned() &&
                         (*pair)[1].get<uint64_t>() <= INT32_MAX;
    if (!is_pair) return BadModel("post_processor.{}: expected a token and its id", key);
    (key[0] == 'c' ? vocabulary.prefix_ids : vocabulary.suffix_ids).push_back((*pair)[1].get<int32_t>());
  }
  return {};
}

Status ReadPostProcessor(const json& document, Vocabulary& vocabulary) {
  const json* post_processor = Member(document, "post_processor");
  if (post_processor == nullptr) return {};
  FRUGAL_ASSIGN(const auto elements, PartElements(*post_processor, "post_processor", "processors"));
  bool template_seen = false;
  for (const json* element : elements) {
    FRUGAL_ASSIGN(const std::string type, PartType(*element, "post_processor"));
    if (type == "ByteLevel") continue;  // moves offsets only, which nobody asks for
    const bool is_pair = type == "RobertaProcessing" || type == "BertProcessing";
    if (!is_pair && type != "TemplateProcessing") return UnsupportedPart("post_processor", type);
    if (template_seen) return BadModel("post_processor: two templates are not supported");
    template_seen = true;
    FRUGAL_TRY(is_pair ? ReadClsAndSep(*element, vocabulary) : ReadTemplate(*element, vocabulary));
  }
  return {};
}

Status ReadAddedTokens(const json& document, Vocabulary& vocabulary) {
  const json* list = Member(document, "added_tokens");
  if (list == nullptr) return {};
  if (!list->is_array()) return BadModel("added_tokens: expected an array");
  for (size_t i = 0; i < list->size(); ++i) {
    const json& object = (*list)[i];
    Result<AddedToken> token = AddedTokenFromJson(object);
    if (!token) return WithContext(std::move(token).error(), fmt::format("added_tokens[{}]", i));
    const json* id = Member(object, "id");
    if (id == nullptr || !id->is_number_unsigned() || id->get<uint64_t>() > INT32_MAX) {
      return BadModel("added_tokens[{}]: id: expected 0 to 2147483647", i);
    }
    token->id = id->get<int32_t>();
    FRUGAL_TRY(PlaceAddedToken(*std::move(token), vocabulary));
  }
  return {};
}

Result<Vocabulary> Read(TokenizerDocument parsed) {
  const json& document = parsed.rest;
  Vocabulary vocabulary;
  // The type of the model comes first: it is the best name for what is not supported.
  FRUGAL_TRY(ReadModel(document, parsed, vocabulary));
  FRUGAL_TRY(ReadPipeline(document, vocabulary));
  FRUGAL_TRY(PlaceTokens(std::move(parsed.entries), vocabulary));
  FRUGAL_TRY(ReadAddedTokens(document, vocabulary));
  FRUGAL_TRY(ReadUnknownToken(*Member(document, "model"), vocabulary));
  FRUGAL_TRY(ReadPostProcessor(document, vocabulary));
  vocabulary.merges = std::move(parsed.merges);
  return vocabulary;
}

}  // namespace

Result<Vocabulary> ParseTokenizerJson(std::string_view text, const std::string& name) {
  FRUGAL_ASSIGN(TokenizerDocument parsed,
                ParseTokenizerDocument(text, TokenizerDocumentKind::kTokenizerJson, name));
  Result<Vocabulary> vocabulary = Read(std::move(parsed));
  if (!vocabulary) return WithContext(std::move(vocabulary).error(), name);
  return vocabulary;
}

}  // namespace frugal
