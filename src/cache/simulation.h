// Replays an access trace through eviction policies and counts misses: the policies of this folder as the
// bundle cache runs them, a pinned part that never changes, and Belady's optimum, which knows the future and
// which nothing beats. One slot pool for all layers; a layer's set is in memory together while it is used.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "src/cache/access_trace.h"
#include "src/cache/eviction_policy.h"

namespace frugal {

struct SimulationOptions {
  uint32_t num_slots = 0;
  size_t warm_up_tokens = 0;  // at the beginning: run, not counted
};

struct SimulationResult {
  uint64_t num_tokens = 0;  // counted
  uint64_t num_uses = 0;    // by the counted tokens
  uint64_t num_misses = 0;

  double misses_per_token() const {
    return num_tokens == 0 ? 0.0 : static_cast<double>(num_misses) / static_cast<double>(num_tokens);
  }
  double miss_rate() const {
    return num_uses == 0 ? 0.0 : static_cast<double>(num_misses) / static_cast<double>(num_uses);
  }
};

// As BundleCache: the ready, unpinned slot of lowest priority goes first.
SimulationResult SimulatePolicy(const AccessTrace& trace, const PolicyOptions& policy,
                                const SimulationOptions& options);
// The bundles that the warm-up part used most often stay for good, all others are missed.
SimulationResult SimulatePinned(const AccessTrace& trace, const SimulationOptions& options);
// Belady 1966, with the right to keep a bundle in no slot at all.
SimulationResult SimulateOptimum(const AccessTrace& trace, const SimulationOptions& options);

// Mean number of bundles that the last k tokens used together, for k = 1 .. max_window; tokens of the warm-up
// part only begin windows. // [max_window + 1], entry 0 is 0
std::vector<double> WindowSizes(const AccessTrace& trace, uint32_t max_window, size_t warm_up_tokens);
// The largest k whose window is at most num_slots, 0 when even one token's set is larger.
uint32_t WindowFor(const std::vector<double>& window_sizes, uint32_t num_slots);

}  // namespace frugal
