// A text file as token sequences to train on: read in pieces, so that a text of any size fits the budget.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/base/result.h"
#include "src/text/tokenizer.h"

namespace frugal {

struct TrainingTextOptions {
  uint32_t sequence_tokens = 512;     // of a sequence, the prefix included
  uint64_t piece_bytes = 256 * 1024;  // read and tokenised at once
  uint64_t max_bytes = 16 << 20;      // of a longer text, pieces spread evenly over it
};

// Each sequence begins with what the tokenizer puts before a text (</s> for OPT); a piece's rest that does
// not fill a sequence is one too when it has at least 8 tokens. A piece ends where the file is cut, at whole
// characters. kUsage when the file is no UTF-8 text or holds too little for a sequence; kBadModel or kIo when
// it cannot be read.
Result<std::vector<std::vector<int32_t>>> ReadTrainingText(const std::string& path,
                                                           const Tokenizer& tokenizer,
                                                           const TrainingTextOptions& options);

}  // namespace frugal
