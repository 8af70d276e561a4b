// Text that the model writes itself, at temperature 1: what it says is spread as what it was trained on, as
// far as it has learned that.
#pragma once

#include <atomic>

#include "src/base/function_ref.h"
#include "src/base/thread_pool.h"
#include "src/model/weights.h"
#include "src/train/layer_run.h"

namespace frugal {

// Sequence i depends on the seed and i only, not on how many run together: `batch` of them step at once. Each
// begins with the model's beginning-of-text token; an end-of-text token does not end it (the model goes on
// with another text, as it was trained to).
Result<TokenSequences> SampleText(Weights& weights, ThreadPool& pool, uint64_t num_sequences,
                                  uint32_t sequence_tokens, uint32_t batch, uint64_t seed,
                                  const std::atomic<bool>* cancel, FunctionRef<void(double share)> progress);

}  // namespace frugal
