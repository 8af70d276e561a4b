#include "src/cli/plan_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "src/base/bytes.h"
#include "src/cli/layout_report.h"

namespace frugal {
namespace {

// "blk.*.attn_q.weight", "model.layers.*.self_attn.q_proj.weight": without the first part that is a number.
std::string GroupName(const std::string& name) {
  for (size_t dot = name.find('.'); dot != std::string::npos; dot = name.find('.', dot + 1)) {
    const size_t end = name.find_first_not_of("0123456789", dot + 1);
    if (end != std::string::npos && end > dot + 1 && name[end] == '.') return name.substr(0, dot + 1) + "*" + name.substr(end);
  }
  return name;
}

std::string FormatLedger(const EnginePlan& plan) {
  std::string text = "Memory\n";
  const auto line = [&text](std::string_view name, uint64_t bytes, std::string_view note) {
    text += fmt::format("  {:<20}{:>14}  {:>11}  {}", name, bytes, FormatSize(bytes), note);
    text.resize(text.find_last_not_of(' ') + 1);
    text += '\n';
  };
  for (const LedgerLine& entry : plan.ledger.lines()) line(entry.name, entry.size_bytes, entry.note);
  line("total", plan.peak_bytes(), "");
  if (plan.ram_bytes > 0) {
    line("budget", plan.ram_bytes,
         fmt::format("{:.1f}% of it planned",
                     100.0 * static_cast<double>(plan.peak_bytes()) / static_cast<double>(plan.ram_bytes)));
  }
  return text;
}

std::string FormatTensors(const EnginePlan& plan, TensorDetail detail) {
  std::vector<TensorGroup> groups;
  if (detail == TensorDetail::kGrouped) {
    groups = GroupTensors(plan.tensors);
  } else {
    for (const PlacedTensor& tensor : plan.tensors) {
      groups.push_back({tensor.name, tensor.where, 1, tensor.size_bytes, tensor.resident_bytes});
    }
  }
  size_t width = 32;
  for (const TensorGroup& group : groups) width = std::max(width, group.name.size());
  std::string text =
      fmt::format("\nTensors\n  {:<{}}{:>6}{:>13}{:>13}  {}\n", "name", width, "count", "size", "resident", "where");
  for (const TensorGroup& group : groups) {
    text += fmt::format("  {:<{}}{:>6}{:>13}{:>13}  {}\n", group.name, width, group.num_tensors, FormatSize(group.size_bytes),
                        FormatSize(group.resident_bytes), group.where);
  }
  return text;
}

std::string FormatSmallest(const PlanReport& report) {
  const uint64_t smallest = report.plan->smallest_bytes;
  std::string text = fmt::format(
      "\nSmallest budget that works with these options and a context of {}: {} bytes (--ram {})\n",
      report.plan->context, smallest, RamFlag(smallest));
  if (report.smallest_reduced_bytes) {
    text += fmt::format("  with the context reduced to {}: {} bytes (--ram {})\n", report.reduced_context,
                        *report.smallest_reduced_bytes, RamFlag(*report.smallest_reduced_bytes));
  }
  return text;
}

std::string FormatBytes(double bytes) { return FormatSize(static_cast<uint64_t>(bytes + 0.5)); }

std::string FormatExpectation(const PlanReport& report) {
  const Expectation& expected = report.expectation;
  std::string text = "\nExpected for one token of decoding (estimates; `frugal bench` measures)\n";
  text += fmt::format("  {:<20}{:>12}\n", "read", FormatBytes(expected.read_bytes()));
  text += fmt::format("  {:<20}{:>12}  large sequential reads in layer order\n", "  streamed",
                      FormatBytes(expected.streamed_bytes));
  text += fmt::format("  {:<20}{:>12}  {:.1f} reads of embedding rows\n", "  rows",
                      FormatBytes(expected.row_bytes), expected.row_reads);
  if (report.plan->weights.ffn == FfnPlacement::kOnDemand) {
    text += fmt::format("  {:<20}{:>12}  {:.1f} reads: {:.0f} neurons used, {:.1f}% of them in slots\n",
                        "  bundles on demand", FormatBytes(expected.demand_bytes), expected.demand_reads,
                        expected.bundles_used, 100 * expected.hit_share());
    if (!report.basis.empty()) text += fmt::format("    ({})\n", report.basis);
    if (report.plan->use_early) {
      text += fmt::format("    (and {:.0f} neurons for wrong guesses of early prediction)\n", expected.bundles_in_vain);
    }
  }
  text += fmt::format("  {:<20}{:>9.3f} ms  {} touched at {:.1f} GB/s", "computing", 1e3 * expected.compute_seconds,
                      FormatBytes(expected.touched_bytes), expected.memory_bytes_per_second / 1e9);
  if (expected.slow_product_seconds > 0) text += fmt::format(", {:.3f} ms more for slow products", 1e3 * expected.slow_product_seconds);
  if (expected.alone_seconds > 0) text += fmt::format(", {:.3f} ms of one thread alone", 1e3 * expected.alone_seconds);
  text += '\n';
  if (!expected.token_seconds) {
    return text + "  milliseconds of reading: the device was not measured; run `frugal probe " +
           report.model->path() + "`\n";
  }
  text += fmt::format("  {:<20}{:>9.3f} ms  on {}\n", "reading", 1e3 * *expected.read_seconds,
                      report.device_name);
  const bool overlap = report.plan->weights.overlap;
  const bool early = report.plan->use_early || report.plan->weights.ffn != FfnPlacement::kOnDemand || report.model->config().parallel();
  return text + fmt::format("  {:<20}{:>9.3f} ms  {}\n", "token", 1e3 * *expected.token_seconds,
                            !overlap ? "the sum: nothing overlaps"
                            : !early && expected.streamed_bytes == 0 ? "without early prediction attention overlaps with no reads"
                            : expected.layer_shares.empty() ? "the larger of the two: they overlap"
                                                            : "layer by layer the larger of the two: they overlap");
}

// The least bytes read is what counts where the device was not measured.
bool IsBetter(const PlanAlternative& a, const PlanAlternative& b) {
  if (a.token_seconds && b.token_seconds && *a.token_seconds != *b.token_seconds) return *a.token_seconds < *b.token_seconds;
  return a.read_bytes < b.read_bytes;
}

nlohmann::ordered_json AlternativesToJson(const std::vector<PlanAlternative>& alternatives) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const PlanAlternative& one : alternatives) {
    nlohmann::ordered_json item = {{"flags", one.flags}, {"lossy", one.lossy}, {"num_slots", one.num_slots}, {"read_bytes", one.read_bytes}};
    item["token_ms"] = nullptr;
    if (one.token_seconds) item["token_ms"] = 1e3 * *one.token_seconds;
    json.push_back(std::move(item));
  }
  return json;
}

nlohmann::ordered_json ExpectationToJson(const Expectation& expected) {
  nlohmann::ordered_json json;
  json["read_bytes"] = expected.read_bytes();
  json["streamed_bytes"] = expected.streamed_bytes;
  json["row_reads"] = expected.row_reads;
  json["row_bytes"] = expected.row_bytes;
  json["bundles_used"] = expected.bundles_used;
  json["bundles_missed"] = expected.bundles_missed;
  json["bundles_in_vain"] = expected.bundles_in_vain;
  json["hit_share"] = expected.hit_share();
  json["demand_reads"] = expected.demand_reads;
  json["demand_bytes"] = expected.demand_bytes;
  json["touched_bytes"] = expected.touched_bytes;
  json["memory_bytes_per_second"] = expected.memory_bytes_per_second;
  json["slow_product_ms"] = 1e3 * expected.slow_product_seconds;
  json["compute_ms"] = 1e3 * expected.compute_seconds;
  json["read_ms"] = nullptr;
  json["token_ms"] = nullptr;
  if (expected.read_seconds) json["read_ms"] = 1e3 * *expected.read_seconds;
  if (expected.token_seconds) json["token_ms"] = 1e3 * *expected.token_seconds;
  return json;
}

}  // namespace

std::string RamFlag(uint64_t bytes) { return fmt::format("{}M", (bytes + kMiB - 1) / kMiB); }

std::vector<TensorGroup> GroupTensors(const std::vector<PlacedTensor>& tensors) {
  std::vector<TensorGroup> groups;
  for (const PlacedTensor& tensor : tensors) {
    const std::string name = GroupName(tensor.name);
    auto found = std::find_if(groups.begin(), groups.end(), [&](const TensorGroup& group) {
      return group.name == name && group.where == tensor.where;
    });
    if (found == groups.end()) {
      // Beside those of its name that live elsewhere.
      const auto same = std::find_if(groups.rbegin(), groups.rend(),
                                     [&](const TensorGroup& group) { return group.name == name; });
      found =
          groups.insert(same == groups.rend() ? groups.end() : same.base(), {name, tensor.where, 0, 0, 0});
    }
    ++found->num_tensors;
    found->size_bytes += tensor.size_bytes;
    found->resident_bytes += tensor.resident_bytes;
  }
  return groups;
}

std::string FormatAlternatives(const std::vector<PlanAlternative>& alternatives) {
  if (alternatives.empty()) return "";
  std::string text = fmt::format("\nWhat this budget may be spent on\n  {:<24}{:>10}{:>9}{:>14}{:>14}\n", "flags", "slots", "of FFN",
                                 "read a token", "a token");
  const PlanAlternative* best = nullptr;
  for (const PlanAlternative& one : alternatives) {
    if (!one.lossy && (best == nullptr || IsBetter(one, *best))) best = &one;
    text += fmt::format("  {:<24}{:>10}{:>8.1f}%{:>14}{:>14}{}\n", one.flags, one.num_slots, 100 * one.slots_share, FormatBytes(one.read_bytes),
                        one.token_seconds ? fmt::format("{:.3f} ms", 1e3 * *one.token_seconds) : "not measured", one.lossy ? "  lossy" : "");
  }
  const auto fastest = std::min_element(alternatives.begin(), alternatives.end(), IsBetter);
  if (best != nullptr) text += fmt::format("  best: {}", best->flags);
  if (fastest->lossy) text += fmt::format("{}best where a loss is accepted: {}", best != nullptr ? "; " : "  ", fastest->flags);
  return text + "\n";
}

std::string FormatPlan(const PlanReport& report, TensorDetail detail) {
  const EnginePlan& plan = *report.plan;
  std::string text = fmt::format("{}: {} mode, {}, context of {}{}, {} threads, batches of {}\n\n",
                                 report.model->path(), RunModeName(report.options->mode), report.selector,
                                 plan.context, plan.context_reduced ? " (reduced to fit the budget)" : "",
                                 plan.num_threads, plan.max_rows);
  if (!report.options->mode_note.empty()) text += report.options->mode_note + "\n\n";
  return text + FormatLedger(plan) + FormatTensors(plan, detail) + FormatSmallest(report) +
         FormatExpectation(report) + FormatAlternatives(report.alternatives) +
         FormatLayouts(report.layouts, report.model->config().ffn_layout);
}

nlohmann::ordered_json PlanToJson(const PlanReport& report) {
  const EnginePlan& plan = *report.plan;
  nlohmann::ordered_json json;
  json["model"] = report.model->path();
  json["mode"] = RunModeName(report.options->mode);
  json["mode_note"] = report.options->mode_note;
  json["selector"] = report.selector;
  json["ram_bytes"] = plan.ram_bytes;
  json["peak_bytes"] = plan.peak_bytes();
  json["smallest_bytes"] = plan.smallest_bytes;
  json["smallest_ram_flag"] = RamFlag(plan.smallest_bytes);
  json["smallest_with_reduced_context_bytes"] = report.smallest_reduced_bytes.value_or(plan.smallest_bytes);
  json["context"] = plan.context;
  json["context_reduced"] = plan.context_reduced;
  json["threads"] = plan.num_threads;
  json["max_rows"] = plan.max_rows;
  json["num_slots"] = plan.weights.cache.num_slots;
  json["early_prediction"] = plan.use_early;
  json["ledger"] = nlohmann::ordered_json::array();
  for (const LedgerLine& line : plan.ledger.lines()) {
    json["ledger"].push_back({{"name", line.name}, {"bytes", line.size_bytes}, {"note", line.note}});
  }
  json["tensors"] = nlohmann::ordered_json::array();
  for (const PlacedTensor& tensor : plan.tensors) {
    json["tensors"].push_back({{"name", tensor.name},
                               {"where", tensor.where},
                               {"size_bytes", tensor.size_bytes},
                               {"resident_bytes", tensor.resident_bytes}});
  }
  json["expected_per_token"] = ExpectationToJson(report.expectation);
  json["expected_per_token"]["basis"] = report.basis;
  json["layouts"] = LayoutsToJson(report.layouts);
  json["alternatives"] = AlternativesToJson(report.alternatives);
  json["device"] = nullptr;
  if (!report.device_name.empty()) json["device"] = report.device_name;
  return json;
}

}  // namespace frugal
