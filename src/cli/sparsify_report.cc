#include "src/cli/sparsify_report.h"

#include <fmt/format.h>

#include <bit>
#include <numeric>

#include "src/cli/eval_report.h"
#include "src/pack/inspect.h"

namespace frugal {

Status LeftOutCounter::Observe(const LayerObservation& seen) {
  for (const uint64_t word : seen.active.first(size_t{seen.num_rows} * Selector::WordsPerToken(ffn_size_))) {
    kept_[seen.layer] += static_cast<uint64_t>(std::popcount(word));
  }
  if (seen.layer == 0) num_tokens_ += seen.num_rows;
  return {};
}

std::vector<double> LeftOutCounter::Shares() const {
  std::vector<double> shares;
  const double all = static_cast<double>(num_tokens_) * ffn_size_;
  for (const uint64_t kept : kept_) shares.push_back(all > 0 ? 1.0 - static_cast<double>(kept) / all : 0.0);
  return shares;
}

double LeftOutCounter::share() const {
  const std::vector<double> shares = Shares();
  return std::accumulate(shares.begin(), shares.end(), 0.0) / static_cast<double>(shares.size());
}

std::string FormatSparsifyReport(const std::string& path, const SparsifyReport& report) {
  const GateThresholds& found = report.thresholds;
  return fmt::format("{}: thresholds of {} layers, {:.1f} s{}\n{}\n", path, found.thresholds.size(), report.seconds,
                     report.spilled ? ", spilled to flash" : "", DescribeThresholds(found));
}

nlohmann::ordered_json SparsifyReportToJson(const std::string& path, const SparsifyReport& report) {
  nlohmann::ordered_json json = {{"path", path}};
  json.update(ToJson(report.thresholds));
  json["seconds"] = report.seconds;
  json["spilled"] = report.spilled;
  return json;
}

std::string FormatSparsifyComparison(const SparsifyComparison& report) {
  std::string text = FormatSideBySide(report.exact, report.sparsified, "sparsified", report.ffn_bytes);
  text += fmt::format("{:>5}{:>14}{:>12}\n", "layer", "threshold", "left out");
  double sum = 0;
  for (size_t layer = 0; layer < report.left_out.size(); ++layer) {
    text += fmt::format("{:>5}{:>14.6g}{:>11.2f}%\n", layer, report.thresholds.thresholds[layer], 100 * report.left_out[layer]);
    sum += report.left_out[layer];
  }
  const double mean = sum / static_cast<double>(report.left_out.size());
  return text + fmt::format("{:>5}{:>14}{:>11.2f}%  calibrated for {:.4g}%\n", "all", "", 100 * mean,
                            100 * report.thresholds.share);
}

nlohmann::ordered_json SparsifyComparisonToJson(const SparsifyComparison& report) {
  nlohmann::ordered_json json;
  json["exact"] = EvalToJson(report.exact, report.ffn_bytes);
  json["sparsified"] = EvalToJson(report.sparsified, report.ffn_bytes);
  const double before = report.exact.perplexity.value();
  json["perplexity_delta_percent"] = PerplexityEffect{before, report.sparsified.perplexity.value(), 0}.percent();
  json["left_out"] = report.left_out;
  json["sparsify"] = ToJson(report.thresholds);
  return json;
}

}  // namespace frugal
