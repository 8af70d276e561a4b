// Trains the predictors of a packed model (paper, section 3.1) and writes NAME.predict.gguf. The model runs
// layer by layer over a text, or over text that it samples itself; each layer's weights are read once. For
// every layer an on-time predictor (its input is the FFN's) and an early one (its input is attention's) are
// fitted, their ranks and thresholds chosen on held-out text and their recall measured on other held-out
// text. A library: it prints nothing.
//
// Killed at any moment it leaves no file under the final name. Finished layers lie in OUTPUT.partial; a later
// run with the same options and the same model goes on behind them. The result depends on the options, not on
// the number of threads or the budget.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/bytes.h"
#include "src/base/function_ref.h"
#include "src/base/memory_ledger.h"
#include "src/base/result.h"
#include "src/format/output_file.h"
#include "src/model/weights.h"

namespace frugal {

struct TrainOptions {
  std::string model_path;
  std::string output_path;  // empty: DefaultPredictorPath(model_path)
  Overwrite overwrite = Overwrite::kNo;

  // Token ids of the text, cut into sequences of sequence_tokens. Empty: the model's own text, sampled at
  // temperature 1.
  std::vector<std::vector<int32_t>> sequences;
  std::string source = "sampled";  // as the file names it: "text:NAME" for a given text
  uint64_t num_tokens = 32768;     // sampled; of a longer text, sequences spread evenly over it
  uint32_t sequence_tokens = 512;  // at most the model's max_context
  uint64_t seed = 1;

  // Share of the truly active neurons that the on-time predictor has to choose, pooled over held-out tokens.
  // Text of another kind than the training text gets somewhat less.
  double recall_target = 0.985;
  double early_recall_target = 0.9;  // misses of the early predictor cost time only
  bool early = true;
  std::vector<uint32_t> ranks = {32,  64,  96,  128,
                                 192, 256, 384, 512};  // tried for each layer; multiples of 32
  // What a byte of predictor in RAM costs, in bytes of predicted neurons a token: it takes the place of a
  // slot.
  double predictor_byte_cost = 1.0;
  uint32_t num_epochs = 3;

  uint64_t ram_bytes = kGiB;  // of the whole process
  int num_threads = 2;
  WeightsOptions weights;
  const std::atomic<bool>* cancel =
      nullptr;  // when it becomes true, Train ends with kFailed "interrupted"; a later run resumes
  std::function<Status(uint32_t layer)>
      after_layer_for_test;  // after the layer was put into the partial file
};

// Measured on held-out tokens that chose nothing.
struct PredictorQuality {
  uint32_t rank = 0;                  // 0: none, all neurons count as chosen
  uint64_t size_bytes = 0;            // of its factors and bias
  double recall = 1.0;                // of the active neurons, chosen
  double precision = 0.0;             // of the chosen, active
  double false_negative_share = 0.0;  // of the active neurons, not chosen
  double false_positive_share = 0.0;  // of all neurons, chosen but not active
  double predicted_share = 1.0;       // of all neurons, chosen
  double active_share = 0.0;          // of all neurons, active
};

struct TrainLayerReport {
  PredictorQuality on_time;
  PredictorQuality early;  // rank 0: none
  double seconds = 0.0;
  bool resumed = false;  // taken from the partial file
};

struct TrainReport {
  std::string output_path;
  uint64_t file_bytes = 0;
  std::vector<TrainLayerReport> layers;
  uint64_t num_tokens = 0;  // fit, choose and report together
  uint64_t num_fit_tokens = 0, num_choose_tokens = 0, num_report_tokens = 0;
  double sample_seconds = 0.0;  // of making the text
  double seconds = 0.0;
  bool spilled = false;  // hidden states or inputs went to a temporary file
  MemoryLedger memory;   // what the budget went to
};

// `progress` gets the share that is done, in [0, 1], and what is worked on; often enough for a progress bar.
//
// kUsage: the options, the output exists, too little text. kBadModel: the model. kDoesNotFit: the budget,
// with the smallest that works, before any weight is read. kIo: with the file and what failed.
Result<TrainReport> Train(const TrainOptions& options,
                          FunctionRef<void(double share, std::string_view what)> progress);

}  // namespace frugal
