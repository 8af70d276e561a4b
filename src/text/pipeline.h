// How a tokenizer turns text into words and tokens back into text, as plain data: the steps that a tokenizer.json names, that GGUF's
// tokenizer.ggml.pre stands for, or that a SentencePiece file implies. No behaviour: text_steps.h and token_decoder.h carry them out.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "src/base/result.h"
#include "src/text/vocabulary.h"

namespace frugal {

// What a step looks for: text as it is, or an expression in Oniguruma's syntax, which is what `tokenizers` uses.
struct TextPattern {
  enum class Kind { kLiteral, kExpression };
  std::string text;
  Kind kind = Kind::kExpression;
};

enum class UnicodeForm { kNfc, kNfd, kNfkc, kNfkd };
struct UnicodeStep {
  UnicodeForm form = UnicodeForm::kNfc;
};
struct LowercaseStep {};
struct StripStep {  // white space
  bool left = true, right = true;
};
struct ReplaceStep {
  TextPattern pattern;
  std::string content;
};
struct PrependStep {
  enum class When {
    kAlways,
    kUnlessThere,         // where the text does not begin with it
    kUnlessThereAtBegin,  // likewise, and only to the piece that the whole text begins with
  };
  std::string text;
  When when = When::kAlways;
};
// Each byte becomes its letter of the byte-level alphabet (byte_alphabet.h).
struct SpellStep {};

// What becomes of a match, as `tokenizers` names it.
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };
struct SplitStep {
  TextPattern pattern;
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;  // what lies between the matches is what is looked for
};

using TextStep =
    std::variant<UnicodeStep, LowercaseStep, StripStep, ReplaceStep, PrependStep, SpellStep, SplitStep>;

struct DecodeStep {
  enum class Kind {
    kByteLevel,
    kReplace,       // `from`, which is not empty, by `to`
    kByteFallback,  // "<0x0A>" is a byte
    kFuse,          // the tokens so far become one
    kStrip,         // at most `start` and `stop` times `from` (one character) at the ends
    kMetaspace,     // `from` by a space; in the first token by nothing, with `drops_first`
  };
  Kind kind = Kind::kByteLevel;
  std::string from = {}, to = {};
  uint32_t start = 0, stop = 0;
  bool drops_first = false;
};

// More steps or longer patterns are refused: they come from untrusted files.
constexpr size_t kMaxPipelineSteps = 64;
constexpr size_t kMaxPatternBytes = 1 << 14;
constexpr size_t kMaxPipelineTextBytes = 1 << 18;

struct Pipeline {
  std::vector<TextStep> normalizer;     // without SplitStep
  std::vector<TextStep> pre_tokenizer;  // in order
  std::vector<DecodeStep> decoder;
  bool byte_level = false;     // words are bytes, the vocabulary is spelled in the byte-level alphabet
  bool byte_fallback = false;  // a character that the vocabulary lacks becomes its bytes' tokens <0x00> to <0xFF>
  bool fuse_unknown = false;   // unknown characters beside each other become one unknown token
};

// What a name of GGUF's tokenizer.ggml.pre says beside its expressions; nothing for an unknown name.
struct KnownFlags {
  bool ignore_merges = false;
  bool add_bos = false;   // where the file does not say
  bool composes = false;  // the text is normalised by NFC
};
KnownFlags FlagsOfPreTokenizer(std::string_view name);

// Of a vocabulary: what its `pipeline` says, else what its model and pre-tokenizer are known to do. kBadModel with the name of what is
// not supported.
Result<Pipeline> MakePipeline(const Vocabulary& settings);

// From a JSON object with the members "normalizer", "pre_tokenizer" and "decoder" of a tokenizer.json, and "byte_fallback" and "fuse_unk"
// of its model.
Result<Pipeline> ParsePipeline(std::string_view text);

}  // namespace frugal
