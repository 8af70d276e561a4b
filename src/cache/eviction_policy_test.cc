#include "src/cache/eviction_policy.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "src/base/random.h"

namespace frugal {
namespace {

// The logarithm of the sum over all uses, added up in another way.
TEST(EvictionPolicyTest, DecayRanksByTheLogarithmOfTheHalvingCount) {
  constexpr uint32_t kBundles = 40, kSteps = 400, kFirst = 8;
  PolicyOptions options;
  options.half_life_steps = 16;
  const std::unique_ptr<EvictionPolicy> policy = MakeEvictionPolicy(options, kBundles);
  std::vector<double> sums(kBundles, 0.0);
  Random random(11);
  for (uint32_t step = 0; step < kSteps; ++step) {
    std::vector<uint32_t> positions, counts;
    for (uint32_t position = 0; position + kFirst + 1 < kBundles; ++position) {
      if (random.Below(kBundles) > position) continue;  // the later, the more often
      positions.push_back(position);
      counts.push_back(1 + static_cast<uint32_t>(random.Below(4)) / 3 * 6);
      sums[kFirst + position] += counts.back() * std::exp2(step / 16.0);
    }
    policy->OnUses(kFirst, positions, counts, step);
  }
  for (uint32_t bundle = 0; bundle < kBundles; ++bundle) {
    if (sums[bundle] == 0) {
      EXPECT_EQ(policy->priorities()[bundle], -std::numeric_limits<float>::infinity()) << bundle;
    } else {
      EXPECT_NEAR(policy->priorities()[bundle], std::log2(sums[bundle]), 0.05) << bundle;
    }
  }
  EXPECT_EQ(sums[kBundles - 1], 0);
  EXPECT_GT(sums[kFirst], 0);
}

TEST(EvictionPolicyTest, LruRanksByTheLastUse) {
  PolicyOptions options;
  options.kind = PolicyKind::kLru;
  const std::unique_ptr<EvictionPolicy> policy = MakeEvictionPolicy(options, 4);
  policy->OnUse(2, 5);
  policy->OnUse(1, 6);
  policy->OnUse(2, 7);
  EXPECT_GT(policy->priorities()[2], policy->priorities()[1]);
  EXPECT_GT(policy->priorities()[1], policy->priorities()[0]);
}

}  // namespace
}  // namespace frugal
