#include "src/cli/prefill.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace frugal {
namespace {

TEST(PrefillTest, CountsWhatAPromptNeeds) {
  ModelConfig config;
  config.num_layers = 2;
  config.hidden_size = config.embedding_size = 10;
  config.vocab_size = 100;
  config.ffn_size = 40;
  config.num_heads = config.num_kv_heads = 2;
  config.head_dim = 5;
  // Of 3 tokens in 2 layers: q, k, v, o; 7 up rows and 5 down rows; 1 + 2 + 3 positions attended, scores and values; logits of one.
  const double products = 3 * 2 * 4 * 100 + (7 + 5) * 10 + 2 * 2 * 10 * 6 + 10 * 100;
  EXPECT_EQ(PrefillFlops(config, 3, 7, 5), 2 * products);
  config.gated = true;
  config.ffn_layout = FfnLayout::kBundle3;
  EXPECT_EQ(PrefillFlops(config, 3, 7, 5), 2 * (products + 7 * 10));
  config.ffn_layout = FfnLayout::kGateAndBundle2;  // gates of all neurons
  EXPECT_EQ(PrefillFlops(config, 3, 7, 5), 2 * (products + 3 * 2 * 40 * 10));
  config.num_kv_heads = 1;
  EXPECT_EQ(PrefillFlops(config, 3, 7, 5), 2 * (products + 3 * 2 * 40 * 10 - 3 * 2 * 2 * 10 * 5));
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
  EXPECT_EQ(row.bound_ms(), 2000);
  row.reads_alone_ms = {3000};
  EXPECT_EQ(row.bound_ms(), 3000);
  row.name = "predictor";
  row.num_tokens = 512;
  row.prompt_ms = {6000};
  row.open_ms = {10};
  const std::string text = FormatPrefill(std::span(&row, 1));
  EXPECT_NE(text.find("| 0.50 | - |"), std::string::npos) << text;  // half of the bound; no shorter prompt
}

}  // namespace
}  // namespace frugal
