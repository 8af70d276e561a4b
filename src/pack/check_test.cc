#include "src/pack/check.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "src/base/random.h"
#include "src/format/hashed_gguf_writer.h"
#include "src/format/packed_format.h"
#include "src/model/model_file.h"
#include "src/pack/pack_for_test.h"

namespace frugal {
namespace {

CheckReport CheckQuietly(const std::string& path) {
  auto report = CheckModel(path, [](double, std::string_view) {});
  EXPECT_TRUE(report.has_value()) << report.error().message;
  return report.has_value() ? *std::move(report) : CheckReport();
}

class CheckTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const auto report = PackQuietly(MakePackOptions(DataDir() + GetParam(), path_));
    ASSERT_TRUE(report.has_value()) << report.error().message;
    content_hash_ = report->content_hash;
  }
  const TempDir directory_;
  const std::string path_ = directory_.File("model.gguf");
  uint64_t content_hash_ = 0;
};

TEST_P(CheckTest, FindsNothingInAWholeFile) {
  double last_share = 0;
  const auto report = CheckModel(path_, [&last_share](double share, std::string_view) {
    EXPECT_GE(share, last_share);
    last_share = share;
  });
  ASSERT_TRUE(report.has_value()) << report.error().message;
  EXPECT_EQ(last_share, 1.0);
  EXPECT_EQ(report->kind, CheckedKind::kPackedModel);
  EXPECT_EQ(report->content_hash, content_hash_);
  EXPECT_EQ(report->num_problems, 0u);
  const auto model = ModelFile::Open(path_);
  const uint64_t num_layers = model->config().num_layers;
  EXPECT_EQ(report->num_hashes, model->num_hashes() + num_layers * model->config().ffn_size + num_layers + 2);
}

// A14
TEST_P(CheckTest, FindsAFlippedByteInEveryTensor) {
  const uint64_t seed = 99;
  SCOPED_TRACE(seed);
  Random random(seed);
  const auto model = ModelFile::Open(path_);
  ASSERT_TRUE(model.has_value()) << model.error().message;
  for (const TensorInfo& tensor : model->gguf().tensors()) {
    const uint64_t at = random.Below(tensor.extent.size_bytes);
    FlipByte(path_, tensor.extent.offset_bytes + at);
    const CheckReport report = CheckQuietly(path_);
    ASSERT_GE(report.num_problems, 1u) << tensor.name;
    if (tensor.name == kHashOfHashesName) {
      EXPECT_NE(report.content_hash, content_hash_);
    } else {
      const CheckProblem& problem = report.problems[0];
      EXPECT_EQ(problem.tensor, tensor.name);
      EXPECT_NE(problem.message.find(path_ + ": " + tensor.name + ": row "), std::string::npos);
      EXPECT_LE(problem.offset_bytes, tensor.extent.offset_bytes + at);
      EXPECT_GT(problem.offset_bytes + std::max<uint64_t>(kHashChunkBytes, tensor.extent.size_bytes),
                tensor.extent.offset_bytes + at);
      if (tensor.name.ends_with(".ffn_bundle.weight")) {
        const uint64_t stride_bytes = tensor.columns();
        EXPECT_EQ(problem.row, at / stride_bytes);
        EXPECT_EQ(problem.offset_bytes, tensor.extent.offset_bytes + at / stride_bytes * stride_bytes);
      }
    }
    FlipByte(path_, tensor.extent.offset_bytes + at);
  }
  EXPECT_EQ(CheckQuietly(path_).num_problems, 0u);
}

// The name of the model is no weight, and changes nothing; still it is found.
TEST_P(CheckTest, FindsAFlippedByteInTheHeader) {
  const std::string name = GetParam();
  const uint64_t at = ReadAllForTest(path_).find(name, ReadAllForTest(path_).find("general.name"));
  ASSERT_NE(at, std::string::npos);
  FlipByte(path_, at);
  const CheckReport report = CheckQuietly(path_);
  ASSERT_EQ(report.num_problems, 1u);
  EXPECT_EQ(report.problems[0].tensor, "header");
}

TEST_P(CheckTest, FindsBytesBetweenTheTensors) {
  const auto model = ModelFile::Open(path_);
  FlipByte(path_, model->gguf().FindTensor("blk.0.attn_norm.weight")->extent.end_bytes() + 3);
  const CheckReport report = CheckQuietly(path_);
  ASSERT_EQ(report.num_problems, 1u);
  EXPECT_EQ(report.problems[0].tensor, "padding");
}

TEST_P(CheckTest, CountsMoreProblemsThanItLists) {
  const auto model = ModelFile::Open(path_);
  const BundleInfo& bundle = model->bundles()[1];
  for (uint64_t row = 0; row < 150; ++row) {
    FlipByte(path_, bundle.extent.offset_bytes + row * bundle.stride_bytes);
  }
  const CheckReport report = CheckQuietly(path_);
  EXPECT_GE(report.num_problems, 150u);
  EXPECT_EQ(report.problems.size(), kMaxCheckProblems);
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, CheckTest, testing::Values("opt", "opt-sharded", "opt-350m-style"),
                         [](const auto& instance) {
                           std::string name = instance.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// Rows of which some have a NaN, with right hashes: who wrote the file hashed what was there.
TEST(CheckNumbersTest, FindsWhatIsNotFiniteBehindRightHashes) {
  const TempDir directory;
  const std::string path = directory.File("p.gguf");
  auto writer = HashedGgufWriter::Open(path, Overwrite::kNo);
  ASSERT_TRUE(writer.has_value());
  (*writer)->keys().AddString("general.architecture", kPredictorArchitecture);
  const size_t floats = (*writer)->AddTensor("floats", DType::kF32, std::array<uint64_t, 2>{300, 7000});
  const size_t blocks = (*writer)->AddTensor("blocks", DType::kQ8_0, std::array<uint64_t, 2>{2, 64});
  const size_t minima = (*writer)->AddTensor("minima", DType::kQ4_K, std::array<uint64_t, 2>{2, 512});
  ASSERT_TRUE((*writer)->BeginData().has_value());
  std::vector<float> values(300 * 7000, 1.5f);
  values[0] = std::nanf("");
  values[5] = std::nanf("");  // the same row: one problem
  values[299 * 7000 + 6999] = -std::numeric_limits<float>::infinity();
  ASSERT_TRUE((*writer)->Append(floats, std::as_bytes(std::span(values))).has_value());
  std::vector<std::byte> quantised(4 * 34);
  quantised[3 * 34 + 1] = std::byte{0x7c};  // the scale of the last block: infinity
  ASSERT_TRUE((*writer)->Append(blocks, quantised).has_value());
  std::vector<std::byte> with_minima(4 * 144);
  with_minima[144 + 3] = std::byte{0xfc};  // the scale of the second block's minima: -infinity
  ASSERT_TRUE((*writer)->Append(minima, with_minima).has_value());
  ASSERT_TRUE((*writer)->Finish().has_value());

  const CheckReport report = CheckQuietly(path);
  EXPECT_EQ(report.kind, CheckedKind::kPredictor);
  EXPECT_EQ(report.content_hash, (*writer)->content_hash());
  ASSERT_EQ(report.num_problems, 4u);
  EXPECT_EQ(report.problems[0].row, 0u);
  EXPECT_NE(report.problems[0].message.find("column 0 is NaN"), std::string::npos);
  EXPECT_EQ(report.problems[1].row, 299u);
  EXPECT_NE(report.problems[1].message.find("column 6999 is -inf"), std::string::npos);
  EXPECT_EQ(report.problems[2].tensor, "blocks");
  EXPECT_EQ(report.problems[2].row, 1u);
  EXPECT_NE(report.problems[2].message.find("column 32 is inf"), std::string::npos);
  EXPECT_EQ(report.problems[3].tensor, "minima");
  EXPECT_EQ(report.problems[3].row, 0u);
  EXPECT_NE(report.problems[3].message.find("column 256 is -inf"), std::string::npos);
}

// A tensor that is read in several pieces, none of which cuts a block: 210 bytes divide no power of two.
TEST(CheckNumbersTest, FindsBadScalesOfEveryBlockSizeInEveryPiece) {
  const TempDir directory;
  for (const DType dtype : {DType::kQ8_0, DType::kQ4_1, DType::kQ2_K, DType::kQ3_K, DType::kQ5_K, DType::kQ6_K}) {
    const std::string path = directory.File(std::string(DTypeName(dtype)));
    const auto writer = HashedGgufWriter::Open(path, Overwrite::kNo);
    ASSERT_TRUE(writer.has_value());
    (*writer)->keys().AddString("general.architecture", kPredictorArchitecture);
    const DTypeTraits traits = TraitsOf(dtype);
    const uint64_t num_blocks = 9 * kMiB / traits.block_bytes;
    const size_t blocks = (*writer)->AddTensor("blocks", dtype, std::array<uint64_t, 2>{num_blocks, traits.block_elements});
    ASSERT_TRUE((*writer)->BeginData().has_value());
    std::vector<std::byte> bytes(num_blocks * traits.block_bytes);
    const uint64_t scale_at = ScaleOffsets(dtype)[0];
    for (const uint64_t block : {uint64_t{0}, num_blocks / 2, num_blocks - 1}) {
      bytes[block * traits.block_bytes + scale_at + 1] = std::byte{0x7c};
    }
    ASSERT_TRUE((*writer)->Append(blocks, bytes).has_value());
    ASSERT_TRUE((*writer)->Finish().has_value());
    const CheckReport report = CheckQuietly(path);
    ASSERT_EQ(report.num_problems, 3u) << DTypeName(dtype);
    EXPECT_EQ(report.problems[0].row, 0u);
    EXPECT_EQ(report.problems[1].row, num_blocks / 2);
    EXPECT_EQ(report.problems[2].row, num_blocks - 1);
  }
}

// Names that mean bundles in a packed model mean nothing in a predictor file.
TEST(CheckNumbersTest, TakesAPredictorFileWithOddNames) {
  const TempDir directory;
  const std::string path = directory.File("p.gguf");
  auto writer = HashedGgufWriter::Open(path, Overwrite::kNo);
  ASSERT_TRUE(writer.has_value());
  (*writer)->keys().AddString("general.architecture", kPredictorArchitecture);
  const size_t odd = (*writer)->AddTensor("a.ffn_bundle.weight", DType::kF32, std::array<uint64_t, 1>{8});
  ASSERT_TRUE((*writer)->BeginData().has_value());
  const std::array<float, 8> values = {};
  ASSERT_TRUE((*writer)->Append(odd, std::as_bytes(std::span(values))).has_value());
  ASSERT_TRUE((*writer)->Finish().has_value());
  EXPECT_EQ(CheckQuietly(path).num_problems, 0u);
}

TEST(CheckErrorTest, RefusesWhatCannotBeChecked) {
  const TempDir directory;
  const auto check = [](const std::string& path) {
    return CheckModel(path, [](double, std::string_view) {});
  };
  ExpectError(check(directory.File("absent.gguf")), ErrorCode::kIo, "absent.gguf");
  ExpectError(check(directory.Write("text.gguf", "not a model")), ErrorCode::kBadModel, "GGUF");
  const std::string path = directory.File("model.gguf");
  ASSERT_TRUE(PackQuietly(MakePackOptions(DataDir() + "opt", path)).has_value());
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 8192);
  ExpectError(check(path), ErrorCode::kBadModel, "reach beyond the end of the file");
}

// Sizes in the header that do not fit together are errors, never a crash.
TEST(CheckErrorTest, SurvivesEveryByteOfTheHeader) {
  const TempDir directory;
  const std::string path = directory.File("model.gguf");
  ASSERT_TRUE(PackQuietly(MakePackOptions(DataDir() + "opt", path)).has_value());
  const uint64_t header_bytes = ModelFile::Open(path)->gguf().data_offset_bytes();
  for (uint64_t at = 0; at < header_bytes; at += 3) {
    FlipByte(path, at);
    const auto report = CheckModel(path, [](double, std::string_view) {});
    if (report.has_value()) {
      // Plain: the key frugal.version itself was hit.
      EXPECT_TRUE(report->num_problems > 0 || report->kind == CheckedKind::kPlain) << "byte " << at;
    }
    FlipByte(path, at);
  }
}

}  // namespace
}  // namespace frugal
