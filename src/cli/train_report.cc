#include "src/cli/train_report.h"

#include <fmt/format.h>

namespace frugal {
namespace {

std::string QualityRow(const std::string& name, const PredictorQuality& quality) {
  return fmt::format("{:>6} {:>6} {:>8.2f} {:>10.2f} {:>12.2f} {:>12.2f} {:>10.2f} {:>8.2f}\n", name,
                     quality.rank, 100 * quality.recall, 100 * quality.precision,
                     100 * quality.false_negative_share, 100 * quality.false_positive_share,
                     100 * quality.predicted_share, 100 * quality.active_share);
}

// Means over the layers, each layer counting the same.
PredictorQuality MeanQuality(const TrainReport& report, PredictorQuality TrainLayerReport::*which) {
  PredictorQuality mean;
  mean.recall = mean.precision = mean.false_negative_share = mean.false_positive_share = 0;
  mean.predicted_share = mean.active_share = 0;
  const double weight = 1.0 / static_cast<double>(report.layers.size());
  for (const TrainLayerReport& layer : report.layers) {
    const PredictorQuality& quality = layer.*which;
    mean.rank += quality.rank;
    mean.recall += weight * quality.recall;
    mean.precision += weight * quality.precision;
    mean.false_negative_share += weight * quality.false_negative_share;
    mean.false_positive_share += weight * quality.false_positive_share;
    mean.predicted_share += weight * quality.predicted_share;
    mean.active_share += weight * quality.active_share;
  }
  mean.rank = static_cast<uint32_t>(mean.rank / report.layers.size());
  return mean;
}

std::string QualityTable(const TrainReport& report, const char* title,
                         PredictorQuality TrainLayerReport::*which) {
  std::string text = fmt::format("{}, in % ({} held-out tokens)\n", title, report.num_report_tokens);
  text += fmt::format("{:>6} {:>6} {:>8} {:>10} {:>12} {:>12} {:>10} {:>8}\n", "layer", "rank", "recall",
                      "precision", "false neg.", "false pos.", "predicted", "active");
  for (size_t i = 0; i < report.layers.size(); ++i)
    text += QualityRow(std::to_string(i), report.layers[i].*which);
  return text + QualityRow("mean", MeanQuality(report, which));
}

bool HasEarly(const TrainReport& report) {
  for (const TrainLayerReport& layer : report.layers) {
    if (layer.early.rank > 0) return true;
  }
  return false;
}

nlohmann::ordered_json QualityJson(const PredictorQuality& quality) {
  return {{"rank", quality.rank},
          {"size_bytes", quality.size_bytes},
          {"recall", quality.recall},
          {"precision", quality.precision},
          {"false_negative_share", quality.false_negative_share},
          {"false_positive_share", quality.false_positive_share},
          {"predicted_share", quality.predicted_share},
          {"active_share", quality.active_share}};
}

}  // namespace

std::string FormatTrainReport(const TrainReport& report) {
  std::string text;
  if (!report.layers.empty()) {
    text += QualityTable(report, "predictor (input: what the FFN sees)", &TrainLayerReport::on_time);
    if (HasEarly(report)) {
      text += "\n";
      text += QualityTable(report, "early predictor (input: the residual stream before attention)",
                           &TrainLayerReport::early);
    }
    text +=
        "false neg.: share of the active neurons; false pos., predicted, active: shares of all neurons\n\n";
  }
  size_t num_resumed = 0;
  for (const TrainLayerReport& layer : report.layers) num_resumed += layer.resumed ? 1 : 0;
  if (num_resumed > 0) text += fmt::format("{} layers were taken from the interrupted run\n", num_resumed);
  return text + fmt::format("{}: {:.1f} MiB, {} tokens, {:.1f} s ({:.1f} s of them sampling){}\n",
                            report.output_path, static_cast<double>(report.file_bytes) / (1 << 20),
                            report.num_tokens, report.seconds, report.sample_seconds,
                            report.spilled ? ", spilled to flash" : "");
}

nlohmann::ordered_json TrainReportJson(const TrainReport& report) {
  nlohmann::ordered_json json = {{"path", report.output_path},
                                 {"file_bytes", report.file_bytes},
                                 {"tokens", report.num_tokens},
                                 {"fit_tokens", report.num_fit_tokens},
                                 {"choose_tokens", report.num_choose_tokens},
                                 {"report_tokens", report.num_report_tokens},
                                 {"seconds", report.seconds},
                                 {"sample_seconds", report.sample_seconds},
                                 {"spilled", report.spilled}};
  json["layers"] = nlohmann::ordered_json::array();
  for (size_t i = 0; i < report.layers.size(); ++i) {
    const TrainLayerReport& layer = report.layers[i];
    nlohmann::ordered_json item = {{"layer", i}, {"seconds", layer.seconds}, {"resumed", layer.resumed}};
    item["on_time"] = QualityJson(layer.on_time);
    item["early"] = layer.early.rank > 0 ? QualityJson(layer.early) : nlohmann::ordered_json(nullptr);
    json["layers"].push_back(std::move(item));
  }
  return json;
}

}  // namespace frugal
