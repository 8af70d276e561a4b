#include "src/cli/ablation_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "src/base/bytes.h"
#include "src/engine/streaming_choice.h"

namespace frugal {
namespace {

std::string Size(double bytes) { return FormatSize(static_cast<uint64_t>(bytes + 0.5)); }

std::string PlanSays(const RowMeasurement& row) {
  if (row.expected_ms <= 0) return "not measured: `frugal probe`";
  return fmt::format("{:.3f}, {}", row.expected_ms, Size(row.expected_bytes_per_token));
}

// The plan against the measured, with the rates that this run found.
std::string PlanHolds(const RowMeasurement& row) {
  if (row.expected_here_ms <= 0 || row.total_ms(0.5) <= 0) return "-";
  std::string text = fmt::format("{:.3f} ({:.2f} of the median)", row.expected_here_ms, row.expected_here_ms / row.total_ms(0.5));
  const double bytes = row.traffic.bytes_per_token();
  if (bytes > 0) text += fmt::format(", {:.2f} of the bytes", row.expected_bytes_per_token / bytes);
  return text;
}

// The row of that name, if it ran.
const RowMeasurement* FindRow(std::span<const RowMeasurement> rows, std::string_view name) {
  for (const RowMeasurement& row : rows) {
    if (row.name == name && row.refusal.empty() && row.total_ms(0.5) > 0) return &row;
  }
  return nullptr;
}

// The last row that counted neurons.
const MeasuredUse* FindUse(std::span<const RowMeasurement> rows) {
  const MeasuredUse* use = nullptr;
  for (const RowMeasurement& row : rows) {
    if (row.use.num_windows() > 0 && row.use.num_selectable > 0) use = &row.use;
  }
  return use;
}

std::string Times(const RowMeasurement* other, const RowMeasurement& row) {
  return other == nullptr ? "-" : fmt::format("{:.2f}", other->total_ms(0.5) / row.total_ms(0.5));
}

}  // namespace

bool FlashGain::streaming_pays() const { return by_reads < kLeastGainOfSelecting && allowed < kLeastGainOfSelecting; }

std::optional<FlashGain> GainOfFlash(std::span<const RowMeasurement> rows) {
  const RowMeasurement* const hybrid = FindRow(rows, "hybrid");
  if (hybrid == nullptr || rows.back().mode != RunMode::kFlash || !rows.back().refusal.empty()) return std::nullopt;
  const RowMeasurement& flash = rows.back();
  const double flash_reads_ms = Percentile(flash.bare.reads_ms, 0.5);
  if (flash.total_ms(0.5) <= 0 || flash.bare_ms(0.5) <= 0 || flash_reads_ms <= 0) return std::nullopt;
  FlashGain gain;
  gain.measured = hybrid->total_ms(0.5) / flash.total_ms(0.5);
  gain.allowed = hybrid->bare_ms(0.5) / flash.bare_ms(0.5);
  gain.by_reads = Percentile(hybrid->bare.reads_ms, 0.5) / flash_reads_ms;
  return gain;
}

std::optional<StreamingRate> RateOfStreaming(const RowMeasurement& row) {
  const double median_ms = row.total_ms(0.5);
  if (row.mode == RunMode::kFlash || !row.refusal.empty() || median_ms <= 0 || row.traffic.bytes_read == 0) return std::nullopt;
  StreamingRate rate;
  rate.bytes_per_second = 1e3 * row.traffic.bytes_per_token() / median_ms;
  rate.reads_alone_bytes_per_second = row.bare.read_bytes_per_second();
  rate.probed_bytes_per_second = row.probed_bytes_per_second;
  return rate;
}

std::string FormatAblation(std::span<const RowMeasurement> rows) {
  std::string text =
      "| | RAM | read per token | GB/s | reads per token | the device's count | recall |\n|---|---:|---:|---:|---:|---:|---:|\n";
  for (const RowMeasurement& row : rows) {
    if (!row.refusal.empty()) {
      text += fmt::format("| {} | does not fit the budget | | | | | |\n", row.name);
      continue;
    }
    const PhaseReport& traffic = row.traffic;
    text += fmt::format("| {} | {} | {} | {:.3f} | {:.1f} | {} | {} |\n", row.name, FormatSize(row.planned_bytes),
                        FormatSize(static_cast<uint64_t>(traffic.bytes_per_token() + 0.5)), traffic.gb_per_second(),
                        traffic.PerToken(traffic.num_reads),
                        row.device_reads ? fmt::format("{:.1f}", traffic.PerToken(*row.device_reads)) : "unknown",
                        row.left_out_share > 0 ? fmt::format("lossy, {:.0f}% left out", 100 * row.left_out_share)
                        : row.recall < 0       ? "exact"
                                               : fmt::format("{:.1f}%", 100 * row.recall));
  }
  text +=
      "\n| ms per token | I/O | compute | stall | median | p95 | p99 | tokens/s | bare loop | its p99 | x bare loop | bound | x bound "
      "| plan | plan, the device as in this run |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n";
  for (const RowMeasurement& row : rows) {
    if (!row.refusal.empty()) continue;
    const double median = row.total_ms(0.5);
    const auto times = [median](double other) { return other > 0 ? fmt::format("{:.2f}", median / other) : std::string("-"); };
    text += fmt::format(
        "| {} | {:.3f} | {:.3f} | {:.3f} | {:.3f} | {:.3f} | {:.3f} | {:.2f} | {:.3f} | {:.3f} | {} | {:.3f} | {} | {} | {} |\n", row.name,
        row.io_ms(), row.compute_ms(), row.stall_ms(), median, row.total_ms(0.95), row.total_ms(0.99),
        row.traffic.tokens_per_second(), row.bare_ms(0.5), row.bare_ms(0.99), times(row.bare_ms(0.5)), row.bound_ms(),
        times(row.bound_ms()),
        PlanSays(row), PlanHolds(row));
  }
  return text;
}

std::string FormatNewNeurons(std::span<const RowMeasurement> rows) {
  const MeasuredUse* const use = FindUse(rows);
  if (use == nullptr) return "";
  std::string text = fmt::format(
      "| window, tokens | new neurons of a token ({} tokens) | of the FFN | by the predictors' file | measured / file | |\n"
      "|---:|---:|---:|---:|---:|---|\n",
      use->num_tokens);
  for (size_t i = 0; i < use->num_windows(); ++i) {
    const double measured = use->new_neurons[i];
    text += fmt::format("| {} | {:.0f} | {:.2f}% |", 1u << i, measured, 100 * measured / static_cast<double>(use->num_selectable));
    const double expected = use->expected ? (*use->expected)[i] : 0;
    if (expected <= 0) {
      text += " not known | - | - |\n";
      continue;
    }
    const double ratio = measured / expected;
    const bool holds = ratio >= 0.9 && ratio <= 1.1;
    text += fmt::format(" {:.0f} | {:.2f} | {} |\n", expected, ratio, holds ? "within a tenth" : "OFF by more than a tenth");
  }
  return text;
}

std::string FormatComparison(std::span<const RowMeasurement> rows, const std::string& model) {
  const RowMeasurement *const naive = FindRow(rows, "naive"), *const hybrid = FindRow(rows, "hybrid");
  if (naive == nullptr && hybrid == nullptr) return "";
  std::string text =
      "| model | row | waiting for flash, ms | computing, ms | median, ms | against naive | against hybrid | bare loops allow "
      "| share of it | read per token |\n|---|---|---:|---:|---:|---:|---:|---:|---:|---:|\n";
  for (const RowMeasurement& row : rows) {
    if (!row.refusal.empty() || row.total_ms(0.5) <= 0) continue;
    text += fmt::format("| {} | {} | {:.1f} | {:.1f} | {:.1f} | {} | {} |", model, row.name, row.stall_ms(), row.compute_ms(),
                        row.total_ms(0.5), Times(naive, row), Times(hybrid, row));
    const std::optional<FlashGain> gain = &row == &rows.back() ? GainOfFlash(rows) : std::nullopt;
    text += gain ? fmt::format(" {:.2f} | {:.2f} |", gain->allowed, gain->share()) : std::string(" - | - |");
    text += fmt::format(" {} |\n", Size(row.traffic.bytes_per_token()));
  }
  return text;
}

std::string FormatStreaming(std::span<const RowMeasurement> rows) {
  std::string text;
  for (const RowMeasurement& row : rows) {
    const std::optional<StreamingRate> rate = RateOfStreaming(row);
    if (!rate) continue;
    const double own = rate->bytes_per_second, alone = rate->reads_alone_bytes_per_second, probed = rate->probed_bytes_per_second;
    text += fmt::format("{} streams {} a token at {:.2f} GB/s", row.name, Size(row.traffic.bytes_per_token()), own / 1e9);
    if (alone > 0) text += fmt::format(": {:.2f} of these reads alone in this run ({:.2f} GB/s)", own / alone, alone / 1e9);
    text += probed > 0 ? fmt::format(", {:.2f} of the device's sequential bandwidth as probed ({:.2f} GB/s; aim {})", own / probed,
                                     probed / 1e9, kAimOfSequential)
                       : std::string("; the device's sequential bandwidth was not measured: `frugal probe`");
    text += "\n";
  }
  return text;
}

std::string FormatSteps(std::span<const RowMeasurement> rows) {
  std::string text;
  const RowMeasurement* before = nullptr;
  for (const RowMeasurement& row : rows) {
    const double median_ms = row.total_ms(0.5);
    if (!row.refusal.empty() || median_ms <= 0) continue;
    const bool is_step = row.name == "hybrid" || row.name.starts_with("+ ");
    if (is_step && before != nullptr) {
      const double times = before->total_ms(0.5) / median_ms;
      text += fmt::format("{}{} {:.2f}{}", text.empty() ? "" : "; ", row.name, times, times < 1 ? " (does not pay here)" : "");
    }
    before = &row;
  }
  return text.empty() ? "" : "each step, the median of the row before over its own: " + text + "\n";
}

std::string FormatGain(std::span<const RowMeasurement> rows) {
  const std::optional<FlashGain> gain = GainOfFlash(rows);
  if (!gain) return "";
  std::string text = fmt::format(
      "flash against hybrid: {:.2f} times (hybrid's median over flash's); this run's bare loops allow {:.2f}; share {:.2f} (aim {}); "
      "their reads alone {:.2f}",
      gain->measured, gain->allowed, gain->share(), kAimOfBareLoops, gain->by_reads);
  if (gain->streaming_pays()) text += fmt::format("; below {}: streaming would be chosen", kLeastGainOfSelecting);
  return text + "\n";
}

std::string FormatFindings(std::span<const RowMeasurement> rows, const std::string& model) {
  std::string text;
  for (const std::string& part : {FormatNewNeurons(rows), FormatComparison(rows, model), FormatStreaming(rows), FormatSteps(rows),
                                  FormatGain(rows)}) {
    if (!part.empty()) text += "\n" + part;
  }
  return text;
}

nlohmann::ordered_json AblationToJson(std::span<const RowMeasurement> rows) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const RowMeasurement& row : rows) {
    nlohmann::ordered_json item = {{"name", row.name}, {"fits", row.refusal.empty()}};
    if (!row.refusal.empty()) {
      item["refusal"] = row.refusal;
      json.push_back(std::move(item));
      continue;
    }
    const PhaseReport& traffic = row.traffic;
    item["description"] = row.description;
    item["ram_bytes"] = row.ram_bytes;
    item["planned_bytes"] = row.planned_bytes;
    item["tokens"] = traffic.num_tokens;
    item["bytes_per_token"] = traffic.bytes_per_token();
    item["ffn_bytes_per_token"] = traffic.PerToken(traffic.ffn_bytes_read);
    item["reads_per_token"] = traffic.PerToken(traffic.num_reads);
    item["gb_per_second_while_reading"] = traffic.gb_per_second();
    item["device_reads_per_token"] = nullptr;
    if (row.device_reads) item["device_reads_per_token"] = traffic.PerToken(*row.device_reads);
    item["io_ms"] = row.io_ms();
    item["compute_ms"] = row.compute_ms();
    item["stall_ms"] = row.stall_ms();
    item["total_ms_median"] = row.total_ms(0.5);
    item["total_ms_p95"] = row.total_ms(0.95);
    item["total_ms_p99"] = row.total_ms(0.99);
    item["tokens_per_second"] = traffic.tokens_per_second();
    item["hit_rate"] = nullptr;
    if (traffic.hit_rate() >= 0) item["hit_rate"] = traffic.hit_rate();
    item["left_out_share"] = row.left_out_share;
    item["recall"] = nullptr;
    if (row.recall >= 0) item["recall"] = row.recall;
    item["touched_bytes_per_token"] = row.touched_bytes_per_token;
    item["chosen_neurons_per_token"] = nullptr;
    item["active_neurons_per_token"] = nullptr;
    if (row.use.num_tokens > 0) {
      item["chosen_neurons_per_token"] = row.use.chosen;
      item["active_neurons_per_token"] = row.use.active;
    }
    item["bare_loop_ms_median"] = row.bare_ms(0.5);
    item["bare_loop_ms_p99"] = row.bare_ms(0.99);
    item["reads_alone_ms_median"] = Percentile(row.bare.reads_ms, 0.5);
    item["memory_alone_ms_median"] = Percentile(row.bare.memory_ms, 0.5);
    item["memory_gb_per_second"] = row.bare.memory_bytes_per_second() / 1e9;
    item["flash_gb_per_second"] = row.bare.read_bytes_per_second() / 1e9;
    item["iops"] = row.bare.reads_per_second();
    item["bound_ms"] = row.bound_ms();
    item["plan_ms"] = nullptr;
    if (row.expected_ms > 0) item["plan_ms"] = row.expected_ms;
    item["plan_ms_with_this_runs_device"] = nullptr;
    if (row.expected_here_ms > 0) item["plan_ms_with_this_runs_device"] = row.expected_here_ms;
    item["plan_bytes_per_token"] = row.expected_bytes_per_token;
    json.push_back(std::move(item));
  }
  return json;
}

nlohmann::ordered_json FindingsToJson(std::span<const RowMeasurement> rows) {
  nlohmann::ordered_json json = {
      {"flash_against_hybrid", nullptr}, {"streaming", nlohmann::ordered_json::array()}, {"new_neurons", nullptr}};
  if (const std::optional<FlashGain> gain = GainOfFlash(rows)) {
    json["flash_against_hybrid"] = {{"measured", gain->measured},
                                    {"bare_loops_allow", gain->allowed},
                                    {"share", gain->share()},
                                    {"aim", kAimOfBareLoops},
                                    {"reads_alone", gain->by_reads},
                                    {"streaming_would_be_chosen", gain->streaming_pays()}};
  }
  for (const RowMeasurement& row : rows) {
    const std::optional<StreamingRate> rate = RateOfStreaming(row);
    if (!rate) continue;
    nlohmann::ordered_json item = {{"name", row.name},
                                   {"gb_per_second", rate->bytes_per_second / 1e9},
                                   {"reads_alone_gb_per_second", rate->reads_alone_bytes_per_second / 1e9},
                                   {"probed_sequential_gb_per_second", nullptr},
                                   {"share_of_probed", nullptr},
                                   {"aim", kAimOfSequential}};
    if (rate->probed_bytes_per_second > 0) {
      item["probed_sequential_gb_per_second"] = rate->probed_bytes_per_second / 1e9;
      item["share_of_probed"] = rate->bytes_per_second / rate->probed_bytes_per_second;
    }
    json["streaming"].push_back(std::move(item));
  }
  const MeasuredUse* const use = FindUse(rows);
  if (use == nullptr) return json;
  json["new_neurons"] = {{"tokens", use->num_tokens}, {"of_neurons", use->num_selectable}};
  for (size_t i = 0; i < use->num_windows(); ++i) {
    nlohmann::ordered_json item = {{"window", 1u << i}, {"measured", use->new_neurons[i]}, {"by_file", nullptr}};
    if (use->expected) item["by_file"] = (*use->expected)[i];
    json["new_neurons"]["windows"].push_back(std::move(item));
  }
  return json;
}

}  // namespace frugal
