#include "src/cache/simulation.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <utility>

#include "src/base/check.h"

namespace frugal {
namespace {

constexpr uint32_t kNever = ~0u;

// A pool of slots that is known by the bundles in it.
class SimulatedCache {
 public:
  SimulatedCache(const AccessTrace& trace, const PolicyOptions& policy, uint32_t num_slots)
      : policy_(MakeEvictionPolicy(policy, trace.header().num_bundles())),
        num_slots_(num_slots),
        states_(trace.header().num_bundles()) {}

  // Returns the misses.
  uint64_t UseSet(std::span<const uint32_t> bundles, uint32_t time) {
    for (const uint32_t bundle : bundles) policy_->OnUse(bundle, time);
    uint64_t num_misses = 0;
    size_t first_pinned = 0;  // those before it belong to waves that are over
    for (size_t i = 0; i < bundles.size(); ++i) {
      State& state = states_[bundles[i]];
      if (!state.present) {
        ++num_misses;
        if (num_present_ == num_slots_ && !EvictOne()) {
          // A wave is over: what it used may go.
          Release(bundles.subspan(first_pinned, i - first_pinned));
          first_pinned = i;
          if (!EvictOne()) continue;  // no slots at all
        }
        state.present = true;
        ++num_present_;
      }
      state.pinned = true;
    }
    Release(bundles.subspan(first_pinned));
    return num_misses;
  }

  // What the window no longer holds goes.
  void DropExpired(uint32_t time) {
    std::vector<Entry> kept;
    for (const Entry& entry : heap_) {
      State& state = states_[entry.bundle];
      if (!policy_->Expired(entry.bundle, time)) {
        kept.push_back(entry);
        continue;
      }
      state.in_heap = false;
      state.present = false;
      --num_present_;
    }
    heap_ = std::move(kept);
    std::make_heap(heap_.begin(), heap_.end(), Later);
  }

 private:
  struct State {
    bool present = false, pinned = false, in_heap = false;
  };
  struct Entry {
    float priority;
    uint32_t bundle;
  };
  static bool Later(const Entry& a, const Entry& b) { return a.priority > b.priority; }

  void Release(std::span<const uint32_t> bundles) {
    for (const uint32_t bundle : bundles) {
      State& state = states_[bundle];
      state.pinned = false;
      if (!state.present || state.in_heap) continue;
      Push(bundle);
    }
  }
  void Push(uint32_t bundle) {
    states_[bundle].in_heap = true;
    heap_.push_back({policy_->priorities()[bundle], bundle});
    std::push_heap(heap_.begin(), heap_.end(), Later);
  }
  // The heap is lazy: an entry may be older than its bundle's last use; then it goes back.
  bool EvictOne() {
    while (!heap_.empty()) {
      std::pop_heap(heap_.begin(), heap_.end(), Later);
      const Entry entry = heap_.back();
      heap_.pop_back();
      State& state = states_[entry.bundle];
      state.in_heap = false;
      if (state.pinned) continue;  // its release puts it back
      if (policy_->priorities()[entry.bundle] > entry.priority) {
        Push(entry.bundle);
        continue;
      }
      state.present = false;
      --num_present_;
      return true;
    }
    return false;
  }

  const std::unique_ptr<EvictionPolicy> policy_;
  const uint32_t num_slots_;
  uint32_t num_present_ = 0;
  std::vector<State> states_;  // [num_bundles]
  std::vector<Entry> heap_;    // at most one entry a bundle
};

// Calls fn(token, layer, set) for all sets in order.
template <typename Fn>
void ForEachSet(const AccessTrace& trace, Fn fn) {
  for (size_t token = 0; token < trace.num_tokens(); ++token) {
    for (uint32_t layer = 0; layer < trace.header().num_layers; ++layer)
      fn(token, layer, trace.Set(token, layer));
  }
}

void Count(size_t token, size_t num_uses, uint64_t num_misses, const SimulationOptions& options,
           SimulationResult* result) {
  if (token < options.warm_up_tokens) return;
  result->num_uses += num_uses;
  result->num_misses += num_misses;
}

SimulationResult EmptyResult(const AccessTrace& trace, const SimulationOptions& options) {
  SimulationResult result;
  result.num_tokens = trace.num_tokens() - std::min(trace.num_tokens(), options.warm_up_tokens);
  return result;
}

// For each use, the token of the bundle's next one. // [num_uses]
std::vector<uint32_t> NextUses(const AccessTrace& trace) {
  std::vector<uint32_t> next(trace.num_uses());
  std::vector<uint32_t> seen(trace.header().num_bundles(), kNever);
  for (size_t token = trace.num_tokens(); token-- > 0;) {
    for (uint32_t layer = 0; layer < trace.header().num_layers; ++layer) {
      size_t use = trace.FirstUse(token, layer);
      for (const uint32_t bundle : trace.Set(token, layer)) {
        next[use++] = seen[bundle];
        seen[bundle] = static_cast<uint32_t>(token);
      }
    }
  }
  return next;
}

// The bundles that Belady's optimum keeps, by the place of their next use.
class FarthestFirst {
 public:
  static constexpr uint64_t kNeverAgain = ~uint64_t{0} - 1;

  FarthestFirst(uint64_t num_bundles, uint32_t num_slots)
      : num_slots_(num_slots), next_of_(num_bundles, kAbsent) {}

  // False for a miss. `next`: where the bundle is used next.
  bool Use(uint32_t bundle, uint64_t next) {
    const bool hit = next_of_[bundle] != kAbsent;
    if (!hit) {
      if (next == kNeverAgain || !MakeRoom(next)) return false;
      ++num_present_;
    }
    next_of_[bundle] = next;
    if (heap_.size() > 4 * uint64_t{num_slots_} + 64) DropStale();
    heap_.emplace_back(next, bundle);
    std::push_heap(heap_.begin(), heap_.end());
    return hit;
  }

 private:
  static constexpr uint64_t kAbsent = ~uint64_t{0};
  using Entry = std::pair<uint64_t, uint32_t>;  // next use, bundle

  bool IsStale(const Entry& entry) const { return next_of_[entry.second] != entry.first; }
  void DropStale() {
    std::erase_if(heap_, [&](const Entry& entry) { return IsStale(entry); });
    std::make_heap(heap_.begin(), heap_.end());
  }
  // False when all that is kept is needed sooner than `next`.
  bool MakeRoom(uint64_t next) {
    while (num_present_ == num_slots_) {
      if (heap_.empty() || (!IsStale(heap_.front()) && heap_.front().first <= next)) return false;
      std::pop_heap(heap_.begin(), heap_.end());
      const Entry entry = heap_.back();
      heap_.pop_back();
      if (IsStale(entry)) continue;
      next_of_[entry.second] = kAbsent;
      --num_present_;
    }
    return true;
  }

  const uint32_t num_slots_;
  uint32_t num_present_ = 0;
  std::vector<uint64_t> next_of_;  // [num_bundles]
  std::vector<Entry> heap_;        // farthest first; entries of bundles used or given up since are stale
};

}  // namespace

SimulationResult SimulatePolicy(const AccessTrace& trace, const PolicyOptions& policy,
                                const SimulationOptions& options) {
  SimulationResult result = EmptyResult(trace, options);
  SimulatedCache cache(trace, policy, options.num_slots);
  ForEachSet(trace, [&](size_t token, uint32_t layer, std::span<const uint32_t> set) {
    const uint32_t time = static_cast<uint32_t>(token);
    Count(token, set.size(), cache.UseSet(set, time), options, &result);
    if (policy.kind == PolicyKind::kWindow && layer + 1 == trace.header().num_layers) cache.DropExpired(time);
  });
  return result;
}

SimulationResult SimulatePinned(const AccessTrace& trace, const SimulationOptions& options) {
  std::vector<uint32_t> counts(trace.header().num_bundles());
  ForEachSet(trace, [&](size_t token, uint32_t, std::span<const uint32_t> set) {
    if (token >= options.warm_up_tokens) return;
    for (const uint32_t bundle : set) ++counts[bundle];
  });
  std::vector<uint32_t> order(counts.size());
  std::iota(order.begin(), order.end(), 0u);
  const size_t num_pinned = std::min<size_t>(options.num_slots, order.size());
  std::nth_element(
      order.begin(), order.begin() + static_cast<ptrdiff_t>(num_pinned), order.end(),
      [&](uint32_t a, uint32_t b) { return counts[a] != counts[b] ? counts[a] > counts[b] : a < b; });
  std::vector<bool> pinned(counts.size());
  for (size_t i = 0; i < num_pinned; ++i) pinned[order[i]] = true;
  SimulationResult result = EmptyResult(trace, options);
  ForEachSet(trace, [&](size_t token, uint32_t, std::span<const uint32_t> set) {
    const auto misses =
        std::count_if(set.begin(), set.end(), [&](uint32_t bundle) { return !pinned[bundle]; });
    Count(token, set.size(), static_cast<uint64_t>(misses), options, &result);
  });
  return result;
}

SimulationResult SimulateOptimum(const AccessTrace& trace, const SimulationOptions& options) {
  const std::vector<uint32_t> next_uses = NextUses(trace);
  const uint64_t num_bundles = trace.header().num_bundles();
  // A use's place among all uses of all tokens: bundles of a token are used in ascending order.
  FarthestFirst kept(num_bundles, options.num_slots);
  SimulationResult result = EmptyResult(trace, options);
  ForEachSet(trace, [&](size_t token, uint32_t layer, std::span<const uint32_t> set) {
    uint64_t num_misses = 0;
    size_t use = trace.FirstUse(token, layer);
    for (const uint32_t bundle : set) {
      const uint32_t next = next_uses[use++];
      if (!kept.Use(bundle,
                    next == kNever ? FarthestFirst::kNeverAgain : uint64_t{next} * num_bundles + bundle)) {
        ++num_misses;
      }
    }
    Count(token, set.size(), num_misses, options, &result);
  });
  return result;
}

std::vector<double> WindowSizes(const AccessTrace& trace, uint32_t max_window, size_t warm_up_tokens) {
  // A use whose bundle was used d tokens before is new to every window of fewer than d tokens: a window of k
  // + 1 tokens holds more than one of k by what is new to k.
  std::vector<uint64_t> num_new(max_window + 1);  // [k]: uses that are new to a window of k tokens
  std::vector<uint32_t> last_use(trace.header().num_bundles(), kNever);
  ForEachSet(trace, [&](size_t token, uint32_t, std::span<const uint32_t> set) {
    for (const uint32_t bundle : set) {
      const uint32_t before = last_use[bundle];
      last_use[bundle] = static_cast<uint32_t>(token);
      if (token < warm_up_tokens) continue;
      const uint64_t distance = before == kNever ? ~uint64_t{0} : token - before;
      for (uint64_t k = 0; k <= max_window && k < distance; ++k) ++num_new[k];
    }
  });
  const size_t num_tokens = trace.num_tokens() - std::min(trace.num_tokens(), warm_up_tokens);
  std::vector<double> sizes(max_window + 1);
  for (uint32_t k = 1; k <= max_window; ++k) {
    const double per_token =
        static_cast<double>(num_new[k - 1]) / std::max(1.0, static_cast<double>(num_tokens));
    sizes[k] = sizes[k - 1] + per_token;
  }
  return sizes;
}

uint32_t WindowFor(const std::vector<double>& window_sizes, uint32_t num_slots) {
  uint32_t k = 0;
  while (k + 1 < window_sizes.size() && window_sizes[k + 1] <= static_cast<double>(num_slots)) ++k;
  return k;
}

}  // namespace frugal
