// What GGUF's tokenizer.ggml.model and tokenizer.ggml.pre stand for. The expressions of a pre-tokenizer are those of the tokenizer.json of
// the model that gave it its name, in their order; llama.cpp (src/llama-vocab.cpp) has the list of names.
#include <algorithm>
#include <array>
#include <utility>

#include "src/text/pipeline_json.h"
#include "src/text/utf8.h"

namespace frugal {
namespace {

constexpr std::string_view kSpace = " ", kMeta = "\u2581";

#define FRUGAL_ENGLISH_ENDINGS R"((?i:'s|'t|'re|'ve|'m|'ll|'d))"
#define FRUGAL_LINES_AND_SPACES R"(\s*[\r\n]+|\s+(?!\S)|\s+)"
#define FRUGAL_UPPER R"([\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])"
#define FRUGAL_LOWER R"([\p{Ll}\p{Lm}\p{Lo}\p{M}])"
#define FRUGAL_NOT_WORD R"([^\r\n\p{L}\p{N}]?)"

constexpr char kLlama3[] = FRUGAL_ENGLISH_ENDINGS "|" FRUGAL_NOT_WORD
    R"(\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)" FRUGAL_LINES_AND_SPACES;
constexpr char kQwen2[] = FRUGAL_ENGLISH_ENDINGS "|" FRUGAL_NOT_WORD
    R"(\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|)" FRUGAL_LINES_AND_SPACES;
constexpr char kQwen35[] = FRUGAL_ENGLISH_ENDINGS "|" FRUGAL_NOT_WORD
    R"([\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|)" FRUGAL_LINES_AND_SPACES;
constexpr char kTekken[] = FRUGAL_NOT_WORD FRUGAL_UPPER "*" FRUGAL_LOWER "+|" FRUGAL_NOT_WORD FRUGAL_UPPER "+" FRUGAL_LOWER
    R"(*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|)" FRUGAL_LINES_AND_SPACES;
constexpr char kGpt4o[] = FRUGAL_NOT_WORD FRUGAL_UPPER "*" FRUGAL_LOWER "+" FRUGAL_ENGLISH_ENDINGS "?|" FRUGAL_NOT_WORD
    FRUGAL_UPPER "+" FRUGAL_LOWER "*" FRUGAL_ENGLISH_ENDINGS
    R"(?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|)" FRUGAL_LINES_AND_SPACES;
constexpr char kDeepseek3Words[] =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+)"
    R"(| ?[\p{P}\p{S}]+[\r\n]*|)" FRUGAL_LINES_AND_SPACES;
constexpr char kChineseAndKana[] = "[一-龥぀-ゟ゠-ヿ]+";
constexpr char kChineseAndMore[] = "[一-龥ࠀ-一가-퟿]+";
// The letters of scripts that have capitals, as DeepSeek's tokenizer.json lists them; those that NFC would change are spelled by number.
constexpr char kDeepseekLetters[] =
    R"(\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝ)"
    R"(Ὗ-\x{1F7D}ᾀ-ᾴᾶ-ᾼ\x{1FBE}ῂ-ῄῆ-ῌῐ-\x{1FD3}ῖ-\x{1FDB}ῠ-Ῥῲ-ῴῶ-ῼ)"
    R"(ℂℇℊ-ℓℕℙ-ℝℤ\x{2126}ℨ\x{212A}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗ)"
    R"(Ａ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+)";
constexpr char kDeepseekSigns[] = "\\s?[!-/:-~！-／：-～‘-‟　-。]+";
constexpr char kPoro[] = R"( ?[^(\s|.,!?…。，、।۔،)]+)";
constexpr char kBailing[] = R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*)"
    R"(|\s*[\r\n]|\s+(?!\S)|\s+)";
constexpr char kSeedCoder[] = FRUGAL_ENGLISH_ENDINGS "|" FRUGAL_NOT_WORD
    R"(\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|)" FRUGAL_LINES_AND_SPACES;

constexpr size_t kMaxExpressions = 6;

struct KnownPreTokenizer {
  std::string_view name;
  std::array<const char*, kMaxExpressions> expressions;  // each isolates its matches; nullptr behind the last
  KnownFlags flags = {};
};

constexpr KnownFlags kLlama3Flags = {.ignore_merges = true, .add_bos = true};

constexpr KnownPreTokenizer kKnown[] = {
    {"default", {R"([\p{P}$+<=>^~|]+)", kGpt2Words, R"(\p{N}+)", "[0-9][0-9][0-9]"}},
    {"gpt-2", {kGpt2Words}},
    {"phi-2", {kGpt2Words}},
    {"mpt", {kGpt2Words}},
    {"olmo", {kGpt2Words}},
    {"jais", {kGpt2Words}},
    {"gigachat", {kGpt2Words}},
    {"roberta-bpe", {kGpt2Words}},
    {"jina-es", {kGpt2Words}},
    {"jina-de", {kGpt2Words}},
    {"jina-v1-en", {kGpt2Words}},
    {"jina-v2-es", {kGpt2Words}},
    {"jina-v2-de", {kGpt2Words}},
    {"jina-v2-code", {kGpt2Words}},
    {"exaone4", {kGpt2Words}},
    {"a.x-4.0", {kGpt2Words}},
    {"mellum", {kGpt2Words}},
    {"trillion", {kGpt2Words}},
    {"granite-docling", {kGpt2Words}},
    {"llama-bpe", {kLlama3}, kLlama3Flags},
    {"llama3", {kLlama3}, kLlama3Flags},
    {"llama-v3", {kLlama3}, kLlama3Flags},
    {"falcon3", {kLlama3}, kLlama3Flags},
    {"falcon-h1", {kLlama3}, kLlama3Flags},
    {"pixtral", {kLlama3}, kLlama3Flags},
    {"midm-2.0", {kLlama3}, kLlama3Flags},
    {"lfm2", {kLlama3}, kLlama3Flags},
    {"dbrx", {kLlama3}},
    {"smaug-bpe", {kLlama3}},
    {"chatglm-bpe", {kLlama3}},
    {"glm4", {kLlama3}},
    {"qwen2", {kQwen2}, {.composes = true}},
    {"deepseek-r1-qwen", {kQwen2}, {.composes = true}},
    {"megrez", {kQwen2}},
    {"stablelm2", {kQwen2}},
    {"hunyuan", {kQwen2}},
    {"grok-2", {kQwen2}},
    {"qwen35", {kQwen35}, {.composes = true}},
    {"starcoder", {R"(\p{N})", kGpt2Words}},
    {"refact", {R"(\p{N})", kGpt2Words}},
    {"command-r", {R"(\p{N})", kGpt2Words}},
    {"smollm", {R"(\p{N})", kGpt2Words}},
    {"codeshell", {R"(\p{N})", kGpt2Words}},
    {"exaone", {R"(\p{N})", kGpt2Words}},
    {"minerva-7b", {R"(\p{N})", kGpt2Words}},
    {"deepseek-llm", {R"([\r\n])", kDeepseekLetters, kDeepseekSigns, R"(\s+$)", kChineseAndMore, R"(\p{N}+)"}},
    {"deepseek-coder", {R"([\r\n])", R"(\s?\p{L}+)", R"(\s?\p{P}+)", kChineseAndMore, R"(\p{N})"}},
    {"deepseek-v3", {R"(\p{N}{1,3})", kChineseAndKana, kDeepseek3Words}},
    {"hunyuan-dense", {R"(\p{N}{1,3})", kChineseAndKana, kDeepseek3Words}},
    {"joyai-llm", {R"(\p{N}{1,3})", kChineseAndKana, kDeepseek3Words}},
    {"tekken", {kTekken}, kLlama3Flags},
    {"gpt-4o", {kGpt4o}},
    {"llama4", {kGpt4o}},
    {"kanana2", {kGpt4o}},
    {"poro-chat", {kPoro}},
    {"bloom", {kPoro}},
    {"gpt3-finnish", {kPoro}},
    {"viking", {kPoro, R"(\p{N})"}},
    {"bailingmoe", {kBailing}},
    {"bailingmoe2", {kBailing}},
    {"llada-moe", {kBailing}},
    {"seed-coder", {kSeedCoder}},
};

#undef FRUGAL_ENGLISH_ENDINGS
#undef FRUGAL_LINES_AND_SPACES
#undef FRUGAL_UPPER
#undef FRUGAL_LOWER
#undef FRUGAL_NOT_WORD

TextStep Isolate(std::string_view expression, SplitBehavior behavior = SplitBehavior::kIsolated) {
  return SplitStep{{std::string(expression), TextPattern::Kind::kExpression}, behavior, false};
}

// Falcon's tokenizer.json splits digits after bytes have been spelled, where some bytes are digits ("¹" is 0xB9).
std::vector<TextStep> FalconSteps() {
  return {Isolate(R"([\p{P}\x21-\x2F\x3A-\x40\x5B-\x60\x7B-\x7E])", SplitBehavior::kContiguous), Isolate(kGpt2Words), SpellStep{},
          Isolate(R"(\p{N})", SplitBehavior::kContiguous), Isolate("[0-9][0-9][0-9]")};
}

const KnownPreTokenizer* FindKnown(std::string_view name) {
  const auto* at = std::find_if(std::begin(kKnown), std::end(kKnown), [&](const KnownPreTokenizer& known) { return known.name == name; });
  return at == std::end(kKnown) ? nullptr : at;
}

Result<Pipeline> ByteLevelPipeline(const Vocabulary& settings) {
  Pipeline pipeline;
  pipeline.byte_level = true;
  pipeline.decoder.emplace_back();  // of kind kByteLevel
  if (settings.add_prefix_space) pipeline.pre_tokenizer.push_back(PrependStep{std::string(kSpace), PrependStep::When::kUnlessThere});
  if (settings.pre_tokenizer == "falcon") {
    for (TextStep& step : FalconSteps()) pipeline.pre_tokenizer.push_back(std::move(step));
    return pipeline;
  }
  const KnownPreTokenizer* known = FindKnown(settings.pre_tokenizer);
  if (known == nullptr) return BadModel("pre-tokenizer {} is not supported", Quoted(settings.pre_tokenizer));
  if (known->flags.composes) pipeline.normalizer.push_back(UnicodeStep{UnicodeForm::kNfc});
  for (const char* expression : known->expressions) {
    if (expression != nullptr && settings.use_regex) pipeline.pre_tokenizer.push_back(Isolate(expression));
  }
  pipeline.pre_tokenizer.push_back(SpellStep{});
  return pipeline;
}

// Spaces are spelled U+2581; one is put in front of a text.
Pipeline SentencePiecePipeline(const Vocabulary& settings) {
  Pipeline pipeline;
  pipeline.fuse_unknown = true;
  pipeline.byte_fallback = settings.byte_fallback;
  if (settings.removes_extra_spaces) {
    pipeline.normalizer.push_back(ReplaceStep{{R"(\A +| +\z)", TextPattern::Kind::kExpression}, ""});
    pipeline.normalizer.push_back(ReplaceStep{{" {2,}", TextPattern::Kind::kExpression}, std::string(kSpace)});
  }
  if (settings.add_prefix_space) pipeline.normalizer.push_back(PrependStep{std::string(kMeta), PrependStep::When::kAlways});
  pipeline.normalizer.push_back(ReplaceStep{{std::string(kSpace), TextPattern::Kind::kLiteral}, std::string(kMeta)});
  using Kind = DecodeStep::Kind;
  pipeline.decoder.push_back({.kind = Kind::kReplace, .from = std::string(kMeta), .to = std::string(kSpace)});
  pipeline.decoder.push_back({.kind = Kind::kByteFallback});
  pipeline.decoder.push_back({.kind = Kind::kFuse});
  if (settings.add_prefix_space) pipeline.decoder.push_back({.kind = Kind::kStrip, .from = std::string(kSpace), .start = 1});
  return pipeline;
}

}  // namespace

KnownFlags FlagsOfPreTokenizer(std::string_view name) {
  const KnownPreTokenizer* known = FindKnown(name);
  return known == nullptr ? KnownFlags{} : known->flags;
}

Result<Pipeline> MakePipeline(const Vocabulary& settings) {
  if (!settings.pipeline.empty()) {
    Result<Pipeline> pipeline = ParsePipeline(settings.pipeline);
    if (!pipeline) return pipeline;
    if (pipeline->byte_level != (settings.model == "gpt2")) {
      return BadModel("tokenizer model {} does not go with its pipeline", Quoted(settings.model));
    }
    return pipeline;
  }
  if (settings.model == "gpt2") return ByteLevelPipeline(settings);
  if (settings.model == "llama" || settings.model == "t5") return SentencePiecePipeline(settings);
  return BadModel("tokenizer model {} is not supported", Quoted(settings.model));
}

}  // namespace frugal
