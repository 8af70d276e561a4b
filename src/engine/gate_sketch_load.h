// Fills a gate sketch (select/gate_sketch.h) when an engine opens: every bundle of the model is read once, the way that a step reads a
// whole layer, and its first row is taken in. Costs about what one token of naive mode reads of the FFN.
#pragma once

#include <memory>

#include "src/base/thread_pool.h"
#include "src/engine/plan.h"
#include "src/model/weights.h"
#include "src/select/gate_sketch.h"

namespace frugal {

// What the planner counts with and LoadGateSketch builds. The layout has its deciding rows in bundles.
GateSketchOptions SketchOptionsOf(const ModelFile& model, SelectorKind selector, uint32_t max_rows, int num_threads);
// The sketch and what filling it takes for a while.
uint64_t GateSketchBytes(const GateSketchOptions& options);

// Before the first step. `plan.selector` has a sketch (HasSketch).
Result<std::unique_ptr<GateSketch>> LoadGateSketch(Weights& weights, ThreadPool& pool, const EnginePlan& plan);

}  // namespace frugal
