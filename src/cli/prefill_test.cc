#include "src/cli/prefill.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace frugal {
namespace {

ModelConfig TwoLayers() {
  ModelConfig config;
  config.num_layers = 2;
  config.hidden_size = config.embedding_size = 10;
  config.num_heads = config.num_kv_heads = 2;
  config.head_dim = 5;
  config.vocab_size = 100;
  config.ffn_size = 40;
  config.ffn_layout = FfnLayout::kUpDown;
  return config;
}

TEST(PrefillTest, CountsWhatAPromptNeeds) {
  // Of 3 tokens in 2 layers: q, k, v, o; 7 up rows and 5 down rows; 1 + 2 + 3 positions attended, scores and values; logits of one.
  const double products = 3 * 2 * 4 * 100 + (7 + 5) * 10 + 2 * 2 * 10 * 6 + 10 * 100;
  EXPECT_EQ(PrefillFlops(TwoLayers(), 3, {7, 5}, nullptr), 2 * products);
  PredictorInfo predictor;
  predictor.layers.resize(2);
  predictor.layers[0].rank = 4;
  predictor.layers[1].rank = 8;
  EXPECT_EQ(PrefillFlops(TwoLayers(), 3, {7, 5}, &predictor), 2 * (products + 3 * (4 + 8) * (10 + 40)));
}

TEST(PrefillTest, CountsGatesSharedHeadsAndWindows) {
  ModelConfig config = TwoLayers();
  config.gated = true;
  config.ffn_layout = FfnLayout::kGateAndBundle2;
  config.num_kv_heads = 1;
  config.layer_windows = {2, 0};
  const double products = 3 * 2 * 2 * 10 * (10 + 5) + 3 * 2 * 10 * 40 + (7 + 5) * 10 + 2 * 10 * ((1 + 2 + 2) + (1 + 2 + 3)) + 10 * 100;
  EXPECT_EQ(PrefillFlops(config, 3, {7, 5}, nullptr), 2 * products);
  config.ffn_layout = FfnLayout::kMatrices;
  EXPECT_EQ(PrefillFlops(config, 3, {7, 5}, nullptr), 2 * (products - 3 * 2 * 10 * 40 - (7 + 5) * 10 + 3 * 2 * 3 * 10 * 40));
}

TEST(PrefillTest, RowsAreWhatSelects) {
  const auto names = [](SelectorKind selector) {
    std::vector<std::string> found;
    for (const PrefillRow& row : PrefillRows(EngineOptions(), selector, 8)) found.push_back(row.name);
    return found;
  };
  EXPECT_EQ(names(SelectorKind::kAll), (std::vector<std::string>{"all neurons"}));
  EXPECT_EQ(names(SelectorKind::kPredictor), (std::vector<std::string>{"all neurons", "predictor"}));
  EXPECT_EQ(names(SelectorKind::kSketch), (std::vector<std::string>{"all neurons", "gate sketch"}));
  EXPECT_EQ(names(SelectorKind::kGate), (std::vector<std::string>{"gate"}));
}

TEST(PrefillTest, TheBoundIsTheLargerOfArithmeticAndReads) {
  PrefillMeasurement row;
  row.needed_flops = 4e9;
  row.peak_flops_per_second = 2e9;
  row.reads_alone_ms = {500};
  EXPECT_EQ(row.bound_ms(2e9), 2000);
  row.reads_alone_ms = {3000};
  EXPECT_EQ(row.bound_ms(2e9), 3000);
  row.name = "predictor";
  row.num_tokens = 512;
  row.prompt_ms = {6000};
  row.open_ms = {10};
  const std::string text = FormatPrefill(std::span(&row, 1));
  EXPECT_NE(text.find("| 0.50 | - |"), std::string::npos) << text;  // half of the bound; no shorter prompt
}

}  // namespace
}  // namespace frugal
