#include "src/cli/perplexity_measure.h"

#include <malloc.h>

#include <algorithm>

#include "src/base/bytes.h"
#include "src/cli/bare_loop.h"
#include "src/cli/sparsify_report.h"
#include "src/engine/process_memory.h"

namespace frugal {
namespace {

// Of a step: where weights do not fit, each step reads them again.
constexpr uint32_t kMostLogitRows = 512;

// What a process that has done nothing yet uses, of which a plan knows (ProcessBytes).
constexpr uint64_t kFreshProcessBytes = kMiB / 2 + kCodeBytes;

// What the verb has done before leaves behind: the text, tables, a heap with gaps. An engine's plan fills the budget and knows nothing of
// it.
Result<uint64_t> HeldBytes() {
  malloc_trim(0);
  ProcessMemory memory(0);
  FRUGAL_TRY(memory.Sample());
  return memory.used_bytes() - std::min(memory.used_bytes(), kFreshProcessBytes);
}

constexpr RunMode kModes[] = {RunMode::kResident, RunMode::kHybrid};

// In the fastest mode, with the most logits of a step, that the budget holds.
Result<std::unique_ptr<Engine>> OpenWithin(EngineOptions options) {
  Error refusal;
  for (const RunMode mode : kModes) {
    options.mode = mode;
    for (options.logit_rows = std::min(options.context, kMostLogitRows); options.logit_rows >= 1; options.logit_rows /= 2) {
      Result<std::unique_ptr<Engine>> engine = Engine::Open(options);
      if (engine || engine.error().code != ErrorCode::kDoesNotFit) return engine;
      refusal = std::move(engine).error();
    }
  }
  return refusal;
}

}  // namespace

Result<MeasuredPerplexity> MeasurePerplexity(EngineOptions options, const TokenSequences& text) {
  for (const std::vector<int32_t>& sequence : text) {
    options.context = std::max(options.context, static_cast<uint32_t>(sequence.size()));
  }
  if (options.ram_bytes > 0) {
    FRUGAL_ASSIGN(const uint64_t held_bytes, HeldBytes());
    options.ram_bytes = LeftOfBudget(options.ram_bytes, held_bytes);
  }
  options.predictor = false;
  FRUGAL_ASSIGN(const std::unique_ptr<Engine> engine, OpenWithin(std::move(options)));
  EvalOptions eval;
  eval.rows = engine->plan().max_logit_rows;
  LeftOutCounter counter(engine->config());
  if (engine->thresholds() != nullptr) {
    eval.observe = [&counter](const StepPlace&, const LayerObservation& seen) { return counter.Observe(seen); };
  }
  FRUGAL_ASSIGN(const EvalResult result, EvaluateSequences(*engine, text, eval));
  MeasuredPerplexity measured;
  measured.perplexity = result.perplexity;
  measured.left_out_share = counter.share();
  return measured;
}

Status CheckMeasureFits(EngineOptions options) {
  Status fits;
  for (const RunMode mode : kModes) {
    options.mode = mode;
    FRUGAL_ASSIGN(const OpenedHeader header, OpenHeader(options));
    const Result<EnginePlan> plan = MakePlan(*header.model, nullptr, header.tokenizer_bytes, options);
    if (plan) return {};
    fits = plan.error();
  }
  return fits;
}

PerplexityEffect EffectOf(const Perplexity& before, const Perplexity& after) {
  return {before.value(), after.value(), after.num_scored};
}

}  // namespace frugal
