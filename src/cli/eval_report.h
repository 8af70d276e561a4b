// What `frugal eval` prints: the statistics of a run, the comparison of exact and predictor, the curve over
// slots and policies; as text and as JSON. Pure formatting.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "src/cli/evaluation.h"
#include "src/cli/recall_comparison.h"

namespace frugal {

// The last line of llama-perplexity.
std::string FormatPerplexity(const Perplexity& perplexity);

// Lines, each with its newline. `ffn_bytes`: of the model's whole FFN; `skip`: from which position of a piece
// on was counted.
std::string FormatTraffic(const EvalResult& result, uint64_t ffn_bytes, uint32_t skip);
nlohmann::ordered_json EvalToJson(const EvalResult& result, uint64_t ffn_bytes);

// Perplexity, bytes and time of an exact run and of a lossy one: a table and an empty line.
std::string FormatSideBySide(const EvalResult& exact, const EvalResult& lossy, const char* lossy_name, uint64_t ffn_bytes);

struct ComparisonReport {
  EvalResult exact, predictor;
  std::vector<LayerRecall> layers;
  uint32_t ffn_size = 0;
  uint64_t ffn_bytes = 0;

  // How much worse the predictor's perplexity is, in percent.
  double perplexity_delta_percent() const;
};
std::string FormatComparison(const ComparisonReport& report);
nlohmann::ordered_json ComparisonToJson(const ComparisonReport& report);

// One run of the curve; without a result it did not fit the budget.
struct CurvePoint {
  double slots_share = 0;
  std::string policy;
  std::optional<PhaseReport> traffic;
};
std::string FormatCurve(const std::vector<CurvePoint>& points, uint64_t ffn_bytes);
nlohmann::ordered_json CurveToJson(const std::vector<CurvePoint>& points, uint64_t ffn_bytes);

}  // namespace frugal
