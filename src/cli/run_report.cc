#include "src/cli/run_report.h"

#include <fmt/format.h>

#include "src/base/bytes.h"
#include "src/engine/expectation.h"
#include "src/pack/inspect.h"

namespace frugal {
namespace {

// 0 for a phase that did not happen.
double Divide(double a, double b) { return b > 0 ? a / b : 0.0; }

std::string SpeedLine(const char* name, const PhaseReport& phase) {
  return fmt::format("{:>16} = {:10.2f} ms / {:5} tokens ({:8.2f} ms per token, {:8.2f} tokens per second)\n",
                     name, static_cast<double>(phase.elapsed_ns) / 1e6, phase.num_tokens,
                     phase.ms_per_token(), phase.tokens_per_second());
}

nlohmann::ordered_json PhaseJson(const PhaseReport& phase) {
  nlohmann::ordered_json json;
  json["tokens"] = phase.num_tokens;
  json["ms"] = static_cast<double>(phase.elapsed_ns) / 1e6;
  json["ms_per_token"] = phase.ms_per_token();
  json["tokens_per_second"] = phase.tokens_per_second();
  json["bytes_read"] = phase.bytes_read;
  json["bytes_per_token"] = phase.bytes_per_token();
  json["ffn_bytes_read"] = phase.ffn_bytes_read;
  json["reads"] = phase.num_reads;
  json["gb_per_second_while_reading"] = phase.gb_per_second();
  json["hits"] = phase.num_hits;
  json["late_hits"] = phase.num_late_hits;
  json["misses"] = phase.num_misses;
  json["read_early"] = phase.num_early;
  json["read_early_in_vain"] = phase.num_early_wrong;
  json["hit_rate"] =
      phase.hit_rate() < 0 ? nlohmann::ordered_json(nullptr) : nlohmann::ordered_json(phase.hit_rate());
  json["stall_ms"] = static_cast<double>(phase.stall_ns) / 1e6;
  json["stall_share"] = phase.stall_share();
  json["read_retries"] = phase.num_retries;
  json["slow_reads"] = phase.num_slow;
  return json;
}

}  // namespace

double PhaseReport::tokens_per_second() const {
  return Divide(static_cast<double>(num_tokens) * 1e9, static_cast<double>(elapsed_ns));
}
double PhaseReport::ms_per_token() const {
  return Divide(static_cast<double>(elapsed_ns) / 1e6, static_cast<double>(num_tokens));
}
double PhaseReport::PerToken(uint64_t count) const {
  return Divide(static_cast<double>(count), static_cast<double>(num_tokens));
}
double PhaseReport::bytes_per_token() const { return PerToken(bytes_read); }
double PhaseReport::gb_per_second() const {
  return Divide(static_cast<double>(bytes_read), static_cast<double>(busy_ns));
}
double PhaseReport::stall_share() const {
  return Divide(static_cast<double>(stall_ns), static_cast<double>(elapsed_ns));
}
double PhaseReport::FlashBoundMs(const DeviceProfile& profile, bool bundles_on_demand) const {
  if (num_tokens == 0) return 0.0;
  const uint64_t random_bytes = bundles_on_demand ? ffn_bytes_read : 0;
  const uint64_t random_reads = bundles_on_demand ? num_reads : 0;
  return 1e3 / static_cast<double>(num_tokens) *
         ReadBoundSeconds(profile, static_cast<double>(bytes_read - random_bytes),
                          static_cast<double>(random_reads), static_cast<double>(random_bytes));
}
double PhaseReport::hit_rate() const {
  const uint64_t asked = num_hits + num_late_hits + num_misses;
  return asked == 0 ? -1.0 : static_cast<double>(num_hits) / static_cast<double>(asked);
}

PhaseReport ReportPhase(const EngineStatistics& before, const EngineStatistics& after) {
  const WeightsStatistics &a = before.weights, &b = after.weights;
  PhaseReport phase;
  phase.num_tokens = after.num_rows - before.num_rows;
  phase.elapsed_ns = after.step_ns - before.step_ns;
  phase.num_reads = b.reads.num_reads - a.reads.num_reads;
  phase.bytes_read = b.reads.bytes_read - a.reads.bytes_read;
  phase.ffn_bytes_read = b.ffn_bytes_read - a.ffn_bytes_read;
  phase.busy_ns = b.reads.busy_ns - a.reads.busy_ns;
  phase.stall_ns = b.stall_ns - a.stall_ns;
  phase.num_hits = b.cache.num_hits - a.cache.num_hits;
  phase.num_late_hits = b.cache.num_late_hits - a.cache.num_late_hits;
  phase.num_misses = b.cache.num_misses - a.cache.num_misses;
  phase.num_early = b.cache.num_prefetched - a.cache.num_prefetched;
  phase.num_early_wrong = b.cache.num_prefetched_unused - a.cache.num_prefetched_unused;
  phase.num_retries = b.reads.num_retries - a.reads.num_retries;
  phase.num_slow = b.reads.num_slow - a.reads.num_slow;
  return phase;
}

const char* StopReasonName(StopReason reason) {
  switch (reason) {
    case StopReason::kTokenLimit:
      return "token limit";
    case StopReason::kEndOfText:
      return "end of text";
    case StopReason::kContextFull:
      return "context full";
    case StopReason::kInterrupted:
      return "interrupted";
    case StopReason::kOutputClosed:
      return "output closed";
  }
  return "";
}

std::string SparsityWarning(double active_share, std::string_view activation) {
  if (active_share <= SparsityMeter::kMostActive) return "";
  return fmt::format(
      "warning: {:.0f}% of the neurons are active in the first tokens: a model trained with {} has far fewer. Is the activation right "
      "(--activation)? Little can be left unread\n",
      100 * active_share, activation);
}

std::string FormatRunReport(const RunReport& report) {
  const PhaseReport& decode = report.decode;
  std::string text = SpeedLine("prompt eval time", report.prompt) + SpeedLine("eval time", decode);
  text += fmt::format("{:>16} = {} per token ({} of FFN, {:.1f} reads), {:.2f} GB/s while reading\n", "read",
                      FormatSize(static_cast<uint64_t>(decode.bytes_per_token())),
                      FormatSize(static_cast<uint64_t>(Divide(static_cast<double>(decode.ffn_bytes_read),
                                                              static_cast<double>(decode.num_tokens)))),
                      decode.PerToken(decode.num_reads),
                      decode.gb_per_second());
  if (decode.hit_rate() >= 0) {
    text += fmt::format("{:>16} = {} hits ({:.1f}%), {} late hits, {} misses\n", "bundles", decode.num_hits,
                        100 * decode.hit_rate(), decode.num_late_hits, decode.num_misses);
  }
  if (decode.num_early > 0) {
    const double wrong_share = static_cast<double>(decode.num_early_wrong) / static_cast<double>(decode.num_early);
    text += fmt::format("{:>16} = {} bundles read before attention, {} of them in vain ({:.1f}%)\n", "early", decode.num_early,
                        decode.num_early_wrong, 100 * wrong_share);
  }
  if (report.flash_bound_ms) {
    text += fmt::format("{:>16} = {:.2f} ms per token for these reads on this device; {:.2f} ms measured\n",
                        "flash bound", *report.flash_bound_ms, decode.ms_per_token());
  }
  text += fmt::format("{:>16} = {:.1f}% of decoding\n", "stall", 100 * decode.stall_share());
  if (report.thresholds) {
    text += fmt::format("{:>16} = lossy: {}\n", "sparsify", DescribeThresholds(*report.thresholds));
  } else if (report.exact) {
    text += fmt::format("{:>16} = exact, no active neuron is missed\n", "recall");
  } else if (report.recall < 0) {
    text += fmt::format("{:>16} = not sampled\n", "recall");
  } else {
    text += fmt::format("{:>16} = {:.2f}% of the active neurons (sampled)\n", "recall", 100 * report.recall);
  }
  if (report.active_share >= 0) {
    text += fmt::format("{:>16} = {:.1f}% of the neurons in the first tokens ({})\n", "active", 100 * report.active_share,
                        report.activation);
  }
  text += fmt::format(
      "{:>16} = {} at most, of a budget of {}, {} planned\n", "memory", FormatSize(report.peak_bytes),
      report.ram_bytes == 0 ? "any size" : FormatSize(report.ram_bytes), FormatSize(report.planned_bytes));
  if (!report.thresholds) text += SparsityWarning(report.active_share, report.activation);
  const uint64_t num_retries = report.prompt.num_retries + decode.num_retries;
  const uint64_t num_slow = report.prompt.num_slow + decode.num_slow;
  if (num_retries > 0) text += fmt::format("warning: {} reads failed and were repeated\n", num_retries);
  if (num_slow > 0) text += fmt::format("warning: {} reads took longer than a second\n", num_slow);
  return text;
}

nlohmann::ordered_json RunReportJson(const RunReport& report) {
  nlohmann::ordered_json json;
  json["mode"] = report.mode;
  json["description"] = report.description;
  json["ram_bytes"] = report.ram_bytes;
  json["planned_bytes"] = report.planned_bytes;
  json["peak_bytes"] = report.peak_bytes;
  json["context"] = report.context;
  json["context_reduced"] = report.context_reduced;
  json["threads"] = report.num_threads;
  json["seed"] = report.seed;
  json["load_ms"] = static_cast<double>(report.load_ns) / 1e6;
  json["generated"] = report.num_generated;
  json["stop"] = StopReasonName(report.stop);
  json["exact"] = report.exact;
  json["recall"] =
      report.recall < 0 ? nlohmann::ordered_json(nullptr) : nlohmann::ordered_json(report.recall);
  json["sparsify"] = nullptr;
  if (report.thresholds) json["sparsify"] = ToJson(*report.thresholds);
  json["activation"] = report.activation;
  json["active_share"] = report.active_share < 0 ? nlohmann::ordered_json(nullptr) : nlohmann::ordered_json(report.active_share);
  json["flash_bound_ms_per_token"] = report.flash_bound_ms ? nlohmann::ordered_json(*report.flash_bound_ms)
                                                           : nlohmann::ordered_json(nullptr);
  json["prompt"] = PhaseJson(report.prompt);
  json["decode"] = PhaseJson(report.decode);
  return json;
}

}  // namespace frugal
