// Which selector a run has: what the user asked for (--selector), or what the model's layout and its files allow. The planner, which knows
// the budget, has the last word: see Planner::Make.
#pragma once

#include <string>

#include "src/base/result.h"
#include "src/engine/plan.h"

namespace frugal {

// Never kAuto. kUsage where the layout, the activation or a missing file do not go with what was asked for.
Result<SelectorKind> ChooseSelector(const ModelFile& model, const PredictorInfo* predictor, const EngineOptions& options);
// kUsage where --sparsify has nothing to do or cannot do it: activated gates that are exactly zero already, no gate, a gate that is no
// matrix. It says how to pack such a model.
Status RequireSparsifiable(const ModelFile& model);
// Whether a gate sketch may replace "all neurons" where the budget does not hold them all.
bool MayTakeSketch(const ModelFile& model, SelectorKind chosen, const EngineOptions& options);
// Whether the selector is a sketch in RAM, exact or not, of rows that lie in the bundles.
bool HasSketch(const ModelFile& model, SelectorKind selector);
// Whether the sketch may guess early: what it reads before attention is the residual stream as the FFN's norm gives it, which a block with
// its norms behind has not, and a parallel one need not guess.
bool SketchMayGuessEarly(const ModelFile& model, SelectorKind selector);
// For the first line of a run and for `plan`.
std::string DescribeSelector(const ModelFile& model, const EngineOptions& options, const EnginePlan& plan);

}  // namespace frugal
