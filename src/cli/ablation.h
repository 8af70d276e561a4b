// The paper's ablation (tables 2 and 3): the same forced token ids through naive, hybrid and flash with one
// part after the other switched on, each row in an engine of its own within the same budget. Rows are run in
// turn, in rounds, so that a machine that gets slower or faster meanwhile does so for all of them. One
// thread. What is said of the rows is in ablation_report.h.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/cli/bare_loop.h"
#include "src/cli/neuron_use_meter.h"
#include "src/cli/run_report.h"
#include "src/engine/engine.h"
#include "src/io/device_profile.h"

namespace frugal {

constexpr std::string_view kEarlyKey = "early";  // of the row that adds early prediction

struct AblationRow {
  std::string key;   // one word, for --rows
  std::string name;  // for people
  EngineOptions options;
};
// What a model has of the table.
struct TableParts {
  bool has_bundles = false;
  SelectorKind selector = SelectorKind::kAll;  // of flash mode in the budget; kAll: nothing is left out, and the baselines are all rows
  bool early = false;                          // predictors that guess before attention
  bool sparsified = false;                     // by thresholds, of flash mode
};
// By the headers alone. The planner's errors.
Result<TableParts> FindTableParts(const EngineOptions& base);

// naive, hybrid, + predictor (or what else selects), + window, + bundling, + overlap, + early prediction, as far as the model has them:
// without a selector naive and hybrid alone; no early prediction where the selector itself knows before attention (parallel blocks).
// naive and hybrid overlap reading and computing: they are what the others are measured against. All else is as `base` has it.
std::vector<AblationRow> AblationRows(const EngineOptions& base, const TableParts& parts);

// The last of them within budgets that are these shares of the model's file.
std::vector<AblationRow> SweepRows(const EngineOptions& base, const TableParts& parts, std::span<const double> shares,
                                   uint64_t file_bytes);
// "+ layout": the last of them on `layout_path`, the same model with its neurons in another order, and the
// predictors beside that.
AblationRow LayoutRow(const EngineOptions& base, const TableParts& parts, const std::string& layout_path);
// The rows of these keys: "naive,early"; "flash" is the last one that selects, but + early prediction only where that pays. All of them for
// none. kUsage for others.
Result<std::vector<AblationRow>> SelectRows(const std::string& keys, const std::vector<AblationRow>& all, bool early_pays);
// kUsage naming what differs when these cannot be one model in two orders. Both have bundles.
Status CheckSameShape(const ModelFile& model, const ModelFile& layout);

// The forced ids: `num_prompt` are prefilled, `num_warm_up` decoded without being counted (fewer when they take longer than a round and
// kWarmUpSeconds), the rest is measured.
struct AblationText {
  std::vector<int32_t> ids;
  size_t num_prompt = 1;
  size_t num_warm_up = 0;
  // A round of a row ends early after this time, with kLeastTokens measured: naive may take seconds a token.
  double seconds_per_round = 30;
  static constexpr size_t kLeastTokens = 4;
  static constexpr double kWarmUpSeconds = 20;
};

// All rounds of one row together.
struct RowMeasurement {
  std::string name;
  RunMode mode = RunMode::kFlash;
  std::string description;       // Engine::Describe()
  uint64_t ram_bytes = 0;        // the budget
  uint64_t planned_bytes = 0;    // the plan's peak
  PhaseReport traffic;           // of the measured tokens
  std::vector<double> token_ms;  // of each of them
  std::optional<uint64_t> device_reads;  // of these tokens, as the block device counts them
  double left_out_share = 0;  // of the neurons, by --sparsify
  double recall = -1;      // sampled after the measurement, on the same ids; negative: all neurons
  BareLoopTimes bare;      // of some of the tokens, right after each: as many as take no more time than all tokens do
  double touched_bytes_per_token = 0;  // in RAM: matrices, KV cache, the bundles that were used
  MeasuredUse use;         // of neurons on demand, by the prompt and the warm-up
  double expected_ms = 0;  // what `plan` says; 0: the device was not measured
  double expected_here_ms = 0;  // the same with the rates that the bare loop found: a device's rates may be others than when it was probed
  double expected_bytes_per_token = 0;
  double probed_bytes_per_second = 0;      // of the device in sequence; 0: not measured
  std::string refusal;  // why the row could not run: the budget; then nothing else is filled in

  double total_ms(double share) const;  // percentile
  double io_ms() const;                 // per token, at least one read in flight
  double stall_ms() const;              // per token, waiting for reads with nothing to compute
  double compute_ms() const;            // the rest of a token's time
  double bare_ms(double share) const;
  // max(reads / IOPS, bytes / flash bandwidth, bytes touched / memory bandwidth), all measured in this run: the first two are how long
  // the same reads take alone at the same depth.
  double bound_ms() const;
};

// nullptr where the budget is refused, with the reason; the engine's other errors.
Result<std::unique_ptr<Engine>> OpenWithinBudget(const EngineOptions& options, std::string* refusal);

// One round of one row and of its bare loop, by turns, added to `row`. The engine's errors; kDoesNotFit becomes row->refusal.
Status MeasureRow(const AblationRow& wanted, const AblationText& text, const DeviceProfile* profile,
                  RowMeasurement* row);

// The value below which `share` of the values lie (nearest rank); 0 of none.
double Percentile(std::vector<double> values, double share);

}  // namespace frugal
