// A text file as token sequences to train on, read as a stream: of a text of any size only a part that is
// spread evenly over it is kept. The same text gives the same sequences.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/base/result.h"
#include "src/cli/text_pieces.h"

namespace frugal {

struct TrainingTextOptions {
  std::string separator;             // a line equal to it parts stories; empty: none
  uint32_t sequence_tokens = 512;    // at most
  uint64_t passage_bytes = 8 << 10;  // lines are tokenised together up to this size
  uint64_t max_tokens = 1 << 20;     // kept at most, about
};

// Passages are encoded with `encode`, which puts the tokenizer's own tokens in front (</s> for OPT), and cut
// into sequences. kUsage when a passage is no UTF-8 or the file holds no text; else as TextStream.
Result<std::vector<std::vector<int32_t>>> ReadTrainingText(const std::string& path,
                                                           const EncodeFunction& encode,
                                                           const TrainingTextOptions& options);

}  // namespace frugal
