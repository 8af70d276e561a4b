// What verbs say about neurons that `--sparsify` leaves out: how many they are and what that costs; as text and as JSON.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "src/cli/evaluation.h"
#include "src/format/gate_thresholds.h"
#include "src/train/sparsify.h"

namespace frugal {

// Counts the neurons that a run leaves out. Every layer of a token is seen, or none.
class LeftOutCounter {
 public:
  explicit LeftOutCounter(const ModelConfig& config) : ffn_size_(config.ffn_size), kept_(config.num_layers) {}
  Status Observe(const LayerObservation& seen);
  // Of the neurons of each layer, and of all; 0 before the first token. // [num_layers]
  std::vector<double> Shares() const;
  double share() const;

 private:
  uint32_t ffn_size_;
  uint64_t num_tokens_ = 0;
  std::vector<uint64_t> kept_;  // [num_layers]: neurons, all tokens together
};

// `frugal train --sparsify`.
std::string FormatSparsifyReport(const std::string& path, const SparsifyReport& report);
nlohmann::ordered_json SparsifyReportToJson(const std::string& path, const SparsifyReport& report);

// `frugal eval --sparsify --compare`.
struct SparsifyComparison {
  EvalResult exact, sparsified;
  GateThresholds thresholds;
  std::vector<double> left_out;  // [num_layers]
  uint64_t ffn_bytes = 0;
};
std::string FormatSparsifyComparison(const SparsifyComparison& report);
nlohmann::ordered_json SparsifyComparisonToJson(const SparsifyComparison& report);

}  // namespace frugal
