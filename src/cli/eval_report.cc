#include "src/cli/eval_report.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "src/base/bytes.h"
#include "src/format/packed_format.h"

namespace frugal {
namespace {

double FfnPercent(const PhaseReport& traffic, uint64_t ffn_bytes) {
  return 100.0 * traffic.PerToken(traffic.ffn_bytes_read) / static_cast<double>(ffn_bytes);
}

std::string FormatBytes(double bytes) { return FormatSize(static_cast<uint64_t>(bytes + 0.5)); }

nlohmann::ordered_json TrafficToJson(const PhaseReport& traffic, uint64_t ffn_bytes) {
  nlohmann::ordered_json json;
  json["tokens"] = traffic.num_tokens;
  json["ffn_bytes_per_token"] = traffic.PerToken(traffic.ffn_bytes_read);
  json["ffn_percent_per_token"] = FfnPercent(traffic, ffn_bytes);
  json["bytes_per_token"] = traffic.PerToken(traffic.bytes_read);
  json["reads_per_token"] = traffic.PerToken(traffic.num_reads);
  json["hits_per_token"] = traffic.PerToken(traffic.num_hits);
  json["late_hits_per_token"] = traffic.PerToken(traffic.num_late_hits);
  json["misses_per_token"] = traffic.PerToken(traffic.num_misses);
  json["hit_rate"] = nullptr;
  if (traffic.hit_rate() >= 0) json["hit_rate"] = traffic.hit_rate();
  json["gb_per_second_while_reading"] = traffic.gb_per_second();
  json["stall_share"] = traffic.stall_share();
  json["ms_per_token"] = traffic.ms_per_token();
  return json;
}

nlohmann::ordered_json RecallToJson(const ComparisonReport& report) {
  const RecallSummary summary = Summarize(report.layers, report.ffn_size);
  nlohmann::ordered_json json;
  json["recall"] = summary.pooled;
  json["mean_of_layers"] = summary.mean;
  json["worst_layer"] = summary.worst;
  json["worst_layer_index"] = summary.worst_layer;
  json["predicted_share"] = summary.chosen_share;
  json["active_share"] = summary.active_share;
  json["layers"] = nlohmann::ordered_json::array();
  for (const LayerRecall& layer : report.layers) {
    json["layers"].push_back({{"recall", layer.recall()},
                              {"tokens", layer.num_tokens},
                              {"active", layer.active},
                              {"found", layer.found},
                              {"predicted", layer.chosen}});
  }
  return json;
}

}  // namespace

std::string FormatPerplexity(const Perplexity& perplexity) {
  return fmt::format("Final estimate: PPL = {:.4f} +/- {:.5f}\n", perplexity.value(), perplexity.error());
}

std::string FormatTraffic(const EvalResult& result, uint64_t ffn_bytes, uint32_t skip) {
  const PhaseReport& traffic = result.traffic;
  std::string text = fmt::format("{} ids in {} pieces, {} scored\n", result.num_tokens, result.num_pieces,
                                 result.perplexity.num_scored);
  if (traffic.num_tokens == 0) return text;
  text += fmt::format("mean of {} tokens{}:\n", traffic.num_tokens,
                      skip == 0 ? "" : fmt::format(" from position {} of a piece on", skip));
  text += fmt::format("  FFN bytes read  {} per token, {:.2f}% of the FFN\n",
                      FormatBytes(traffic.PerToken(traffic.ffn_bytes_read)), FfnPercent(traffic, ffn_bytes));
  text += fmt::format("  bytes read      {} per token in {:.1f} reads, {:.3f} GB/s while reading\n",
                      FormatBytes(traffic.PerToken(traffic.bytes_read)),
                      traffic.PerToken(traffic.num_reads), traffic.gb_per_second());
  if (traffic.hit_rate() >= 0) {
    text += fmt::format(
        "  bundles         {:.1f} hits, {:.1f} late hits, {:.1f} misses per token, hit rate {:.2f}%\n",
        traffic.PerToken(traffic.num_hits), traffic.PerToken(traffic.num_late_hits),
        traffic.PerToken(traffic.num_misses), 100.0 * traffic.hit_rate());
  }
  text += fmt::format("  time            {:.3f} ms per token, {:.1f}% of it stalled\n",
                      traffic.ms_per_token(), 100.0 * traffic.stall_share());
  if (result.sampled_recall >= 0)
    text += fmt::format("  recall          {:.2f}% (sampled)\n", 100.0 * result.sampled_recall);
  return text;
}

nlohmann::ordered_json EvalToJson(const EvalResult& result, uint64_t ffn_bytes) {
  nlohmann::ordered_json json;
  json["perplexity"] = result.perplexity.value();
  json["perplexity_error"] = result.perplexity.error();
  json["scored"] = result.perplexity.num_scored;
  json["ids"] = result.num_tokens;
  json["pieces"] = result.num_pieces;
  json["traffic"] = TrafficToJson(result.traffic, ffn_bytes);
  json["sampled_recall"] = nullptr;
  if (result.sampled_recall >= 0) json["sampled_recall"] = result.sampled_recall;
  return json;
}

double ComparisonReport::perplexity_delta_percent() const {
  const double before = exact.perplexity.value();
  return before == 0 ? 0.0 : 100.0 * (predictor.perplexity.value() - before) / before;
}

std::string FormatSideBySide(const EvalResult& exact, const EvalResult& lossy, const char* lossy_name, uint64_t ffn_bytes) {
  const PerplexityEffect effect = {exact.perplexity.value(), lossy.perplexity.value(), lossy.perplexity.num_scored};
  return fmt::format("{:<28}{:>14}{:>14}\n", "", "exact", lossy_name) +
         fmt::format("{:<28}{:>14.4f}{:>14.4f}  {:+.3f}%\n", "perplexity", effect.before, effect.after, effect.percent()) +
         fmt::format("{:<28}{:>13.2f}%{:>13.2f}%\n", "FFN bytes read per token", FfnPercent(exact.traffic, ffn_bytes),
                     FfnPercent(lossy.traffic, ffn_bytes)) +
         fmt::format("{:<28}{:>14.3f}{:>14.3f}\n\n", "ms per token", exact.traffic.ms_per_token(), lossy.traffic.ms_per_token());
}

std::string FormatComparison(const ComparisonReport& report) {
  std::string text = FormatSideBySide(report.exact, report.predictor, "predictor", report.ffn_bytes);
  text += fmt::format("{:>5}{:>12}{:>12}{:>12}\n", "layer", "active", "predicted", "recall");
  for (uint32_t i = 0; i < report.layers.size(); ++i) {
    const RecallSummary layer = Summarize({&report.layers[i], 1}, report.ffn_size);
    text += fmt::format("{:>5}{:>11.2f}%{:>11.2f}%{:>11.2f}%\n", i, 100.0 * layer.active_share,
                        100.0 * layer.chosen_share, 100.0 * layer.pooled);
  }
  const RecallSummary summary = Summarize(report.layers, report.ffn_size);
  text += fmt::format("{:>5}{:>11.2f}%{:>11.2f}%{:>11.2f}%\n", "all", 100.0 * summary.active_share,
                      100.0 * summary.chosen_share, 100.0 * summary.pooled);
  return text + fmt::format(
                    "recall {:.2f}% of all truly active neurons; mean of the layers {:.2f}%, worst layer "
                    "{:.2f}% ({})\n",
                    100.0 * summary.pooled, 100.0 * summary.mean, 100.0 * summary.worst, summary.worst_layer);
}

nlohmann::ordered_json ComparisonToJson(const ComparisonReport& report) {
  nlohmann::ordered_json json;
  json["exact"] = EvalToJson(report.exact, report.ffn_bytes);
  json["predictor"] = EvalToJson(report.predictor, report.ffn_bytes);
  json["perplexity_delta_percent"] = report.perplexity_delta_percent();
  json["recall"] = RecallToJson(report);
  return json;
}

std::string FormatCurve(const std::vector<CurvePoint>& points, uint64_t ffn_bytes) {
  std::string text =
      "| slots | policy | FFN bytes read per token | of the FFN | hit rate | ms per token "
      "|\n|---:|---|---:|---:|---:|---:|\n";
  for (const CurvePoint& point : points) {
    text += fmt::format("| {:.0f}% | {} | ", 100.0 * point.slots_share, point.policy);
    if (!point.traffic) {
      text += "does not fit the budget | | | |\n";
      continue;
    }
    text += fmt::format("{} | {:.2f}% | {:.2f}% | {:.3f} |\n",
                        FormatBytes(point.traffic->PerToken(point.traffic->ffn_bytes_read)),
                        FfnPercent(*point.traffic, ffn_bytes), 100.0 * point.traffic->hit_rate(),
                        point.traffic->ms_per_token());
  }
  return text;
}

nlohmann::ordered_json CurveToJson(const std::vector<CurvePoint>& points, uint64_t ffn_bytes) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const CurvePoint& point : points) {
    nlohmann::ordered_json item = {
        {"slots_share", point.slots_share}, {"policy", point.policy}, {"fits", point.traffic.has_value()}};
    if (point.traffic) item["traffic"] = TrafficToJson(*point.traffic, ffn_bytes);
    json.push_back(std::move(item));
  }
  return json;
}

}  // namespace frugal
