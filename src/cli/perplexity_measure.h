// The perplexity of a model on a few token sequences within a budget, for verbs that say what a lossy step costs.
#pragma once

#include "src/cli/evaluation.h"
#include "src/format/packed_format.h"
#include "src/train/layer_run.h"

namespace frugal {

struct MeasuredPerplexity {
  Perplexity perplexity;
  double left_out_share = 0;  // of the neurons, where the options sparsify
};

// Of `options`: the model, its activation and thresholds, the budget, threads and reader. It runs in resident mode where the budget holds
// that, else in hybrid mode, which gives the same bits; nothing is predicted. What the process holds already comes out of the budget.
Result<MeasuredPerplexity> MeasurePerplexity(EngineOptions options, const TokenSequences& text);

// kDoesNotFit where sequences of options.context tokens cannot be measured in the budget: before hours are spent on what is to be measured.
Status CheckMeasureFits(EngineOptions options);

// Both of the same text.
PerplexityEffect EffectOf(const Perplexity& before, const Perplexity& after);

}  // namespace frugal
