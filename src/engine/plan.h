// The memory plan: every byte of the budget is a line of the ledger before any weight is read, and a model that cannot run in the
// budget is refused with the smallest one that would work. Pure arithmetic over a file's header.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "src/base/memory_ledger.h"
#include "src/base/result.h"
#include "src/engine/options.h"
#include "src/model/model_file.h"
#include "src/model/predictor_file.h"
#include "src/model/weight_plan.h"
#include "src/model/weights.h"

namespace frugal {

// Where one tensor (or kind of tensors of one layer) lives.
struct PlacedTensor {
  std::string name;
  std::string where;  // "resident", "streamed", "rows on demand", "bundles on demand"
  uint64_t size_bytes = 0;
  uint64_t resident_bytes = 0;
};

struct EnginePlan {
  MemoryLedger ledger;
  uint64_t ram_bytes = 0;       // as asked; 0: none
  uint64_t smallest_bytes = 0;  // the smallest budget that works with these options
  uint32_t context = 0;
  bool context_reduced = false;
  uint32_t max_rows = 1, max_logit_rows = 1;
  int num_threads = 1;
  SelectorKind selector = SelectorKind::kAll;  // never kAuto
  bool exact = true;        // the selector misses no active neuron, and none is left out
  bool sparsified = false;  // neurons are left out by thresholds (EngineOptions::sparsify)
  bool use_early = false;   // early prediction, by a predictor of its own or by the sketch
  WeightPlan weights;
  WeightsOptions weights_options;
  std::vector<PlacedTensor> tensors;
  // Bytes read per token while decoding that follow from the plan alone: streamed blocks and embedding rows; demand reads of bundles
  // come on top (unknown before a run; see Expectation in engine/expectation.h).
  uint64_t streamed_bytes_per_token = 0;

  bool use_predictor() const { return selector == SelectorKind::kPredictor; }
  uint64_t peak_bytes() const { return ledger.total_bytes(); }
};

// What the process needs besides the ledger's other lines: code (kCodeBytes), stacks, heap of small objects, kernel memory. Measured with
// tests/budget_test (docs/benchmarks.md).
uint64_t ProcessBytes(int num_threads);

// `predictor`: nullptr when there is none (flash then uses all neurons).
// kDoesNotFit with the smallest budget, kUsage for options that contradict each other.
Result<EnginePlan> MakePlan(const ModelFile& model, const PredictorInfo* predictor, const TokenizerBytes& tokenizer_bytes,
                            const EngineOptions& options);

}  // namespace frugal
