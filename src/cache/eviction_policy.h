// Which bundle to give up first. A policy only ranks: the cache evicts ready, unpinned bundles of low priority. A
// bundle's priority changes only when the bundle is used and never falls, which lets a simulation keep a lazy heap.
// History is kept for bundles that are not in memory too. Engine thread only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace frugal {

// Positions after the current one of a layer's active set whose table entries are asked for: a token goes through a layer's tables once, so
// that they lie in no cache.
constexpr size_t kAskedAhead = 24;

enum class PolicyKind { kDecay, kLru, kWindow };

class EvictionPolicy {
 public:
  virtual ~EvictionPolicy() = default;
  // counts[i] tokens of the step at `time` (a step counter) use bundle first_bundle + positions[i].
  virtual void OnUses(uint32_t first_bundle, std::span<const uint32_t> positions, std::span<const uint32_t> counts, uint32_t time) = 0;
  // One token uses the bundle.
  void OnUse(uint32_t bundle, uint32_t time) {
    const uint32_t position = 0, count = 1;
    OnUses(bundle, {&position, 1}, {&count, 1}, time);
  }
  // [num_bundles]; -infinity: never used.
  std::span<const float> priorities() const { return priorities_; }
  // True when the policy wants the bundle dropped at the end of step `time` even though its slot is not needed yet.
  virtual bool Expired(uint32_t bundle, uint32_t time) const = 0;

 protected:
  explicit EvictionPolicy(uint32_t num_bundles);
  std::vector<float> priorities_;
};

// LRU: the step of the last use.
// Window (the paper, section 3.1): the same, and a bundle that none of the last `window_steps` steps used is dropped; 0 keeps nothing.
// Decay: sum over the uses of 2^((time of use) / half_life), kept as its logarithm: ranking by it is ranking by a use
// count that halves every half_life steps.
struct PolicyOptions {
  PolicyKind kind = PolicyKind::kDecay;
  uint32_t window_steps = 4;
  // Steps.
  float half_life_steps = 16;
};
std::unique_ptr<EvictionPolicy> MakeEvictionPolicy(const PolicyOptions& options, uint32_t num_bundles);

// Bytes of a policy's tables for that many bundles.
uint64_t PolicyMemoryBytes(uint32_t num_bundles);

}  // namespace frugal
