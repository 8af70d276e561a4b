#include "src/cli/replay.h"

#include <fmt/format.h>

#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <utility>

#include "src/cli/line_chart.h"

namespace frugal {
namespace {

// Windows beyond this are no longer the paper's idea.
constexpr uint32_t kMaxWindow = 256;

struct NamedPolicy {
  std::string name;
  std::function<SimulationResult(const SimulationOptions&)> run;
};

std::vector<NamedPolicy> Policies(const AccessTrace& trace, const ReplayOptions& options,
                                  const std::vector<double>& window_sizes) {
  const auto policy = [&trace](PolicyOptions policy_options) {
    return [&trace, policy_options](const SimulationOptions& simulation) {
      return SimulatePolicy(trace, policy_options, simulation);
    };
  };
  std::vector<NamedPolicy> policies;
  policies.push_back({"window", [&trace, &window_sizes](const SimulationOptions& simulation) {
                        return SimulatePolicy(
                            trace, {PolicyKind::kWindow, WindowFor(window_sizes, simulation.num_slots), 0},
                            simulation);
                      }});
  policies.push_back({"LRU", policy({PolicyKind::kLru, 0, 0})});
  for (const double half_life : options.half_lives) {
    policies.push_back({fmt::format("decay {:g}", half_life),
                        policy({PolicyKind::kDecay, 0, static_cast<float>(half_life)})});
  }
  policies.push_back({"pinned", [&trace](const SimulationOptions& simulation) {
                        return SimulatePinned(trace, simulation);
                      }});
  policies.push_back({"Belady", [&trace](const SimulationOptions& simulation) {
                        return SimulateOptimum(trace, simulation);
                      }});
  return policies;
}

}  // namespace

Replay ReplayTrace(const AccessTrace& trace, const ReplayOptions& options,
                   FunctionRef<void(double share, std::string_view what)> progress) {
  Replay replay;
  replay.options = options;
  replay.header = trace.header();
  const std::vector<double> window_sizes = WindowSizes(trace, kMaxWindow, options.warm_up_tokens);
  std::vector<SimulationOptions> simulations;
  for (const double share : options.slots_shares) {
    const auto num_slots = static_cast<uint32_t>(std::lround(share * trace.header().num_bundles()));
    simulations.push_back({num_slots, options.warm_up_tokens});
    replay.window_tokens.push_back(WindowFor(window_sizes, num_slots));
  }
  const std::vector<NamedPolicy> policies = Policies(trace, options, window_sizes);
  const double total = static_cast<double>(policies.size() * simulations.size());
  double done = 0;
  for (const NamedPolicy& policy : policies) {
    ReplaySeries series;
    series.name = policy.name;
    for (const SimulationOptions& simulation : simulations) {
      progress(done++ / total, policy.name);
      series.results.push_back(policy.run(simulation));
      replay.num_tokens = series.results.back().num_tokens;
      replay.uses_per_token = replay.num_tokens == 0 ? 0.0
                                                     : static_cast<double>(series.results.back().num_uses) /
                                                           static_cast<double>(replay.num_tokens);
    }
    replay.series.push_back(std::move(series));
  }
  return replay;
}

std::string FormatReplay(const Replay& replay) {
  const uint32_t num_bundles = replay.header.num_bundles();
  std::string text = fmt::format(
      "{} layers of {} neurons; {} tokens counted after {} to warm up; {:.0f} neurons demanded a token "
      "({:.2f}%)\n\n",
      replay.header.num_layers, replay.header.ffn_size, replay.num_tokens, replay.options.warm_up_tokens,
      replay.uses_per_token, 100 * replay.uses_per_token / num_bundles);
  text += "Neurons missed per token:\n\n| slots | k of the window |";
  std::string rule = "|---:|---:|";
  for (const ReplaySeries& series : replay.series) {
    text += fmt::format(" {} |", series.name);
    rule += "---:|";
  }
  text += "\n" + rule + "\n";
  for (size_t i = 0; i < replay.options.slots_shares.size(); ++i) {
    text += fmt::format("| {:g}% | {} |", 100 * replay.options.slots_shares[i], replay.window_tokens[i]);
    for (const ReplaySeries& series : replay.series)
      text += fmt::format(" {:.0f} |", series.results[i].misses_per_token());
    text += "\n";
  }
  return text;
}

nlohmann::ordered_json ReplayToJson(const Replay& replay) {
  nlohmann::ordered_json json = {
      {"model_content_hash", fmt::format("{:016x}", replay.header.model_content_hash)},
      {"num_layers", replay.header.num_layers},
      {"ffn_size", replay.header.ffn_size},
      {"tokens", replay.num_tokens},
      {"warm_up_tokens", replay.options.warm_up_tokens},
      {"demanded_per_token", replay.uses_per_token},
      {"slots_shares", replay.options.slots_shares},
      {"window_tokens", replay.window_tokens}};
  for (const ReplaySeries& series : replay.series) {
    nlohmann::ordered_json entry = {{"name", series.name}};
    for (const SimulationResult& result : series.results) {
      entry["misses_per_token"].push_back(result.misses_per_token());
      entry["miss_rate"].push_back(result.miss_rate());
    }
    json["policies"].push_back(std::move(entry));
  }
  return json;
}

std::string ReplaySvg(const Replay& replay) {
  LineChart chart;
  chart.title = "Misses by eviction policy";
  chart.x_title = "slots, of the FFN's neurons";
  chart.y_title = "misses, of the demanded neurons";
  chart.x_unit = chart.y_unit = "%";
  for (const ReplaySeries& series : replay.series) {
    ChartSeries line = {series.name, {}};
    for (size_t i = 0; i < series.results.size(); ++i) {
      line.points.emplace_back(100 * replay.options.slots_shares[i], 100 * series.results[i].miss_rate());
    }
    chart.series.push_back(std::move(line));
  }
  return LineChartSvg(chart);
}

}  // namespace frugal
