#include "src/cli/evaluation.h"

#include <gtest/gtest.h>

#include <cmath>

#include "src/cli/eval_report.h"
#include "src/cli/recall_comparison.h"

namespace frugal {
namespace {

TEST(EvaluationTest, NegativeLogLikelihoodIsThatOfSoftmax) {
  const std::vector<float> logits = {0.0f, std::log(2.0f), std::log(5.0f)};
  EXPECT_NEAR(NegativeLogLikelihood(logits, 0), -std::log(1.0 / 8), 1e-6);
  EXPECT_NEAR(NegativeLogLikelihood(logits, 2), -std::log(5.0 / 8), 1e-6);
  // Large logits do not overflow.
  EXPECT_NEAR(NegativeLogLikelihood(std::vector<float>{1e30f, 0.0f}, 0), 0.0, 1e-9);
}

TEST(EvaluationTest, PerplexityIsTheExponentOfTheMeanWithItsStandardError) {
  Perplexity perplexity;
  EXPECT_EQ(perplexity.value(), 0.0);
  perplexity.Add(std::log(2.0));
  perplexity.Add(std::log(8.0));
  EXPECT_NEAR(perplexity.value(), 4.0, 1e-12);
  // The mean is log 4, both are log 2 from it: variance (log 2)^2, error sqrt(variance / (2 - 1)) * 4.
  EXPECT_NEAR(perplexity.error(), std::log(2.0) * 4, 1e-9);
  EXPECT_EQ(FormatPerplexity(perplexity), "Final estimate: PPL = 4.0000 +/- 2.77259\n");
}

// Two rows of a layer with 70 neurons; the positions are those that a selector chose for any row.
struct Observed {
  std::vector<uint32_t> positions = {3, 64, 69};
  std::vector<float> activations = {1.0f, 0.0f, 2.0f, 0.5f, -0.0f, 0.0f};  // [2, 3]
  std::vector<uint64_t> active = {uint64_t{1} << 3, 1, 0, 0};              // [2, 2]
  LayerObservation observation;
  Observed() {
    observation.layer = 1;
    observation.num_rows = 2;
    observation.positions = positions;
    observation.activations = activations.data();
    observation.activation_stride = 3;
    observation.active = active;
  }
};

TEST(RecallComparisonTest, CountsTrulyActiveNeuronsThatWereChosen) {
  Result<ActiveSetFile> file = ActiveSetFile::Create("/tmp", 2, 70);
  ASSERT_TRUE(file) << file.error().message;
  const Observed observed;
  ActiveSetRecorder recorder(*file);
  ASSERT_TRUE(recorder.Observe({10, 4}, observed.observation));  // row 0: 3 and 69 active; row 1: 3

  RecallComparison comparison(*file, 0);
  ASSERT_TRUE(comparison.Observe({10, 4}, observed.observation));  // row 0 chose 3 and 64; row 1 nothing
  const LayerRecall& layer = comparison.layers()[1];
  EXPECT_EQ(layer.num_tokens, 2u);
  EXPECT_EQ(layer.active, 3u);
  EXPECT_EQ(layer.chosen, 2u);
  EXPECT_EQ(layer.found, 1u);
  EXPECT_EQ(comparison.layers()[0].num_tokens, 0u);
}

TEST(RecallComparisonTest, TokensBeforeTheSkipAreLeftOut) {
  Result<ActiveSetFile> file = ActiveSetFile::Create("/tmp", 2, 70);
  ASSERT_TRUE(file);
  const Observed observed;
  ActiveSetRecorder recorder(*file);
  ASSERT_TRUE(recorder.Observe({0, 0}, observed.observation));
  RecallComparison comparison(*file, 1);
  ASSERT_TRUE(comparison.Observe({0, 0}, observed.observation));
  EXPECT_EQ(comparison.layers()[1].num_tokens, 1u);
  EXPECT_EQ(comparison.layers()[1].active, 1u);
}

TEST(RecallComparisonTest, ATokenThatTheExactRunDidNotHaveIsAnError) {
  Result<ActiveSetFile> file = ActiveSetFile::Create("/tmp", 2, 70);
  ASSERT_TRUE(file);
  const Observed observed;
  RecallComparison comparison(*file, 0);
  const Status status = comparison.Observe({0, 0}, observed.observation);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kFailed);
}

TEST(RecallComparisonTest, ALayerThatIsNeverActiveCountsAsMet) {
  const std::vector<LayerRecall> layers = {{10, 100, 90, 300}, {10, 0, 0, 0}, {10, 100, 98, 100}};
  const RecallSummary summary = Summarize(layers, 50);
  EXPECT_NEAR(summary.pooled, 188.0 / 200, 1e-12);
  EXPECT_NEAR(summary.mean, (0.9 + 1 + 0.98) / 3, 1e-12);
  EXPECT_NEAR(summary.worst, 0.9, 1e-12);
  EXPECT_EQ(summary.worst_layer, 0u);
  EXPECT_NEAR(summary.chosen_share, 400.0 / 1500, 1e-12);
  EXPECT_NEAR(summary.active_share, 200.0 / 1500, 1e-12);
}

TEST(EvalReportTest, ThePointsOfTheCurveThatDoNotFitSaySo) {
  PhaseReport traffic;
  traffic.num_tokens = 10;
  traffic.ffn_bytes_read = 10 * 1024;
  traffic.num_hits = 3;
  traffic.num_misses = 1;
  const std::string text = FormatCurve({{0.25, "decay", traffic}, {0.8, "lru", std::nullopt}}, 102400);
  EXPECT_NE(text.find("| 25% | decay | 1.0 KiB | 1.00% | 75.00% |"), std::string::npos) << text;
  EXPECT_NE(text.find("| 80% | lru | does not fit the budget |"), std::string::npos) << text;
}

}  // namespace
}  // namespace frugal
