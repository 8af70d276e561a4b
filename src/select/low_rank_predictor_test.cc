#include "src/select/low_rank_predictor.h"

#include <gtest/gtest.h>

#include <cmath>

#include "src/base/random.h"

namespace frugal {
namespace {

constexpr uint32_t kHidden = 64, kRank = 32, kFfn = 3000, kTokens = 3;
constexpr uint32_t kWords = (kFfn + 63) / 64;

// A layer of random float factors, and the score of a neuron as the formula has it.
struct Factors {
  Factors() {
    Random random(11);
    const auto fill = [&](std::vector<float>& values) {
      for (float& value : values) value = static_cast<float>(random.Uniform() - 0.5);
    };
    fill(down);
    fill(up);
    fill(bias);
    fill(x);
  }
  LowRankFactors Layer() const {
    const auto bytes = [](const std::vector<float>& values) { return reinterpret_cast<const std::byte*>(values.data()); };
    return {kRank, DType::kF32, bytes(down), bytes(up), bias.data()};
  }
  double Score(uint32_t token, uint32_t neuron) const {
    double score = static_cast<double>(bias[neuron]);
    for (uint32_t r = 0; r < kRank; ++r) {
      double projected = 0;
      for (uint32_t i = 0; i < kHidden; ++i) {
        projected += static_cast<double>(down[r * kHidden + i]) * static_cast<double>(x[token * kHidden + i]);
      }
      score += projected * static_cast<double>(up[neuron * kRank + r]);
    }
    return score;
  }

  std::vector<float> down = std::vector<float>(kRank * kHidden), up = std::vector<float>(kFfn * kRank), bias = std::vector<float>(kFfn),
                     x = std::vector<float>(kTokens * kHidden);
};

TEST(LowRankPredictorTest, ChoosesWhatTheFormulaSaysAndTellsWhatIsKnown) {
  const Factors factors;
  for (const int num_threads : {1, 2}) {
    const auto pool = ThreadPool::Create(num_threads).value();
    LowRankPredictor predictor(kHidden, kFfn, kTokens, num_threads, {factors.Layer()});
    std::vector<uint64_t> active(kTokens * kWords, ~uint64_t{0});
    // What was known at each call, and the bits of these words then.
    std::vector<std::pair<uint32_t, std::vector<uint64_t>>> told;
    predictor.Select(0, factors.x.data(), kTokens, active, *pool, [&](uint32_t num_known) {
      std::vector<uint64_t> bits;
      for (uint32_t t = 0; t < kTokens; ++t) {
        for (uint32_t word = 0; word < (num_known + 63) / 64; ++word) bits.push_back(active[t * kWords + word]);
      }
      told.emplace_back(num_known, std::move(bits));
    });
    for (uint32_t t = 0; t < kTokens; ++t) {
      for (uint32_t i = 0; i < kFfn; ++i) {
        const double score = factors.Score(t, i);
        if (std::abs(score) < 1e-5) continue;
        const bool is_chosen = ((active[t * kWords + i / 64] >> (i % 64)) & 1) != 0;
        ASSERT_EQ(is_chosen, score > 0) << num_threads << " threads, token " << t << ", neuron " << i;
      }
      ASSERT_EQ(active[(t + 1) * kWords - 1] >> (kFfn % 64), 0u) << "bits behind the last neuron";
    }
    uint32_t last = 0;
    bool some_known_before_the_end = false;
    for (const auto& [num_known, bits] : told) {
      ASSERT_GE(num_known, last);
      ASSERT_TRUE(num_known % 64 == 0 || num_known == kFfn) << num_known;
      some_known_before_the_end |= num_known > 0 && num_known < kFfn;
      const uint32_t words = (num_known + 63) / 64;
      for (size_t i = 0; i < bits.size(); ++i) ASSERT_EQ(bits[i], active[i / words * kWords + i % words]);
      last = num_known;
    }
    // With more threads it depends on who is faster.
    EXPECT_TRUE(some_known_before_the_end || num_threads > 1);
  }
}

}  // namespace
}  // namespace frugal
