#include "src/train/calibration.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "src/base/random.h"
#include "src/base/temp_dir_for_test.h"
#include "src/train/tiny_model_for_test.h"
#include "src/train/train.h"

namespace frugal {
namespace {

class CalibrationTest : public testing::Test {
 protected:
  CalibrationTest() { WriteTinyModel(model_, path_); }

  CalibrationOptions Options() const {
    CalibrationOptions options;
    options.model_path = path_;
    options.spill_near_path = path_;
    Random random(5);
    for (int i = 0; i < 8; ++i) {
      std::vector<int32_t>& sequence = options.sequences.emplace_back(40);
      for (int32_t& id : sequence) id = static_cast<int32_t>(random.Below(model_.vocab_size));
    }
    return options;
  }
  static CalibrationReport RunOrFail(const CalibrationOptions& options) {
    auto report = Calibrate(options, [](double share, std::string_view) { EXPECT_LE(share, 1.0); });
    if (report) return *std::move(report);
    ADD_FAILURE() << report.error().message;
    return {};
  }
  static void ExpectError(const CalibrationOptions& options, ErrorCode code, const std::string& part) {
    const auto report = Calibrate(options, [](double, std::string_view) {});
    ASSERT_FALSE(report) << part;
    EXPECT_EQ(report.error().code, code) << report.error().message;
    EXPECT_NE(report.error().message.find(part), std::string::npos) << report.error().message;
  }

  const TempDir directory_;
  const TinyModel model_;
  const std::string path_ = directory_.File("tiny.gguf");
};

TEST_F(CalibrationTest, EveryNeuronHasOnePlaceAndLaterTextTakesFewerReads) {
  const CalibrationReport report = RunOrFail(Options());
  ASSERT_EQ(report.orders.size(), model_.num_layers);
  for (const std::vector<uint32_t>& order : report.orders) {
    ASSERT_EQ(order.size(), model_.ffn_size);
    EXPECT_EQ(WhyNoPermutation(order), "");
  }
  EXPECT_EQ(report.num_tokens, 320u);
  EXPECT_GT(report.misses_per_token, report.source_reads_per_token);
  EXPECT_LT(report.reads_per_token, report.source_reads_per_token);
}

TEST_F(CalibrationTest, ThreadsAndBudgetDoNotChangeTheOrder) {
  const CalibrationReport report = RunOrFail(Options());
  EXPECT_FALSE(report.spilled);
  CalibrationOptions options = Options();
  options.num_threads = 1;
  EXPECT_EQ(RunOrFail(options).orders, report.orders);
  options.num_threads = 2;
  options.ram_bytes = report.memory.total_bytes() - 1;
  const CalibrationReport spilled = RunOrFail(options);
  EXPECT_TRUE(spilled.spilled);
  EXPECT_EQ(spilled.orders, report.orders);
}

TEST_F(CalibrationTest, ActivityIsOfEveryLayerAndOfNoOrder) {
  const NeuronActivity activity = RunOrFail(Options()).activity;
  ASSERT_EQ(activity.active_shares.size(), model_.num_layers);
  ASSERT_EQ(activity.window_misses.size(), model_.num_layers);
  for (uint32_t layer = 0; layer < model_.num_layers; ++layer) {
    const WindowMisses& misses = activity.window_misses[layer];
    EXPECT_GT(misses[0], 0.0f);
    EXPECT_LT(misses[0], activity.active_shares[layer]);
    EXPECT_TRUE(std::is_sorted(misses.rbegin(), misses.rend()));
  }
  TinyModel other = model_;
  other.reversed = true;
  CalibrationOptions options = Options();
  options.model_path = directory_.File("other.gguf");
  WriteTinyModel(other, options.model_path);
  EXPECT_EQ(RunOrFail(options).activity.active_shares, activity.active_shares);
  // A lower bias lets fewer neurons fire.
  other.up_bias -= 0.4f;
  WriteTinyModel(other, options.model_path);
  const NeuronActivity less = RunOrFail(options).activity;
  for (uint32_t layer = 0; layer < model_.num_layers; ++layer) EXPECT_LT(less.active_shares[layer], activity.active_shares[layer]);
}

TEST_F(CalibrationTest, OrdersNameTheCheckpointsNeurons) {
  const CalibrationReport report = RunOrFail(Options());
  TinyModel reversed = model_;
  reversed.reversed = true;
  CalibrationOptions options = Options();
  options.model_path = directory_.File("reversed.gguf");
  WriteTinyModel(reversed, options.model_path);
  NeuronOrders orders = RunOrFail(options).orders;
  for (std::vector<uint32_t>& order : orders) {
    for (uint32_t& neuron : order) neuron = model_.ffn_size - 1 - neuron;
  }
  EXPECT_EQ(orders, report.orders);
}

TEST_F(CalibrationTest, WithPredictorsWhatTheyChooseCounts) {
  TrainOptions train;
  train.model_path = path_;
  train.num_tokens = 1500;
  train.sequence_tokens = 40;
  train.ranks = {32};
  ASSERT_TRUE(Train(train, [](double, std::string_view) {}));
  CalibrationOptions options = Options();
  options.predictor_path = directory_.File("tiny.predict.gguf");
  const CalibrationReport report = RunOrFail(options);
  EXPECT_NE(report.orders, RunOrFail(Options()).orders);
  // Those of another model are refused.
  TinyModel other = model_;
  other.seed = 99;
  WriteTinyModel(other, path_);
  ExpectError(options, ErrorCode::kBadModel, "belong to another model");
}

TEST_F(CalibrationTest, RefusesWhatCannotBeMeant) {
  CalibrationOptions options = Options();
  options.cached_share = 1;
  ExpectError(options, ErrorCode::kUsage, "cached share");
  options = Options();
  options.sequences[3][7] = static_cast<int32_t>(model_.vocab_size);
  ExpectError(options, ErrorCode::kUsage, "the text holds token 61");
  options.sequences = {std::vector<int32_t>(model_.max_context + 1, 1)};
  ExpectError(options, ErrorCode::kUsage, "the model's context has 48");
  options.sequences.clear();
  ExpectError(options, ErrorCode::kUsage, "the text has 0 tokens");
  options = Options();
  options.ram_bytes = kMiB;
  ExpectError(options, ErrorCode::kDoesNotFit, "the smallest budget that works");
}

TEST_F(CalibrationTest, AnInterruptEndsIt) {
  std::atomic<bool> cancel = true;
  CalibrationOptions options = Options();
  options.cancel = &cancel;
  ExpectError(options, ErrorCode::kFailed, "interrupted");
}

}  // namespace
}  // namespace frugal
