// One access trace through all policies at several cache sizes: what `frugal simulate` prints.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/function_ref.h"
#include "src/cache/simulation.h"

namespace frugal {

struct ReplayOptions {
  std::vector<double> slots_shares = {0.05, 0.10, 0.15, 0.20, 0.235, 0.30, 0.40, 0.60};  // of the FFN
  size_t warm_up_tokens = 0;
  std::vector<double> half_lives = {16};  // of decayed frequency, tokens: a series each
};

struct ReplaySeries {
  std::string name;
  std::vector<SimulationResult> results;  // by slots_shares
};

struct Replay {
  ReplayOptions options;
  TraceHeader header;
  uint64_t num_tokens = 0;  // counted
  double uses_per_token = 0;
  std::vector<uint32_t> window_tokens;  // k of the window, by slots_shares
  std::vector<ReplaySeries> series;     // window, LRU, decay (each half-life), pinned, Belady
};

Replay ReplayTrace(const AccessTrace& trace, const ReplayOptions& options,
                   FunctionRef<void(double share, std::string_view what)> progress);

std::string FormatReplay(const Replay& replay);  // a markdown table of misses per token
nlohmann::ordered_json ReplayToJson(const Replay& replay);
std::string ReplaySvg(const Replay& replay);  // miss rates

}  // namespace frugal
