// Writes a packed model again with its neurons in another order, and its predictors with it. Nothing is
// converted: a bundle, its bias and its rows of the predictors move together, all else is copied byte for
// byte, every byte checked against its hash on the way. A library: it prints nothing. Each output appears
// under its name only when it is complete and synced, the model first.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "src/base/bytes.h"
#include "src/base/function_ref.h"
#include "src/base/result.h"
#include "src/format/neuron_activity.h"
#include "src/format/neuron_order.h"
#include "src/format/output_file.h"
#include "src/pack/pack.h"

namespace frugal {

struct ReorderOptions {
  std::string source_path;  // a packed model
  std::string output_path;
  // The model's predictors; both empty when it has none.
  std::string predictor_source_path, predictor_output_path;
  // By the neurons of the checkpoint that the source was packed from (its blk.N.ffn_order), as in
  // PackOptions: the same order gives the same file whatever order the source has. Empty: as in the source.
  NeuronOrders neuron_orders;
  std::optional<NeuronActivity> activity;  // measured; nothing: what the source says, if it says something
  Overwrite overwrite = Overwrite::kNo;
  uint64_t ram_bytes = kGiB;                  // of the whole process
  const std::atomic<bool>* cancel = nullptr;  // when it becomes true, Reorder ends with kFailed "interrupted"
};

// `progress` as Pack has it. kUsage: the options, an output exists or is the source itself. kBadModel: the
// source or its predictors are damaged, do not belong together or are no packed files. kDoesNotFit: the
// budget, with the smallest that works, before any weight is read.
Result<PackReport> Reorder(const ReorderOptions& options,
                           FunctionRef<void(double share, std::string_view what)> progress);

}  // namespace frugal
