#include "src/cli/layout_report.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "src/base/bytes.h"
#include "src/cli/profile_cache.h"
#include "src/cli/system_limits.h"
#include "src/engine/streaming_choice.h"

namespace frugal {
namespace {

std::string Cost(const LayoutCandidate& candidate) {
  const std::string bytes = fmt::format("{} a token", FormatSize(static_cast<uint64_t>(candidate.expectation.read_bytes() + 0.5)));
  if (!candidate.expectation.token_seconds) return bytes;
  return fmt::format("{}, {:.3f} ms", bytes, 1e3 * *candidate.expectation.token_seconds);
}

// The best against the best of the other layout.
std::string Reason(const LayoutComparison& comparison) {
  const LayoutCandidate& best = comparison.candidates[*comparison.best];
  const LayoutCandidate* other = nullptr;
  for (const LayoutCandidate& one : comparison.candidates) {
    if (one.layout == best.layout || !one.fits) continue;
    if (other == nullptr || one.expectation.read_bytes() < other->expectation.read_bytes()) other = &one;
  }
  std::string text = fmt::format("{} ({})", DescribeCandidate(best), Cost(best));
  text += other == nullptr ? "; the other layout does not fit" : fmt::format(" against {} ({})", DescribeCandidate(*other), Cost(*other));
  if (other == nullptr || best.exact == other->exact) return text;
  return text + (best.exact ? fmt::format("; it misses no neuron, so that less than {} times as fast is enough", kLeastGainOfSelecting)
                            : "; it guesses, and may miss neurons");
}

}  // namespace

std::string FormatLayouts(const LayoutComparison& comparison, FfnLayout present) {
  if (comparison.candidates.empty()) return "";
  std::string text = fmt::format("\nLayouts of the FFN in this budget (`frugal pack --layout`)\n  {:<34}{:>13}{:>9}{:>9}{:>14}{:>14}\n",
                                 "layout, what chooses", "in RAM for it", "slots", "of FFN", "read a token", "a token");
  for (const LayoutCandidate& one : comparison.candidates) {
    if (!one.fits) {
      text += fmt::format("  {:<34}{:>13}\n", DescribeCandidate(one), "does not fit");
      continue;
    }
    const Expectation& expected = one.expectation;
    const std::string token = expected.token_seconds ? fmt::format("{:.3f} ms", 1e3 * *expected.token_seconds) : "not measured";
    text += fmt::format("  {:<34}{:>13}{:>9}{:>8.1f}%{:>14}{:>14}{}\n", DescribeCandidate(one), FormatSize(one.selecting_bytes),
                        one.num_slots, 100 * one.slots_share, FormatSize(static_cast<uint64_t>(expected.read_bytes() + 0.5)), token,
                        one.exact ? "" : "  guesses");
  }
  if (!comparison.basis.empty()) text += fmt::format("  ({})\n", comparison.basis);
  if (!comparison.best) return text;
  const FfnLayout layout = comparison.candidates[*comparison.best].layout;
  const char* const have = present == layout ? " (this file's)" : "";
  return text + fmt::format("  better: {}{}: {}\n", FfnLayoutName(layout), have, Reason(comparison));
}

nlohmann::ordered_json LayoutsToJson(const LayoutComparison& comparison) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (size_t i = 0; i < comparison.candidates.size(); ++i) {
    const LayoutCandidate& one = comparison.candidates[i];
    nlohmann::ordered_json item = {{"layout", FfnLayoutName(one.layout)}, {"selector", DescribeCandidate(one)}, {"fits", one.fits}};
    if (one.fits) {
      item["exact"] = one.exact;
      item["selecting_bytes"] = one.selecting_bytes;
      item["num_slots"] = one.num_slots;
      item["read_bytes"] = one.expectation.read_bytes();
      item["token_ms"] = nullptr;
      if (one.expectation.token_seconds) item["token_ms"] = 1e3 * *one.expectation.token_seconds;
      item["better"] = comparison.best == i;
    }
    json.push_back(std::move(item));
  }
  return json;
}

Result<std::optional<AutoLayout>> ChooseLayout(const std::string& source_path, std::optional<Activation> activation, const PackedForm& form,
                                               uint64_t ram_bytes) {
  EngineOptions options;
  options.model_path = source_path;
  options.activation = activation;
  options.ram_bytes = ram_bytes;
  options.num_threads = std::min(UsableCores(), ThreadPool::kMaxThreads);
  FRUGAL_ASSIGN(const OpenedHeader header, OpenHeader(options));
  const std::optional<DeviceProfile> profile = FindProfile(source_path);
  FRUGAL_ASSIGN(const LayoutComparison comparison, CompareLayouts(header, options, form, profile ? &*profile : nullptr));
  if (comparison.candidates.empty()) return std::optional<AutoLayout>();
  if (!comparison.best) {
    return MakeError(ErrorCode::kDoesNotFit, "{}: no layout of it runs in {} (--for-ram {}): --layout says which one to pack all the same",
                     source_path, FormatSize(ram_bytes), ram_bytes);
  }
  const std::string assumed = comparison.basis.empty() ? "" : fmt::format(" ({})", comparison.basis);
  const FfnLayout layout = comparison.candidates[*comparison.best].layout;
  return std::optional(AutoLayout{layout, fmt::format("layout {} for runs in {}: {}{}", FfnLayoutName(layout), FormatSize(ram_bytes),
                                                      Reason(comparison), assumed)});
}

}  // namespace frugal
