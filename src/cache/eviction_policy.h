// Which bundle to give up first. A policy only ranks: the cache evicts the ready, unpinned slot of lowest priority. A
// bundle's priority changes only when the bundle is used and never falls, which is what lets the cache keep a lazy heap.
// History is kept for bundles that are not in memory too. Engine thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace frugal {

enum class PolicyKind { kDecay, kLru, kWindow };

class EvictionPolicy {
 public:
  virtual ~EvictionPolicy() = default;
  // `count` tokens of the step at `time` (a step counter) use the bundle.
  virtual void OnUse(uint32_t bundle, uint32_t time, uint32_t count) = 0;
  virtual float Priority(uint32_t bundle) const = 0;
  // True when the policy wants the bundle dropped at the end of step `time` even though its slot is not needed yet.
  virtual bool Expired(uint32_t bundle, uint32_t time) const = 0;
  virtual uint64_t memory_bytes() const = 0;
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
