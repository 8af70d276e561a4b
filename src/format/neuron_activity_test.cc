#include "src/format/neuron_activity.h"

#include <gtest/gtest.h>

#include <array>

#include "src/base/temp_dir_for_test.h"

namespace frugal {
namespace {

class NeuronActivityTest : public testing::Test {
 protected:
  // A file with these keys and one small tensor.
  GgufReader Write(FunctionRef<void(GgufWriter&)> add_keys) const {
    const std::string path = directory_.File("keys.gguf");
    auto writer = GgufWriter::Open(path, Overwrite::kYes);
    EXPECT_TRUE(writer.has_value());
    add_keys(**writer);
    (*writer)->AddTensor("t", DType::kI8, std::array<uint64_t, 1>{8});
    EXPECT_TRUE((*writer)->BeginData());
    EXPECT_TRUE((*writer)->WriteTensorPart(0, 0, std::vector<std::byte>(8)));
    EXPECT_TRUE((*writer)->Finish());
    auto reader = GgufReader::Open(*OpenFileSource(path));
    EXPECT_TRUE(reader.has_value());
    return *std::move(reader);
  }

  static void ExpectRefused(const GgufReader& gguf, uint32_t num_layers, const std::string& part) {
    const auto activity = ReadActivityKeys(gguf, num_layers);
    ASSERT_FALSE(activity.has_value());
    EXPECT_EQ(activity.error().code, ErrorCode::kBadModel);
    EXPECT_NE(activity.error().message.find(part), std::string::npos) << activity.error().message;
  }

  TempDir directory_;
};

TEST_F(NeuronActivityTest, WhatIsWrittenIsRead) {
  NeuronActivity activity;
  activity.active_shares = {0.0f, 0.25f, 1.0f};
  activity.window_misses.resize(3);
  activity.window_misses[1] = {0.2f, 0.1f, 0.05f, 0.04f, 0.03f, 0.02f, 0.01f};
  const GgufReader gguf = Write([&](GgufWriter& keys) { AddActivityKeys(activity, keys); });
  const auto read = ReadActivityKeys(gguf, 3);
  ASSERT_TRUE(read.has_value() && read->has_value());
  EXPECT_EQ((*read)->active_shares, activity.active_shares);
  EXPECT_EQ((*read)->window_misses, activity.window_misses);
  size_t num_keys = 0;
  for (const GgufKeyValue& entry : gguf.key_values()) num_keys += IsActivityKey(entry.key) ? 1 : 0;
  EXPECT_EQ(num_keys, 2u);
}

TEST_F(NeuronActivityTest, AFileMayNotKnowItOrNotTheWindows) {
  const auto none = ReadActivityKeys(Write([](GgufWriter&) {}), 3);
  ASSERT_TRUE(none.has_value());
  EXPECT_FALSE(none->has_value());
  const auto shares = ReadActivityKeys(Write([](GgufWriter& keys) { AddActivityKeys({{0.5f}, {}}, keys); }), 1);
  ASSERT_TRUE(shares.has_value() && shares->has_value());
  EXPECT_TRUE((*shares)->window_misses.empty());
}

TEST_F(NeuronActivityTest, RefusesNumbersThatAreNoShares) {
  const auto with = [this](const char* key, std::vector<float> values) {
    return Write([&](GgufWriter& keys) {
      if (std::string_view(key) != kActiveSharesKey) keys.AddFloat32Array(kActiveSharesKey, std::array{0.5f});
      keys.AddFloat32Array(key, values);
    });
  };
  ExpectRefused(with(kActiveSharesKey, {0.5f, 0.5f}), 1, "frugal.activity.active_share has 2 entries, expected 1");
  ExpectRefused(with(kActiveSharesKey, {1.5f}), 1, "frugal.activity.active_share[0] is 1.5, expected 0 to 1");
  ExpectRefused(with(kActiveSharesKey, {std::numeric_limits<float>::quiet_NaN()}), 1, "expected 0 to 1");
  ExpectRefused(with(kWindowMissesKey, {0.1f}), 1, "frugal.activity.window_misses has 1 entries, expected 7");
  ExpectRefused(Write([](GgufWriter& keys) { keys.AddString(kActiveSharesKey, "much"); }), 1, kActiveSharesKey);
}

}  // namespace
}  // namespace frugal
