// The parts of a tokenizer.json that say how text becomes words and tokens text: https://huggingface.co/docs/tokenizers/api/normalizers,
// .../pre-tokenizers, .../decoders. Whatever would change a result and is not understood is refused by name.
#include "src/text/pipeline_json.h"

#include <optional>
#include <utility>

#include "src/text/oniguruma.h"
#include "src/text/utf8.h"
#include "src/text/vocabulary_parts.h"

namespace frugal {
namespace {

using nlohmann::json;
using When = PrependStep::When;

// ASCII's punctuation and Unicode's.
constexpr char kPunctuation[] = R"([\p{P}\x21-\x2F\x3A-\x40\x5B-\x60\x7B-\x7E])";

TextStep Split(std::string expression, SplitBehavior behavior, bool invert = false) {
  return SplitStep{{std::move(expression), TextPattern::Kind::kExpression}, behavior, invert};
}

bool IsOneCharacter(std::string_view text) { return !text.empty() && NextUtf8(text).size_bytes == text.size(); }

Result<TextPattern> ReadPattern(const json& object, const char* part) {
  const json* pattern = Member(object, "pattern");
  if (pattern != nullptr && pattern->is_object() && pattern->size() == 1) {
    const json& text = pattern->front();
    const bool literal = pattern->contains("String");
    if (text.is_string() && (literal || pattern->contains("Regex"))) {
      return TextPattern{text.get<std::string>(), literal ? TextPattern::Kind::kLiteral : TextPattern::Kind::kExpression};
    }
  }
  return BadModel("{}: pattern: expected an object of a String or a Regex", part);
}

Result<SplitBehavior> ReadBehavior(const json& object, const char* fallback) {
  FRUGAL_ASSIGN(const std::string name, StringMember(object, "behavior", fallback));
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  return BadModel("behavior {} is not supported", Quoted(name));
}

Status ReadNormalizer(const json& element, const std::string& type, std::vector<TextStep>& steps) {
  if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
    const bool compat = type.size() == 4, composed = type.back() == 'C';
    steps.push_back(UnicodeStep{compat ? (composed ? UnicodeForm::kNfkc : UnicodeForm::kNfkd)
                                       : (composed ? UnicodeForm::kNfc : UnicodeForm::kNfd)});
  } else if (type == "Lowercase") {
    steps.push_back(LowercaseStep{});
  } else if (type == "Strip") {
    StripStep strip;
    FRUGAL_ASSIGN(strip.left, BoolMember(element, "strip_left", true));
    FRUGAL_ASSIGN(strip.right, BoolMember(element, "strip_right", true));
    steps.push_back(strip);
  } else if (type == "Prepend") {
    PrependStep prepend;
    FRUGAL_ASSIGN(prepend.text, StringMember(element, "prepend", "\u2581"));
    steps.push_back(std::move(prepend));
  } else if (type == "Replace") {
    ReplaceStep replace;
    FRUGAL_ASSIGN(replace.pattern, ReadPattern(element, "normalizer"));
    FRUGAL_ASSIGN(replace.content, StringMember(element, "content", ""));
    steps.push_back(std::move(replace));
  } else if (type == "ByteLevel") {
    steps.push_back(SpellStep{});
  } else {
    return UnsupportedPart("normalizer", type);
  }
  return {};
}

// Of a Metaspace: its one character, and where it is put in front.
struct Metaspace {
  std::string replacement;
  std::string scheme;
  bool split = true;
};

Result<Metaspace> ReadMetaspace(const json& element, const char* part) {
  Metaspace metaspace;
  FRUGAL_ASSIGN(metaspace.replacement, StringMember(element, "replacement", "\u2581"));
  if (!IsOneCharacter(metaspace.replacement)) return BadModel("{}: replacement: expected one character", part);
  // Old files say it by add_prefix_space.
  FRUGAL_ASSIGN(const bool add_prefix_space, BoolMember(element, "add_prefix_space", true));
  FRUGAL_ASSIGN(metaspace.scheme, StringMember(element, "prepend_scheme", add_prefix_space ? "always" : "never"));
  FRUGAL_ASSIGN(metaspace.split, BoolMember(element, "split", true));
  if (metaspace.scheme != "always" && metaspace.scheme != "first" && metaspace.scheme != "never") {
    return BadModel("{}: prepend_scheme {} is not supported", part, Quoted(metaspace.scheme));
  }
  return metaspace;
}

Status AddMetaspace(const json& element, std::vector<TextStep>& steps) {
  FRUGAL_ASSIGN(const Metaspace metaspace, ReadMetaspace(element, "pre_tokenizer"));
  const std::string& replacement = metaspace.replacement;
  steps.push_back(ReplaceStep{{" ", TextPattern::Kind::kLiteral}, replacement});
  if (metaspace.scheme != "never") {
    steps.push_back(
        PrependStep{replacement, metaspace.scheme == "always" ? When::kUnlessThere : When::kUnlessThereAtBegin});
  }
  if (metaspace.split) {
    steps.push_back(SplitStep{{replacement, TextPattern::Kind::kLiteral}, SplitBehavior::kMergedWithNext, false});
  }
  return {};
}

Status AddByteLevel(const json& element, std::vector<TextStep>& steps) {
  FRUGAL_ASSIGN(const bool add_prefix_space, BoolMember(element, "add_prefix_space", true));
  FRUGAL_ASSIGN(const bool use_regex, BoolMember(element, "use_regex", true));
  AppendByteLevel(add_prefix_space, use_regex, steps);
  return {};
}

Status ReadPreTokenizer(const json& element, const std::string& type, std::vector<TextStep>& steps) {
  if (type == "ByteLevel") return AddByteLevel(element, steps);
  if (type == "Metaspace") return AddMetaspace(element, steps);
  if (type == "Split") {
    SplitStep split;
    FRUGAL_ASSIGN(split.pattern, ReadPattern(element, "pre_tokenizer"));
    FRUGAL_ASSIGN(split.behavior, ReadBehavior(element, ""));
    FRUGAL_ASSIGN(split.invert, BoolMember(element, "invert", false));
    steps.push_back(std::move(split));
  } else if (type == "Digits") {
    FRUGAL_ASSIGN(const bool individual, BoolMember(element, "individual_digits", false));
    steps.push_back(Split(R"(\p{N})", individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous));
  } else if (type == "Punctuation") {
    FRUGAL_ASSIGN(const SplitBehavior behavior, ReadBehavior(element, "Isolated"));
    steps.push_back(Split(kPunctuation, behavior));
  } else if (type == "Whitespace") {
    const std::string words = fmt::format(R"([{0}\p{{Join_Control}}]+|[^{0}\p{{Join_Control}}\s]+)", kWordClass);
    steps.push_back(Split(words, SplitBehavior::kRemoved, /*invert*/ true));
  } else if (type == "WhitespaceSplit") {
    steps.push_back(Split(R"(\s)", SplitBehavior::kRemoved));
  } else if (type == "BertPreTokenizer") {
    steps.push_back(Split(R"(\s)", SplitBehavior::kRemoved));
    steps.push_back(Split(kPunctuation, SplitBehavior::kIsolated));
  } else if (type == "CharDelimiterSplit") {
    FRUGAL_ASSIGN(const std::string delimiter, StringMember(element, "delimiter", ""));
    steps.push_back(SplitStep{{delimiter, TextPattern::Kind::kLiteral}, SplitBehavior::kRemoved, false});
  } else {
    return UnsupportedPart("pre_tokenizer", type);
  }
  return {};
}

Result<uint32_t> CountMember(const json& element, const char* key) {
  const json* member = Member(element, key);
  if (member == nullptr) return 0u;
  if (!member->is_number_unsigned() || member->get<uint64_t>() > INT32_MAX) {
    return BadModel("decoder: {}: expected 0 to {}", key, INT32_MAX);
  }
  return member->get<uint32_t>();
}

Status ReadDecoder(const json& element, const std::string& type, std::vector<DecodeStep>& steps) {
  DecodeStep step;
  if (type == "ByteLevel") {
    step.kind = DecodeStep::Kind::kByteLevel;
  } else if (type == "ByteFallback") {
    step.kind = DecodeStep::Kind::kByteFallback;
  } else if (type == "Fuse") {
    step.kind = DecodeStep::Kind::kFuse;
  } else if (type == "Replace") {
    step.kind = DecodeStep::Kind::kReplace;
    FRUGAL_ASSIGN(const TextPattern pattern, ReadPattern(element, "decoder"));
    if (pattern.kind != TextPattern::Kind::kLiteral || pattern.text.empty()) {
      return BadModel("decoder: a Replace of an expression or of nothing is not supported");
    }
    step.from = pattern.text;
    FRUGAL_ASSIGN(step.to, StringMember(element, "content", ""));
  } else if (type == "Strip") {
    step.kind = DecodeStep::Kind::kStrip;
    FRUGAL_ASSIGN(step.from, StringMember(element, "content", " "));
    if (!IsOneCharacter(step.from)) return BadModel("decoder: Strip: content: expected one character");
    FRUGAL_ASSIGN(step.start, CountMember(element, "start"));
    FRUGAL_ASSIGN(step.stop, CountMember(element, "stop"));
  } else if (type == "Metaspace") {
    step.kind = DecodeStep::Kind::kMetaspace;
    FRUGAL_ASSIGN(const Metaspace metaspace, ReadMetaspace(element, "decoder"));
    step.from = metaspace.replacement;
    step.drops_first = metaspace.scheme != "never";
  } else {
    return UnsupportedPart("decoder", type);
  }
  steps.push_back(std::move(step));
  return {};
}

// A component and, of a sequence, its elements; `step` reads one.
template <typename Steps, typename Step>
Status ReadPart(const json& document, const char* part, const char* list_key, Step step, Steps& steps) {
  const json* component = Member(document, part);
  if (component == nullptr) return {};
  FRUGAL_ASSIGN(const auto elements, PartElements(*component, part, list_key));
  for (const json* element : elements) {
    FRUGAL_ASSIGN(const std::string type, PartType(*element, part));
    FRUGAL_TRY(step(*element, type, steps));
    if (steps.size() > kMaxPipelineSteps) {
      return BadModel("{}: more than {} steps are not supported", part, kMaxPipelineSteps);
    }
  }
  return {};
}

}  // namespace

Error UnsupportedPart(std::string_view part, std::string_view type) {
  return BadModel("{} type {} is not supported", part, type.empty() ? "(none)" : type);
}

// A type is printed as it is: nothing but a name can be meant.
Result<std::string> PartType(const json& component, const char* part) {
  if (!component.is_object()) return BadModel("{}: expected an object", part);
  FRUGAL_ASSIGN(std::string type, StringMember(component, "type", ""));
  for (const char c : type) {
    if (c < 0x21 || c > 0x7E || type.size() > 64) return BadModel("{}: type {} is unknown", part, Quoted(type));
  }
  return type;
}

Result<std::vector<const json*>> PartElements(const json& component, const char* part, const char* key) {
  FRUGAL_ASSIGN(const std::string type, PartType(component, part));
  if (type != "Sequence") return std::vector<const json*>{&component};
  const json* list = Member(component, key);
  if (list == nullptr || !list->is_array()) return BadModel("{}: {}: expected an array", part, key);
  std::vector<const json*> elements;
  // A sequence in a sequence is carried out in its place; the depth of the document is bounded by its reader.
  for (const json& element : *list) {
    FRUGAL_ASSIGN(const auto inner, PartElements(element, part, key));
    elements.insert(elements.end(), inner.begin(), inner.end());
  }
  return elements;
}

void AppendByteLevel(bool add_prefix_space, bool use_regex, std::vector<TextStep>& steps) {
  if (add_prefix_space) steps.push_back(PrependStep{" ", When::kUnlessThere});
  if (use_regex) steps.push_back(Split(kGpt2Words, SplitBehavior::kIsolated));
  steps.push_back(SpellStep{});
}

Result<Pipeline> PipelineFromJson(const json& document) {
  Pipeline pipeline;
  FRUGAL_TRY(ReadPart(document, "normalizer", "normalizers", ReadNormalizer, pipeline.normalizer));
  FRUGAL_TRY(ReadPart(document, "pre_tokenizer", "pretokenizers", ReadPreTokenizer, pipeline.pre_tokenizer));
  if (Member(document, "decoder") == nullptr) return UnsupportedPart("decoder", "");
  FRUGAL_TRY(ReadPart(document, "decoder", "decoders", ReadDecoder, pipeline.decoder));
  FRUGAL_ASSIGN(pipeline.byte_fallback, BoolMember(document, "byte_fallback", false));
  FRUGAL_ASSIGN(pipeline.fuse_unknown, BoolMember(document, "fuse_unk", false));
  for (const auto* steps : {&pipeline.normalizer, &pipeline.pre_tokenizer}) {
    for (const TextStep& step : *steps) {
      if (!std::holds_alternative<SpellStep>(step)) continue;
      if (pipeline.byte_level) return BadModel("pre_tokenizer: two ByteLevel are not supported");
      pipeline.byte_level = true;
    }
  }
  return pipeline;
}

Result<Pipeline> ParsePipeline(std::string_view text) {
  if (text.size() > kMaxPipelineTextBytes) {
    return BadModel("{} bytes, at most {} are supported", text.size(), kMaxPipelineTextBytes);
  }
  FRUGAL_ASSIGN(const TokenizerDocument document,
                ParseTokenizerDocument(text, TokenizerDocumentKind::kPlain, "pipeline"));
  return PipelineFromJson(document.rest);
}

}  // namespace frugal
