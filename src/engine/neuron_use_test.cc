#include "src/engine/neuron_use.h"

#include <gtest/gtest.h>

#include <numeric>

namespace frugal {
namespace {

ModelConfig Gated(Activation activation) {
  ModelConfig config;
  config.num_layers = 2;
  config.ffn_size = 100;
  config.gated = true;
  config.activation = activation;
  config.ffn_layout = FfnLayout::kBundle3;
  return config;
}

std::optional<KnownActivity> Known(std::vector<float> shares, bool of_gates, std::vector<WindowMisses> misses = {}) {
  return KnownActivity{{std::move(shares), std::move(misses)}, of_gates};
}

EnginePlan PlanOf(SelectorKind selector, bool early = false) {
  EnginePlan plan;
  plan.selector = selector;
  plan.exact = selector != SelectorKind::kSketch;
  plan.use_early = early;
  return plan;
}
const EnginePlan kGatePlan = PlanOf(SelectorKind::kGate);
const EnginePlan kSketchPlan = PlanOf(SelectorKind::kSketch);

double Used(const NeuronUse& use) { return std::accumulate(use.shares.begin(), use.shares.end(), 0.0); }

TEST(NeuronUseTest, ASketchMarksSomewhatMoreThanIsActive) {
  // What models/tale was measured to have: 1,020 of 16,384 active, 1,240 marked.
  EXPECT_NEAR(SketchedShare(1020.0 / 16384), 1240.0 / 16384, 0.002);
  EXPECT_EQ(SketchedShare(0), 0);
  EXPECT_EQ(SketchedShare(1), 1);
  for (const double active : {0.001, 0.05, 0.3, 0.9}) {
    EXPECT_GT(SketchedShare(active), active);
    EXPECT_LT(SketchedShare(active), 1);
  }
}

TEST(NeuronUseTest, WithoutMeasurementItIsAnAssumptionAndSaysSo) {
  const NeuronUse use = ExpectGateUse(Gated({ActivationKind::kFatRelu, 0.1f}), std::nullopt, kGatePlan);
  EXPECT_TRUE(use.assumed);
  EXPECT_NE(use.basis.find("assumed, not measured: 10%"), std::string::npos) << use.basis;
  EXPECT_NEAR(Used(use), 20, 1e-4);
  EXPECT_NEAR(use.active, 20, 1e-4);
  ASSERT_EQ(use.window_misses.size(), kNumWindows);
  for (size_t i = 0; i < kNumWindows; ++i) EXPECT_LT(use.window_misses[i], i == 0 ? Used(use) : use.window_misses[i - 1]);
  // A gated ReLU spares fewer.
  EXPECT_GT(Used(ExpectGateUse(Gated({}), std::nullopt, kGatePlan)), 2 * Used(use));
}

TEST(NeuronUseTest, WhatWasMeasuredCounts) {
  const WindowMisses misses = {0.1f, 0.05f, 0.04f, 0.03f, 0.02f, 0.01f, 0.0f};
  const NeuronUse use = ExpectGateUse(Gated({}), Known({0.2f, 0.4f}, false, {misses, misses}), kGatePlan);
  EXPECT_FALSE(use.assumed);
  EXPECT_NEAR(Used(use), 60, 1e-4);
  EXPECT_NEAR(use.active, 60, 1e-4);
  EXPECT_NEAR(use.window_misses[0], 20, 1e-4);
  EXPECT_NEAR(use.window_misses[2], 8, 1e-4);
  EXPECT_NE(use.basis.find("calibrated"), std::string::npos) << use.basis;
  // A sketch marks more, and as much of it is new; what is active stays.
  const NeuronUse sketched = ExpectGateUse(Gated({}), Known({0.2f, 0.4f}, false, {misses, misses}), kSketchPlan);
  EXPECT_NEAR(Used(sketched), 100 * (SketchedShare(0.2) + SketchedShare(0.4)), 1e-3);
  EXPECT_GT(sketched.window_misses[0], use.window_misses[0]);
  EXPECT_EQ(sketched.active, use.active);
  EXPECT_EQ(sketched.early_wrong, 0);
  const NeuronUse early = ExpectGateUse(Gated({}), Known({0.2f, 0.4f}, false), PlanOf(SelectorKind::kSketch, true));
  EXPECT_GT(early.early_wrong, 0);
  EXPECT_LT(early.early_wrong, Used(early));
}

TEST(NeuronUseTest, ADReluChoosesMoreThanIsActive) {
  const ModelConfig config = Gated({ActivationKind::kDRelu});
  // Counted where the gate is a matrix: what the gates let through.
  const NeuronUse gates = ExpectGateUse(config, Known({0.4f, 0.4f}, true), kGatePlan);
  EXPECT_NEAR(Used(gates), 80, 1e-4);
  EXPECT_NEAR(gates.active, 40, 1e-4);
  // Counted in bundles: what is active.
  const NeuronUse active = ExpectGateUse(config, Known({0.2f, 0.2f}, false), kGatePlan);
  EXPECT_NEAR(Used(active), 80, 1e-4);
  EXPECT_NEAR(active.active, 40, 1e-4);
}

}  // namespace
}  // namespace frugal
