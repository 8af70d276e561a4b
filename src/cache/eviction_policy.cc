#include "src/cache/eviction_policy.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace frugal {
namespace {

constexpr float kNeverUsed = -std::numeric_limits<float>::infinity();

class RecencyPolicy : public EvictionPolicy {
 public:
  // `window_steps` < 0: LRU, nothing expires.
  RecencyPolicy(uint32_t num_bundles, int64_t window_steps) : EvictionPolicy(num_bundles), window_steps_(window_steps) {}
  void OnUses(uint32_t first_bundle, std::span<const uint32_t> positions, std::span<const uint32_t>, uint32_t time) override {
    float* const last_use = priorities_.data() + first_bundle;  // exact up to 2^24 steps
    for (const uint32_t position : positions) last_use[position] = static_cast<float>(time);
  }
  bool Expired(uint32_t bundle, uint32_t time) const override {
    return window_steps_ >= 0 && priorities_[bundle] <= static_cast<float>(int64_t{time} - window_steps_);
  }

 private:
  const int64_t window_steps_;
};

// log2(1 + 2^-d) for d >= 0, by the nearest entry of a table: within 0.004, a sixteenth of a step where the half-life is 16.
class LogOfSum {
 public:
  LogOfSum() {
    for (size_t i = 0; i < table_.size(); ++i) table_[i] = std::log2(1.0f + std::exp2(-(static_cast<float>(i) + 0.5f) / kPerUnit));
  }
  float operator()(float d) const { return d < kUnits ? table_[static_cast<size_t>(d * kPerUnit)] : 0.0f; }

 private:
  static constexpr size_t kUnits = 24, kPerUnit = 64;
  std::array<float, kUnits * kPerUnit> table_;
};

class DecayPolicy : public EvictionPolicy {
 public:
  DecayPolicy(uint32_t num_bundles, float half_life_steps)
      : EvictionPolicy(num_bundles), half_lives_per_step_(1.0f / half_life_steps) {}
  void OnUses(uint32_t first_bundle, std::span<const uint32_t> positions, std::span<const uint32_t> counts, uint32_t time) override {
    float* const log_scores = priorities_.data() + first_bundle;
    const float one_use = static_cast<float>(time) * half_lives_per_step_;
    for (size_t i = 0; i < positions.size(); ++i) {
      if (i + kAskedAhead < positions.size()) __builtin_prefetch(log_scores + positions[i + kAskedAhead], 1);
      const float use = counts[i] == 1 ? one_use : one_use + std::log2(static_cast<float>(counts[i]));
      float& log_score = log_scores[positions[i]];
      // log2(2^a + 2^b) = max + log2(1 + 2^-|a - b|)
      const float high = std::max(log_score, use), low = std::min(log_score, use);
      log_score = high + log_of_sum_(high - low);
    }
  }
  bool Expired(uint32_t, uint32_t) const override { return false; }

 private:
  const float half_lives_per_step_;
  const LogOfSum log_of_sum_;
};

}  // namespace

EvictionPolicy::EvictionPolicy(uint32_t num_bundles) : priorities_(num_bundles, kNeverUsed) {}

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

uint64_t PolicyMemoryBytes(uint32_t num_bundles) { return uint64_t{num_bundles} * sizeof(float) + sizeof(DecayPolicy); }

}  // namespace frugal
