// The tokenizer that a GGUF's keys hold, read token by token: no list of all tokens lies in memory.
#pragma once

#include <cstdint>

#include "src/base/result.h"
#include "src/format/gguf_reader.h"
#include "src/text/tokenizer.h"

namespace frugal {

// Whether the file has a vocabulary. kBadModel when it has parts of one without the tokens.
Result<bool> HasTokenizer(const GgufReader& gguf);

// kBadModel with the file, the key and what is wrong; a model or pre-tokenizer that is not supported is refused by
// name. Keys beyond GGUF's own (tokenizer_keys.h) may be absent.
Result<Tokenizer> LoadTokenizer(const GgufReader& gguf);

// At least what LoadTokenizer allocates at any moment, for the ledger.
Result<uint64_t> EstimateTokenizerBytes(const GgufReader& gguf);

}  // namespace frugal
