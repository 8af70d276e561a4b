// How fast a prompt is read in: `frugal bench --prefill`. One thread calls.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "src/engine/engine.h"

namespace frugal {

struct PrefillRow {
  std::string name;  // "all neurons", "predictor", "gate sketch", "gate"
  EngineOptions options;
};
// With all neurons and with what selects some of them, if there is one; a gate that is a matrix always does. Batches as large as the prompt
// where the budget has room.
std::vector<PrefillRow> PrefillRows(const EngineOptions& base, SelectorKind selector, uint32_t num_tokens);

// All rounds of one row together.
struct PrefillMeasurement {
  static constexpr size_t kShortTokens = 128;  // of the time to the first token

  std::string name;
  std::string refusal;  // why it could not run: the budget; then nothing else is filled in
  size_t num_tokens = 0;
  uint32_t batch = 0;
  std::vector<double> open_ms;
  std::vector<double> first_token_ms;  // from opened to the first logits of a prompt of kShortTokens
  std::vector<double> prompt_ms;
  std::vector<double> reads_alone_ms;  // the prompt's reads, nothing else done
  uint64_t bytes_read = 0;             // of the last prompt
  double needed_flops = 0;             // of the last prompt: below
  double peak_flops_per_second = 0;    // all threads' fused multiply-adds in registers, the best of this row's rounds

  double compute_bound_ms(double peak) const { return 1e3 * needed_flops / peak; }
  // The larger one of the arithmetic at the processor's peak and the reads alone.
  double bound_ms(double peak) const;
};

// What was computed of a prompt's FFN beside matrices: pairs of a token and a neuron, in all layers.
struct PrefillNeurons {
  uint64_t chosen = 0;  // by the selector: up (and gate) rows
  uint64_t active = 0;  // down rows
};

// Multiplications and additions of a prompt: matrices, bundles and predictors as far as its tokens need them, attention's products, the
// logits of the last token. `predictor`: nullptr without one.
double PrefillFlops(const ModelConfig& config, uint64_t num_tokens, const PrefillNeurons& neurons, const PredictorInfo* predictor);

// One round, added to `row`. `ids`: the prompt, which starts a session. kDoesNotFit becomes row->refusal.
Status MeasurePrefill(const PrefillRow& wanted, std::span<const int32_t> ids, PrefillMeasurement* row);

std::string FormatPrefill(std::span<const PrefillMeasurement> rows);  // a markdown table
nlohmann::ordered_json PrefillToJson(std::span<const PrefillMeasurement> rows);

}  // namespace frugal
