// The text that a training run uses: cut into sequences that the model can take.
#pragma once

#include <cstdint>

#include "src/model/config.h"
#include "src/train/layer_run.h"
#include "src/train/train.h"
#include "src/train/train_plan.h"

namespace frugal {

// The token that begins a sequence: the model's beginning-of-text token, else its end-of-text token, else 0.
int32_t FirstToken(const ModelConfig& config);

// Tokens of a sampled sequence and their number: at least ten sequences, so that a tenth can be held out.
TextSize SampledTextSize(const TrainOptions& options, const ModelConfig& config);

// options.sequences cut into pieces that begin with FirstToken; of a text that is longer than num_tokens,
// pieces spread evenly over it. kUsage for ids outside the vocabulary and for too little text.
Result<TokenSequences> CutText(const TrainOptions& options, const ModelConfig& config);

}  // namespace frugal
