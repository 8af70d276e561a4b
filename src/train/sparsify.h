// Calibrates what `--sparsify` leaves out: runs a model whose gate is never zero over a text, layer by layer, and finds for each layer the
// magnitude that a given share of its activated gates does not pass (as CATS does: Lee et al., arXiv 2404.08763). A library: it
// prints nothing and writes nothing; measuring what the thresholds cost is the caller's, who has an engine.
#pragma once

#include <string_view>

#include "src/base/function_ref.h"
#include "src/base/memory_ledger.h"
#include "src/base/result.h"
#include "src/format/gate_thresholds.h"
#include "src/train/layer_run.h"
#include "src/train/train.h"

namespace frugal {

struct SparsifyReport {
  GateThresholds thresholds;  // its effect not measured yet
  TokenSequences held_out;    // every fourth sequence of the text, which calibrating did not see
  uint64_t num_held_out_tokens = 0;
  bool spilled = false;  // hidden states went to a temporary file
  MemoryLedger memory;   // what the budget went to
  double seconds = 0;
};

// Of `options`: model_path, sequences (or the model's own text), source, num_tokens, sequence_tokens, seed, ram_bytes, num_threads,
// weights, cancel; temporary files lie beside output_path. `share` is between 0 and 1. The thresholds depend on the options and the share alone.
//
// kUsage: the share, too little text, a model of which no neuron can be left out (RequireSparsifiable). kBadModel, kIo: the model.
// kDoesNotFit: the budget, with the smallest that works, before any weight is read.
Result<SparsifyReport> CalibrateThresholds(const TrainOptions& options, float share,
                                           FunctionRef<void(double share, std::string_view what)> progress);

}  // namespace frugal
