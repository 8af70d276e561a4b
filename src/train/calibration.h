// Finds an order of a packed model's neurons (co_activation.h) by running the model over a text, layer by
// layer, each layer's weights read once. What counts as used is what its on-time predictors choose, where it
// has them, else what fires: that is what an engine asks its cache for. A library: it prints nothing and
// writes nothing.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>

#include "src/base/bytes.h"
#include "src/base/function_ref.h"
#include "src/base/memory_ledger.h"
#include "src/base/result.h"
#include "src/format/neuron_activity.h"
#include "src/format/neuron_order.h"
#include "src/model/weights.h"
#include "src/train/layer_run.h"

namespace frugal {

struct CalibrationOptions {
  std::string model_path;
  std::string predictor_path;  // empty: the model has none
  TokenSequences sequences;    // token ids, each at most the model's max_context
  // Of a layer's neurons, the share that the cache is taken to hold. The order is for misses; it need not be
  // exact.
  double cached_share = 0.25;
  std::string spill_near_path;  // hidden states that do not fit the budget go to a nameless file beside it
  uint64_t ram_bytes = kGiB;    // of the whole process
  int num_threads = 2;
  WeightsOptions weights;
  const std::atomic<bool>* cancel =
      nullptr;  // when it becomes true, Calibrate ends with kFailed "interrupted"
};

struct CalibrationReport {
  NeuronOrders orders;  // by the neurons of the checkpoint, whatever order the model is in
  NeuronActivity activity;  // in the whole text
  uint64_t num_tokens = 0;
  // Of the last eighth of the text, of which the orders know nothing; all layers together. Neighbours that
  // are missed together are one read.
  double misses_per_token = 0;
  double source_reads_per_token = 0;  // in the order that the model is in
  double reads_per_token = 0;         // in the new one
  bool spilled = false;
  MemoryLedger memory;
  double seconds = 0;
};

// `progress` as Train has it. kUsage: no text, or ids outside the vocabulary. kBadModel, kIo: the model, its
// predictors. kDoesNotFit: the budget, with the smallest that works, before any weight is read.
Result<CalibrationReport> Calibrate(const CalibrationOptions& options,
                                    FunctionRef<void(double share, std::string_view what)> progress);

}  // namespace frugal
