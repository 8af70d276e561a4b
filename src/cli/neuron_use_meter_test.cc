#include "src/cli/neuron_use_meter.h"

#include <gtest/gtest.h>

#include <vector>

namespace frugal {
namespace {

// Two layers of four neurons; the sets are bits of one word each.
class NeuronUseMeterTest : public ::testing::Test {
 protected:
  NeuronUseMeterTest() {
    config_.num_layers = 2;
    config_.ffn_size = 4;
  }

  // `sets`: of each row, what the layer's selector chose; all but neuron 0 of what is chosen are active.
  static void Observe(NeuronUseMeter& meter, uint32_t layer, const std::vector<uint64_t>& sets) {
    std::vector<uint32_t> positions = {0, 1, 2, 3};
    std::vector<float> activations;
    for (const uint64_t set : sets) {
      for (uint32_t i = 0; i < 4; ++i) activations.push_back(i > 0 && (set >> i & 1) ? 1.5f : 0.0f);
    }
    LayerObservation observation;
    observation.layer = layer;
    observation.num_rows = static_cast<uint32_t>(sets.size());
    observation.positions = positions;
    observation.active = sets;
    observation.activations = activations.data();
    observation.activation_stride = 4;
    meter.Observe(observation);
  }

  ModelConfig config_;
};

TEST_F(NeuronUseMeterTest, CountsWhatIsChosenActiveAndNewInBatchesAsInTokens) {
  const std::vector<uint64_t> first = {0b0011, 0b0110, 0b0011, 0b0110}, second = {0b1000, 0b1000, 0b1000, 0b1000};
  NeuronUseMeter batch(config_, nullptr), tokens(config_, nullptr);
  Observe(batch, 0, first);
  Observe(batch, 1, second);
  for (size_t i = 0; i < first.size(); ++i) {
    Observe(tokens, 0, {first[i]});
    Observe(tokens, 1, {second[i]});
  }
  for (const NeuronUseMeter* meter : {&batch, &tokens}) {
    const MeasuredUse use = meter->Measured();
    EXPECT_EQ(use.num_tokens, 4u);
    EXPECT_DOUBLE_EQ(use.chosen, 3.0);
    EXPECT_DOUBLE_EQ(use.active, 2.5);  // neuron 0 is chosen in vain in half of the tokens
    EXPECT_EQ(use.num_selectable, 8u);
    EXPECT_NEAR(use.new_neurons[0], 1.0, 1e-6);  // neuron 0 and neuron 2 in turn
    EXPECT_NEAR(use.new_neurons[1], 0.0, 1e-6);
    EXPECT_EQ(use.num_windows(), 1u);
    EXPECT_FALSE(use.expected.has_value());
  }
}

TEST_F(NeuronUseMeterTest, ALayerWithoutAPredictorHasNothingNew) {
  PredictorInfo predictor;
  predictor.layers.resize(2);
  predictor.layers[0].rank = 32;
  predictor.window_misses.resize(2);
  predictor.window_misses[0][0] = 0.5f;
  predictor.window_misses[1][0] = 1.0f;
  NeuronUseMeter meter(config_, &predictor);
  Observe(meter, 0, {0b0001, 0b0010});
  Observe(meter, 1, {0b1111, 0b1111});
  const MeasuredUse use = meter.Measured();
  EXPECT_EQ(use.num_selectable, 4u);
  EXPECT_DOUBLE_EQ(use.chosen, 5.0);
  EXPECT_NEAR(use.new_neurons[0], 1.0, 1e-6);
  ASSERT_TRUE(use.expected.has_value());
  EXPECT_DOUBLE_EQ((*use.expected)[0], 2.0);
}

TEST_F(NeuronUseMeterTest, NothingSeenIsNothingMeasured) {
  const MeasuredUse use = NeuronUseMeter(config_, nullptr).Measured();
  EXPECT_EQ(use.num_tokens, 0u);
  EXPECT_EQ(use.num_windows(), 0u);
}

}  // namespace
}  // namespace frugal
