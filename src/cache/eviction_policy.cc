#include "src/cache/eviction_policy.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace frugal {
namespace {

constexpr float kNeverUsed = -std::numeric_limits<float>::infinity();

class RecencyPolicy : public EvictionPolicy {
 public:
  // `window_steps` < 0: LRU, nothing expires.
  RecencyPolicy(uint32_t num_bundles, int64_t window_steps) : window_steps_(window_steps), last_use_(num_bundles, kNeverUsed) {}
  void OnUse(uint32_t bundle, uint32_t time, uint32_t) override { last_use_[bundle] = static_cast<float>(time); }
  float Priority(uint32_t bundle) const override { return last_use_[bundle]; }
  bool Expired(uint32_t bundle, uint32_t time) const override {
    return window_steps_ >= 0 && last_use_[bundle] <= static_cast<float>(int64_t{time} - window_steps_);
  }
  uint64_t memory_bytes() const override { return last_use_.size() * sizeof(float); }

 private:
  const int64_t window_steps_;
  std::vector<float> last_use_;  // exact up to 2^24 steps
};

class DecayPolicy : public EvictionPolicy {
 public:
  DecayPolicy(uint32_t num_bundles, float half_life_steps)
      : half_lives_per_step_(1.0f / half_life_steps), log_score_(num_bundles, kNeverUsed) {}
  void OnUse(uint32_t bundle, uint32_t time, uint32_t count) override {
    const float use = static_cast<float>(time) * half_lives_per_step_ + std::log2(static_cast<float>(count));
    const float before = log_score_[bundle];
    // log2(2^a + 2^b) = max + log2(1 + 2^-|a - b|)
    const float high = std::max(before, use);
    const float low = std::min(before, use);
    log_score_[bundle] = high + std::log2(1.0f + std::exp2(low - high));
  }
  float Priority(uint32_t bundle) const override { return log_score_[bundle]; }
  bool Expired(uint32_t, uint32_t) const override { return false; }
  uint64_t memory_bytes() const override { return log_score_.size() * sizeof(float); }

 private:
  const float half_lives_per_step_;
  std::vector<float> log_score_;
};

}  // namespace

std::unique_ptr<EvictionPolicy> MakeEvictionPolicy(const PolicyOptions& options, uint32_t num_bundles) {
  switch (options.kind) {
    case PolicyKind::kLru:
      return std::make_unique<RecencyPolicy>(num_bundles, -1);
    case PolicyKind::kWindow:
      return std::make_unique<RecencyPolicy>(num_bundles, options.window_steps);
    case PolicyKind::kDecay:
      break;
  }
  return std::make_unique<DecayPolicy>(num_bundles, options.half_life_steps);
}

uint64_t PolicyMemoryBytes(uint32_t num_bundles) { return uint64_t{num_bundles} * sizeof(float); }

}  // namespace frugal
