// A model's tokenizer, wherever it is: in a GGUF's keys (vocabulary_load.h), or in the files beside a checkpoint's config.json.
#pragma once

#include <cstdint>

#include "src/base/result.h"
#include "src/engine/options.h"
#include "src/model/model_file.h"
#include "src/text/tokenizer.h"

namespace frugal {

// kBadModel where it is broken or not supported.
Result<bool> HasTokenizer(const ModelFile& model);
// kBadModel too when a checkpoint's has more tokens than the model, kFailed when there is none.
Result<Tokenizer> LoadTokenizer(const ModelFile& model);

struct TokenizerHeader {
  // At least what LoadTokenizer and reading this header have allocated at any moment.
  TokenizerBytes bytes;
  // Of a checkpoint's tokenizer, which are the model's.
  int32_t bos_id = -1, eos_id = -1;
};
// `ram_bytes`: the budget, 0 for none. Files that cannot be read within it are not read, and `bytes` is what would do.
Result<TokenizerHeader> ReadTokenizerHeader(const ModelFile& model, uint64_t ram_bytes);

}  // namespace frugal
