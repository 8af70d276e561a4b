// A text as a model's own tokenizer sees it, for verbs that run a model over a short one: pieces of ids that are kept in memory.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "src/base/result.h"
#include "src/train/layer_run.h"

namespace frugal {

// Where it comes from: one of the three is given.
struct ModelText {
  std::string path;           // a text, may be .xz
  std::string separator;      // of its stories
  std::string ids_path;       // token ids
  std::string_view built_in;  // a text that is in memory
  uint64_t max_tokens = 0;    // of it, from its beginning
  uint32_t piece_tokens = 0;  // of a piece, at most; the model's context bounds it too

  // "text:a.txt", "ids:a.ids", "built in"
  std::string Name() const;
};

// Model and tokenizer are closed again before it returns. kUsage where the model has no tokenizer and the text is no ids (`ids_flag` names
// the way out), and for a text without ids.
Result<TokenSequences> ReadModelText(const std::string& model_path, const ModelText& text, std::string_view ids_flag);

// English prose of about 500 tokens, of several kinds, written for this program: what a loss is measured on where no text is given.
std::string_view BuiltInText();

}  // namespace frugal
