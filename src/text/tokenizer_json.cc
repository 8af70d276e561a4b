// tokenizer.json of Hugging Face's `tokenizers`: https://huggingface.co/docs/tokenizers/api, as far as
// byte-level BPE with GPT-2's words needs it. Whatever would change a result and is not understood is refused
// by name.
#include <string>
#include <string_view>

#include "src/text/utf8.h"
#include "src/text/vocabulary_parts.h"

namespace frugal {
namespace {

using nlohmann::json;

Error Unsupported(std::string_view part, std::string_view type) {
  return BadModel("{} type {} is not supported", part, type.empty() ? "(none)" : type);
}

// A type is printed as it is: nothing but a name can be meant.
Result<std::string> TypeOf(const json& component, const char* part) {
  if (!component.is_object()) return BadModel("{}: expected an object", part);
  FRUGAL_ASSIGN(std::string type, StringMember(component, "type", ""));
  for (const char c : type) {
    if (c < 0x21 || c > 0x7E || type.size() > 64)
      return BadModel("{}: type {} is unknown", part, Quoted(type));
  }
  return type;
}

// The list KEY of a component of type Sequence; a component of another type is its own only element.
Result<std::vector<const json*>> Elements(const json& component, const char* part, const char* key) {
  FRUGAL_ASSIGN(const std::string type, TypeOf(component, part));
  if (type != "Sequence") return std::vector<const json*>{&component};
  const json* list = Member(component, key);
  if (list == nullptr || !list->is_array()) return BadModel("{}: {}: expected an array", part, key);
  std::vector<const json*> elements;
  for (const json& element : *list) elements.push_back(&element);
  return elements;
}

Status ReadModel(const json& document, const TokenizerDocument& parsed, Vocabulary& vocabulary) {
  const json* model = Member(document, "model");
  if (model == nullptr) return BadModel("model: not there");
  FRUGAL_ASSIGN(const std::string type, TypeOf(*model, "model"));
  // Old files (gpt2's own) do not name the type.
  if (type != "BPE" && !(type.empty() && parsed.has_vocabulary && parsed.has_merges))
    return Unsupported("model", type);
  if (!parsed.has_vocabulary) return BadModel("model.vocab: expected an object");
  if (!parsed.has_merges) return BadModel("model.merges: expected an array");
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    FRUGAL_ASSIGN(const std::string text, StringMember(*model, affix, ""));
    if (!text.empty()) return BadModel("model.{} {} is not supported", affix, Quoted(text));
  }
  if (const json* dropout = Member(*model, "dropout"); dropout != nullptr && *dropout != 0.0) {
    return BadModel("model.dropout is not supported");
  }
  for (const char* flag : {"byte_fallback", "fuse_unk"}) {
    FRUGAL_ASSIGN(const bool value, BoolMember(*model, flag, false));
    if (value) return BadModel("model.{} true is not supported", flag);
  }
  FRUGAL_ASSIGN(vocabulary.ignore_merges, BoolMember(*model, "ignore_merges", false));
  return {};
}

Status ReadUnknownToken(const json& model, Vocabulary& vocabulary) {
  FRUGAL_ASSIGN(const std::string unknown, StringMember(model, "unk_token", ""));
  if (unknown.empty()) return {};
  vocabulary.unk_id = FindTokenId(vocabulary, unknown);
  if (vocabulary.unk_id < 0) return BadModel("model.unk_token {} is not in the vocabulary", Quoted(unknown));
  return {};
}

Status ReadPreTokenizer(const json& document, Vocabulary& vocabulary) {
  const json* pre_tokenizer = Member(document, "pre_tokenizer");
  if (pre_tokenizer == nullptr) return Unsupported("pre_tokenizer", "");
  FRUGAL_ASSIGN(const auto elements, Elements(*pre_tokenizer, "pre_tokenizer", "pretokenizers"));
  for (const json* element : elements) {
    FRUGAL_ASSIGN(const std::string type, TypeOf(*element, "pre_tokenizer"));
    if (type != "ByteLevel") return Unsupported("pre_tokenizer", type);
  }
  if (elements.size() != 1) {
    return BadModel("pre_tokenizer: a sequence of {} is not supported", elements.size());
  }
  FRUGAL_ASSIGN(vocabulary.add_prefix_space, BoolMember(*elements[0], "add_prefix_space", true));
  FRUGAL_ASSIGN(vocabulary.use_regex, BoolMember(*elements[0], "use_regex", true));
  return {};
}

Status ReadDecoder(const json& document) {
  const json* decoder = Member(document, "decoder");
  if (decoder == nullptr) return Unsupported("decoder", "");
  FRUGAL_ASSIGN(const std::string type, TypeOf(*decoder, "decoder"));
  if (type != "ByteLevel") return Unsupported("decoder", type);
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

Status ReadPostProcessor(const json& document, Vocabulary& vocabulary) {
  const json* post_processor = Member(document, "post_processor");
  if (post_processor == nullptr) return {};
  FRUGAL_ASSIGN(const auto elements, Elements(*post_processor, "post_processor", "processors"));
  bool template_seen = false;
  for (const json* element : elements) {
    FRUGAL_ASSIGN(const std::string type, TypeOf(*element, "post_processor"));
    if (type == "ByteLevel") continue;  // moves offsets only, which nobody asks for
    if (type != "TemplateProcessing") return Unsupported("post_processor", type);
    if (template_seen) return BadModel("post_processor: two templates are not supported");
    template_seen = true;
    FRUGAL_TRY(ReadTemplate(*element, vocabulary));
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
  if (const json* normalizer = Member(document, "normalizer")) {
    FRUGAL_ASSIGN(const auto elements, Elements(*normalizer, "normalizer", "normalizers"));
    for (const json* element : elements) {
      FRUGAL_ASSIGN(const std::string type, TypeOf(*element, "normalizer"));
      return Unsupported("normalizer", type);
    }
  }
  FRUGAL_TRY(ReadPreTokenizer(document, vocabulary));
  FRUGAL_TRY(ReadDecoder(document));
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
