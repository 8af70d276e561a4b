// What converting weights costs is measured on the packed file before it appears, and stored in it.
#include <gtest/gtest.h>

#include <string>

#include "src/format/hashed_gguf_reader.h"
#include "src/model/model_file.h"
#include "src/pack/inspect.h"
#include "src/pack/pack.h"
#include "src/pack/pack_for_test.h"
#include "src/pack/reorder.h"

namespace frugal {
namespace {

class PackEffectTest : public ::testing::Test {
 protected:
  PackOptions Options(std::optional<PerplexityEffect> effect) {
    PackOptions options = MakePackOptions(DataDir() + "opt", output_);
    options.type = DType::kQ8_0;
    options.measured_text = "text:a.txt";
    options.measure = [this, effect](const std::string& path, const PackReport& so_far,
                                     uint64_t held_bytes) -> Result<std::optional<PerplexityEffect>> {
      ++num_measured_;
      EXPECT_NE(path, output_);
      EXPECT_FALSE(std::filesystem::exists(output_)) << "it has not its name yet";
      const auto reader = HashedGgufReader::Open(path);
      EXPECT_TRUE(reader) << reader.error().message;
      EXPECT_TRUE(ModelFile::Open(path));
      EXPECT_GT(so_far.largest_difference, 0.0f);
      EXPECT_GT(so_far.source_bytes_read, 0u);
      EXPECT_GT(held_bytes, 0u);
      EXPECT_LT(held_bytes, 4 * kMiB);
      return effect;
    };
    return options;
  }
  Inspection InspectOutput(const std::string& path) {
    auto inspection = Inspect(path);
    EXPECT_TRUE(inspection) << inspection.error().message;
    return inspection ? *std::move(inspection) : Inspection();
  }

  const TempDir directory_;
  const std::string output_ = directory_.File("model.gguf");
  int num_measured_ = 0;
};

TEST_F(PackEffectTest, WhatWasMeasuredIsInTheFile) {
  const PerplexityEffect effect = {12.0625, 12.3, 100};
  const auto report = PackQuietly(Options(effect));
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_EQ(num_measured_, 1);
  ASSERT_TRUE(report->effect.has_value());
  EXPECT_EQ(report->effect->after, 12.3);
  const auto reader = HashedGgufReader::Open(output_);
  ASSERT_TRUE(reader) << reader.error().message;
  EXPECT_EQ((*reader)->content_hash(), report->content_hash);
  const Inspection inspection = InspectOutput(output_);
  ASSERT_TRUE(inspection.packed && inspection.packed->effect);
  EXPECT_EQ(inspection.packed->effect->before, 12.0625);
  EXPECT_EQ(inspection.packed->effect->after, 12.3);
  EXPECT_EQ(inspection.packed->effect->num_tokens, 100u);
  EXPECT_EQ(inspection.packed->effect_text, "text:a.txt");
  EXPECT_EQ(inspection.packed->content_hash, report->content_hash);
  EXPECT_EQ(ToJson(inspection)["packed"]["perplexity"]["packed"], 12.3);
}

TEST_F(PackEffectTest, AnotherOrderOfTheNeuronsKeepsIt) {
  ASSERT_TRUE(PackQuietly(Options(PerplexityEffect{12.0625, 12.3, 100})));
  ReorderOptions options;
  options.source_path = output_;
  options.output_path = directory_.File("ordered.gguf");
  const auto report = Reorder(options, [](double, std::string_view) {});
  ASSERT_TRUE(report) << report.error().message;
  const Inspection inspection = InspectOutput(options.output_path);
  ASSERT_TRUE(inspection.packed && inspection.packed->effect);
  EXPECT_EQ(inspection.packed->effect->after, 12.3);
  EXPECT_EQ(inspection.packed->effect_text, "text:a.txt");
}

TEST_F(PackEffectTest, WhatWasNotMeasuredIsNotShown) {
  const auto report = PackQuietly(Options(std::nullopt));
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_EQ(num_measured_, 1);
  EXPECT_FALSE(report->effect.has_value());
  EXPECT_FALSE(InspectOutput(output_).packed->effect.has_value());
}

TEST_F(PackEffectTest, NothingIsMeasuredWhereNothingIsLost) {
  PackOptions options = Options(PerplexityEffect{1, 2, 3});
  options.type = DType::kF32;  // the source's halves are floats
  const auto report = PackQuietly(options);
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_EQ(report->largest_difference, 0.0f);
  EXPECT_EQ(num_measured_, 0);
  EXPECT_FALSE(InspectOutput(output_).packed->effect.has_value());
}

TEST_F(PackEffectTest, AFailureOfTheMeasurementLeavesNothing) {
  PackOptions options = Options(std::nullopt);
  options.measure = [](const std::string&, const PackReport&, uint64_t) -> Result<std::optional<PerplexityEffect>> {
    return Error{ErrorCode::kFailed, "interrupted"};
  };
  ExpectError(PackQuietly(options), ErrorCode::kFailed, "interrupted");
  EXPECT_TRUE(directory_.empty());
}

}  // namespace
}  // namespace frugal
