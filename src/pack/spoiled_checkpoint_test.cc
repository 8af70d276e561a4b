// Checkpoints with something wrong in them: what is not finite, does not fit, is missing or of another shape.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "src/base/random.h"
#include "src/kernels/kernels.h"
#include "src/model/model_file.h"
#include "src/pack/check.h"
#include "src/pack/pack.h"
#include "src/pack/pack_for_test.h"
#include "src/tensor/half.h"

namespace frugal {
namespace {

std::string DecoderName(uint32_t layer, const char* part) {
  return fmt::format("model.decoder.layers.{}.{}", layer, part);
}

class SpoiledCheckpointTest : public testing::Test {
 protected:
  // Puts `value` into element `element` of the tensor of a copy.
  void Spoil(const char* model, const std::string& name, uint64_t element, float value) {
    source_dir_ = CopyOf(DataDir() + model, directory_);
    const SourceForTest source(source_dir_);
    const TensorInfo& tensor = source.Find(name);
    uint32_t bits = 0;
    if (tensor.dtype == DType::kF32) {
      std::memcpy(&bits, &value, 4);
    } else {
      bits = tensor.dtype == DType::kF16 ? FloatToHalf(value) : FloatToBf16(value);
    }
    const uint64_t size_bytes = TraitsOf(tensor.dtype).block_bytes;
    OverwriteBytes(source.PathOf(tensor), tensor.extent.offset_bytes + element * size_bytes,
                   std::as_bytes(std::span(&bits, 1)).first(size_bytes));
    place_ = fmt::format("{}: {}: row {}, column {} at offset {}: ", source.PathOf(tensor), name,
                         element / tensor.columns(), element % tensor.columns(),
                         tensor.extent.offset_bytes + element * size_bytes);
  }
  PackOptions Options() const { return MakePackOptions(source_dir_, output_); }
  void ExpectNothingLeft() const {
    EXPECT_FALSE(std::filesystem::exists(output_));
    EXPECT_FALSE(std::filesystem::exists(output_ + ".tmp"));
  }

  const TempDir directory_;
  const std::string output_ = directory_.File("model.gguf");
  std::string source_dir_;
  std::string place_;
};

// A13
TEST_F(SpoiledCheckpointTest, NamesTheRowOfWhatIsNotFinite) {
  const float inf = std::numeric_limits<float>::infinity();
  for (const char* model : {"opt", "opt-sharded", "opt-350m-style"}) {
    for (const char* part : {"fc1.weight", "fc2.weight", "self_attn.v_proj.weight", "fc1.bias"}) {
      const std::string name = DecoderName(2, part);
      Spoil(model, name, 131, std::nanf(""));
      ExpectError(PackQuietly(Options()), ErrorCode::kBadModel, place_ + "NaN");
      Spoil(model, name, 255, -inf);
      ExpectError(PackQuietly(Options()), ErrorCode::kBadModel, place_ + "-inf");
      ExpectNothingLeft();
    }
  }
}

TEST_F(SpoiledCheckpointTest, NamesTheRowOfWhatOverflows) {
  for (const char* part : {"fc1.weight", "fc2.weight", "self_attn.out_proj.weight"}) {
    Spoil("opt-350m-style", DecoderName(1, part), 1000, 65520.0f);
    PackOptions options = Options();
    options.type = DType::kF16;
    ExpectError(PackQuietly(options), ErrorCode::kBadModel, place_ + "the value is too large for F16");
    ExpectNothingLeft();
    options.type = DType::kBF16;
    options.overwrite = Overwrite::kYes;
    EXPECT_TRUE(PackQuietly(options).has_value());
    std::filesystem::remove(output_);
  }
}

// The columns of a panel are a part of fc2's rows: the place must be right there too.
TEST_F(SpoiledCheckpointTest, NamesTheRowInASmallBudget) {
  const std::string name = DecoderName(0, "fc2.weight");
  Spoil("opt-350m-style", name, 63 * 256 + 201, 1e30f);
  PackOptions options = Options();
  options.type = DType::kF16;
  options.ram_bytes = 1;
  const std::string message = PackQuietly(options).error().message;
  options.ram_bytes = *ParseSize(message.substr(message.rfind(' ') + 1));
  ExpectError(PackQuietly(options), ErrorCode::kBadModel, place_ + "the value is too large for F16");
}

std::string ReplaceAll(std::string text, std::string_view from, std::string_view to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
  return text;
}

// A11
TEST_F(SpoiledCheckpointTest, NamesWhatIsMissingOrOfAnotherShape) {
  source_dir_ = CopyOf(DataDir() + "opt", directory_);
  const std::string weights = source_dir_ + "/model.safetensors";
  const std::string config = source_dir_ + "/config.json";
  const std::string good_weights = ReadAllForTest(weights);
  const std::string good_config = ReadAllForTest(config);
  const auto write = [](const std::string& path, const std::string& text) {
    std::ofstream(path, std::ios::binary) << text;
  };
  for (const char* part :
       {"fc1.weight", "fc2.weight", "fc1.bias", "self_attn.k_proj.weight", "self_attn_layer_norm.bias"}) {
    const std::string name = DecoderName(1, part);
    std::string renamed = name;
    renamed.back() = 'x';
    write(weights, ReplaceAll(good_weights, "\"" + name + "\"", "\"" + renamed + "\""));
    ExpectError(PackQuietly(Options()), ErrorCode::kBadModel, "tensor " + name + " is missing");
  }
  write(weights, good_weights);
  write(config, ReplaceAll(good_config, "\"ffn_dim\": 256", "\"ffn_dim\": 128"));
  ExpectError(PackQuietly(Options()), ErrorCode::kBadModel,
              "fc1.bias has the shape [256], config.json makes it [128]");
  write(config,
        ReplaceAll(good_config, "\"max_position_embeddings\": 128", "\"max_position_embeddings\": 130"));
  ExpectError(PackQuietly(Options()), ErrorCode::kBadModel,
              "embed_positions.weight has the shape [130, 64], config.json makes it [132, 64]");
  write(config, ReplaceAll(good_config, "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false"));
  ExpectError(PackQuietly(Options()), ErrorCode::kBadModel, "tensor lm_head.weight is missing");
  // F16 and I16 have the same size.
  write(config, good_config);
  write(weights,
        ReplaceAll(good_weights, "{\"dtype\":\"F16\",\"shape\":[256]", "{\"dtype\":\"I16\",\"shape\":[256]"));
  const auto wrong_type = PackQuietly(Options());
  ASSERT_FALSE(wrong_type.has_value());
  EXPECT_EQ(wrong_type.error().code, ErrorCode::kBadModel) << wrong_type.error().message;
  ExpectNothingLeft();
}

TEST_F(SpoiledCheckpointTest, ReportsTensorsThatAreNotUsed) {
  source_dir_ = CopyOf(DataDir() + "opt", directory_);
  const std::string config = source_dir_ + "/config.json";
  const std::string text = ReadAllForTest(config);
  std::ofstream(config) << ReplaceAll(text, "\"num_hidden_layers\": 3", "\"num_hidden_layers\": 2");
  const auto report = PackQuietly(Options());
  ASSERT_TRUE(report.has_value()) << report.error().message;
  ASSERT_EQ(report->warnings.size(), 17u);  // the tokenizer that is not there, and a layer of 16 tensors
  EXPECT_NE(report->warnings[0].find("no tokenizer"), std::string::npos);
  EXPECT_NE(report->warnings[1].find("model.decoder.layers.2.fc1.bias [256] is not used"), std::string::npos);
}

// Before transformers 4.20 names had no "model." in front.
TEST_F(SpoiledCheckpointTest, TakesNamesWithoutModelInFront) {
  source_dir_ = CopyOf(DataDir() + "opt", directory_);
  const auto packed = PackQuietly(Options());
  ASSERT_TRUE(packed.has_value());
  const std::string weights = source_dir_ + "/model.safetensors";
  // Spaces keep the header's length.
  const std::string text = ReadAllForTest(weights);
  std::ofstream(weights, std::ios::binary) << ReplaceAll(text, "\"model.decoder.", "      \"decoder.");
  PackOptions options = Options();
  options.output_path = directory_.File("bare.gguf");
  const auto bare = PackQuietly(options);
  ASSERT_TRUE(bare.has_value()) << bare.error().message;
  EXPECT_EQ(bare->content_hash, packed->content_hash);
}

}  // namespace
}  // namespace frugal
