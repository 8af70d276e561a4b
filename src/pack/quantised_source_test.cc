// GGUF files of quantised blocks as sources: what keeps its bytes, and what becomes of down.
#include <gtest/gtest.h>

#include <cmath>

#include "src/pack/check.h"
#include "src/pack/inspect.h"
#include "src/pack/pack_for_test.h"
#include "src/pack/packed_model_for_test.h"

namespace frugal {
namespace {

std::string BytesOf(const GgufForTest& gguf, const std::string& name) {
  const TensorInfo* info = gguf.reader().FindTensor(name);
  EXPECT_NE(info, nullptr) << name;
  return info == nullptr ? "" : gguf.file().substr(info->extent.offset_bytes, info->extent.size_bytes);
}

class QuantisedSourceTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    path_ = std::string(FRUGAL_SOURCE_DIR) + "/../shared/models/quantised/dense-" + GetParam() + ".gguf";
    if (!std::filesystem::exists(path_)) GTEST_SKIP() << path_ << " is not there";
  }
  PackOptions Relu() const {
    PackOptions options = MakePackOptions(path_, output_);
    options.activation = Activation{ActivationKind::kRelu, 0.0f};
    options.overwrite = Overwrite::kYes;
    return options;
  }

  std::string path_;
  const TempDir temp_;
  const std::string output_ = temp_.File("packed.gguf");
};

TEST_P(QuantisedSourceTest, KeepsEveryByteWhereThereAreNoBundles) {
  const auto report = PackQuietly(MakePackOptions(path_, output_));
  ASSERT_TRUE(report.has_value()) << report.error().message;
  const GgufForTest source(path_), packed(output_);
  EXPECT_EQ(packed.config().ffn_layout, FfnLayout::kMatrices);
  ASSERT_EQ(packed.tensors().size(), source.tensors().size());
  for (const TensorInfo& info : source.reader().tensors()) EXPECT_EQ(BytesOf(packed, info.name), BytesOf(source, info.name)) << info.name;
  EXPECT_EQ(CheckModel(output_, [](double, std::string_view) {})->num_problems, 0u);
}

// A down projection that stays a matrix becomes what is asked for too.
TEST_P(QuantisedSourceTest, ConvertsDownAloneWhereThereAreNoBundles) {
  const GgufForTest source(path_);
  for (const DType down_type : {DType::kF32, DType::kF16, DType::kQ8_0}) {
    SCOPED_TRACE(DTypeName(down_type));
    PackOptions options = MakePackOptions(path_, output_);
    options.overwrite = Overwrite::kYes;
    options.down_type = down_type;
    const auto report = PackQuietly(options);
    ASSERT_TRUE(report.has_value()) << report.error().message;
    EXPECT_EQ(report->layout, FfnLayout::kMatrices);
    const GgufForTest packed(output_);
    float largest_difference = 0;
    for (const TensorInfo& info : source.reader().tensors()) {
      if (!info.name.ends_with("ffn_down.weight")) {
        EXPECT_EQ(BytesOf(packed, info.name), BytesOf(source, info.name)) << info.name;
        continue;
      }
      EXPECT_EQ(packed.reader().FindTensor(info.name)->dtype, down_type);
      const std::vector<float> expected = source[info.name], written = packed[info.name];
      ASSERT_EQ(written.size(), expected.size());
      for (size_t i = 0; i < written.size(); ++i) largest_difference = std::max(largest_difference, std::fabs(written[i] - expected[i]));
    }
    EXPECT_EQ(report->largest_difference, largest_difference);
    if (down_type == DType::kF32) {
      EXPECT_EQ(largest_difference, 0.0f);
    }
    EXPECT_EQ(CheckModel(output_, [](double, std::string_view) {})->num_problems, 0u);
  }
}

TEST_P(QuantisedSourceTest, AsksWhatDownShallBecome) {
  const auto refused = PackQuietly(Relu());
  ExpectError(refused, ErrorCode::kUsage, "blk.0.ffn_down.weight");
  ExpectError(refused, ErrorCode::kUsage, "choose --down-type");
  EXPECT_FALSE(std::filesystem::exists(output_));
}

TEST_P(QuantisedSourceTest, KeepsGateAndUpAndConvertsDown) {
  const GgufForTest source(path_);
  const uint64_t hidden_size = source.config().hidden_size, ffn_size = source.config().ffn_size;
  for (const FfnLayout layout : {FfnLayout::kGateAndBundle2, FfnLayout::kBundle3}) {
    for (const DType down_type : {DType::kF32, DType::kF16, DType::kQ8_0, DType::kQ4_0}) {
      SCOPED_TRACE(fmt::format("{}, down {}", FfnLayoutName(layout), DTypeName(down_type)));
      PackOptions options = Relu();
      options.layout = layout;
      options.down_type = down_type;
      options.ram_bytes = 14 * kMiB;
      const auto report = PackQuietly(options);
      ASSERT_TRUE(report.has_value()) << report.error().message;
      const GgufForTest packed(output_);
      EXPECT_EQ(ActivationName(packed.config().activation), "relu");
      float largest_difference = 0;
      for (const auto& [name, expected] : source.tensors()) {
        if (!name.ends_with("ffn_down.weight")) {
          EXPECT_EQ(packed[name], expected) << name;
          continue;
        }
        // Column by column, as the source's numbers give it.
        const std::vector<float>& down = packed[name];
        for (uint64_t i = 0; i < ffn_size; ++i) {
          std::vector<float> column(hidden_size), written(hidden_size);
          for (uint64_t k = 0; k < hidden_size; ++k) column[k] = expected[k * ffn_size + i];
          std::vector<std::byte> bytes(*RowBytes(down_type, hidden_size));
          ConvertFromFloat(down_type, column.data(), hidden_size, bytes.data());
          ConvertToFloat(down_type, bytes.data(), hidden_size, written.data());
          for (uint64_t k = 0; k < hidden_size; ++k) {
            ASSERT_EQ(down[k * ffn_size + i], written[k]) << name << " " << k << ", " << i;
            largest_difference = std::max(largest_difference, std::fabs(written[k] - column[k]));
          }
        }
      }
      EXPECT_EQ(report->largest_difference, largest_difference);
      EXPECT_EQ(largest_difference == 0.0f, down_type == DType::kF32);
      // What GetParam() names is the type of gate and up too.
      EXPECT_EQ(report->up_type, source.reader().FindTensor("blk.0.ffn_up.weight")->dtype);
      const auto inspection = Inspect(output_);
      ASSERT_TRUE(inspection.has_value()) << inspection.error().message;
      EXPECT_EQ(inspection->packed->largest_difference, largest_difference);
      EXPECT_EQ(inspection->packed->parts.size(), layout == FfnLayout::kBundle3 ? 3u : 2u);
      EXPECT_EQ(inspection->packed->parts.back().dtype, down_type);
      EXPECT_EQ(CheckModel(output_, [](double, std::string_view) {})->num_problems, 0u);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, QuantisedSourceTest,
                         testing::Values("q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k",
                                         "q4_k", "q4_k_m", "q5_k", "q6_k", "iq4_nl"),
                         [](const auto& instance) { return std::string(instance.param); });

}  // namespace
}  // namespace frugal
