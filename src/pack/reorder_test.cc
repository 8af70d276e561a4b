#include "src/pack/reorder.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <numeric>
#include <utility>

#include "src/base/random.h"
#include "src/format/hashed_gguf_reader.h"
#include "src/format/hashed_gguf_writer.h"
#include "src/format/packed_format.h"
#include "src/model/model_file.h"
#include "src/model/predictor_file.h"
#include "src/pack/check.h"
#include "src/pack/pack_for_test.h"

namespace frugal {
namespace {

Result<PackReport> ReorderQuietly(const ReorderOptions& options) {
  return Reorder(options, [](double, std::string_view) {});
}

ReorderOptions MakeOptions(const std::string& source_path, const std::string& output_path,
                           NeuronOrders orders) {
  ReorderOptions options;
  options.source_path = source_path;
  options.output_path = output_path;
  options.neuron_orders = std::move(orders);
  return options;
}

NeuronOrders Identity(const ModelConfig& config) {
  NeuronOrders orders(config.num_layers, std::vector<uint32_t>(config.ffn_size));
  for (std::vector<uint32_t>& order : orders) std::iota(order.begin(), order.end(), 0u);
  return orders;
}

NeuronOrders Shuffled(const ModelConfig& config, uint64_t seed) {
  Random random(seed);
  NeuronOrders orders = Identity(config);
  for (std::vector<uint32_t>& order : orders) {
    for (size_t i = order.size() - 1; i > 0; --i) std::swap(order[i], order[random.Below(i + 1)]);
  }
  return orders;
}

// A checkpoint packed in the source's order, and in another one.
class ReorderTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    plain_ = Pack("plain.gguf", {});
    auto model = ModelFile::Open(plain_);
    ASSERT_TRUE(model) << model.error().message;
    config_ = model->config();
    orders_ = Shuffled(config_, 7);
    shuffled_ = Pack("shuffled.gguf", orders_);
  }
  std::string Pack(const std::string& name, NeuronOrders orders) {
    PackOptions options = MakePackOptions(GetParam(), directory_.File(name));
    options.neuron_orders = std::move(orders);
    const Result<PackReport> report = PackQuietly(options);
    EXPECT_TRUE(report) << report.error().message;
    return options.output_path;
  }
  std::string Ordered(const std::string& source, NeuronOrders orders, uint64_t ram_bytes = kGiB) {
    ReorderOptions options = MakeOptions(source, directory_.File("out.gguf"), std::move(orders));
    options.overwrite = Overwrite::kYes;
    options.ram_bytes = ram_bytes;
    const Result<PackReport> report = ReorderQuietly(options);
    EXPECT_TRUE(report) << report.error().message;
    return ReadAllForTest(options.output_path);
  }

  const TempDir directory_;
  std::string plain_, shuffled_;
  ModelConfig config_;
  NeuronOrders orders_;
};

TEST_P(ReorderTest, PackingInTheSourcesOrderIsPackingWithoutAnOrder) {
  EXPECT_EQ(ReadAllForTest(Pack("identity.gguf", Identity(config_))), ReadAllForTest(plain_));
  EXPECT_NE(ReadAllForTest(shuffled_), ReadAllForTest(plain_));
}

TEST_P(ReorderTest, AnOrderGivesTheSameFileFromTheCheckpointAndFromAnyPackedFile) {
  const std::string plain = ReadAllForTest(plain_), shuffled = ReadAllForTest(shuffled_);
  EXPECT_EQ(Ordered(plain_, orders_), shuffled);
  EXPECT_EQ(Ordered(shuffled_, Identity(config_)), plain);
  EXPECT_EQ(Ordered(shuffled_, orders_), shuffled);
  EXPECT_EQ(Ordered(shuffled_, {}), shuffled);
}

TEST_P(ReorderTest, WritesTheSameFileInAnyBudget) {
  ReorderOptions options = MakeOptions(plain_, directory_.File("none.gguf"), orders_);
  options.ram_bytes = kMiB;
  const Result<PackReport> refused = ReorderQuietly(options);
  ExpectError(refused, ErrorCode::kDoesNotFit, "the smallest that works is --ram ");
  EXPECT_FALSE(std::filesystem::exists(options.output_path));
  const std::string& message = refused.error().message;
  const uint64_t smallest = std::stoull(message.substr(message.find("--ram ") + 6)) * kMiB;
  EXPECT_EQ(Ordered(plain_, orders_, smallest), ReadAllForTest(shuffled_));
}

TEST_P(ReorderTest, ReportsWhatIsInTheFile) {
  const ReorderOptions options = MakeOptions(plain_, directory_.File("out.gguf"), orders_);
  const Result<PackReport> report = ReorderQuietly(options);
  ASSERT_TRUE(report) << report.error().message;
  PackOptions pack = MakePackOptions(GetParam(), directory_.File("again.gguf"));
  pack.neuron_orders = orders_;
  const Result<PackReport> packed = PackQuietly(pack);
  ASSERT_TRUE(packed);
  EXPECT_EQ(report->content_hash, packed->content_hash);
  EXPECT_EQ(report->file_bytes, packed->file_bytes);
  EXPECT_EQ(report->num_parameters, packed->num_parameters);
  EXPECT_EQ(report->stride_bytes, packed->stride_bytes);
  EXPECT_EQ(report->up_type, packed->up_type);
  EXPECT_EQ(report->has_tokenizer, packed->has_tokenizer);
  const auto check = CheckModel(options.output_path, [](double, std::string_view) {});
  ASSERT_TRUE(check);
  EXPECT_EQ(check->num_problems, 0u);
}

std::string TestName(const ::testing::TestParamInfo<std::string>& tested) {
  std::string name = std::filesystem::path(tested.param).filename().string();
  for (char& c : name) {
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  }
  return name;
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, ReorderTest,
                         ::testing::Values(DataDir() + "opt", DataDir() + "opt-350m-style", TaleDir()),
                         TestName);

// The smallest checkpoint, with predictors whose values say which neuron they are of.
class ReorderPredictorTest : public ::testing::Test {
 protected:
  static constexpr uint32_t kRank = 32;

  void SetUp() override {
    const Result<PackReport> report = PackQuietly(MakePackOptions(DataDir() + "opt", model_));
    ASSERT_TRUE(report) << report.error().message;
    content_hash_ = report->content_hash;
    auto model = ModelFile::Open(model_);
    ASSERT_TRUE(model);
    config_ = model->config();
    orders_ = Shuffled(config_, 9);
  }
  void WritePredictor(uint64_t content_hash, const char* part_of_bias = "bias") {
    auto writer = HashedGgufWriter::Open(predictor_, Overwrite::kYes);
    ASSERT_TRUE(writer);
    GgufWriter& keys = (*writer)->keys();
    keys.AddString("general.architecture", kPredictorArchitecture);
    keys.AddString(kPredictorModelKey, fmt::format("{:016x}", content_hash));
    keys.AddUint32("frugal.predictor.num_layers", config_.num_layers);
    keys.AddUint32("frugal.predictor.hidden_size", config_.hidden_size);
    keys.AddUint32("frugal.predictor.ffn_size", config_.ffn_size);
    const std::vector<float> shares(config_.num_layers, 0.5f);
    for (const char* key : {"recall", "precision", "predicted_share", "active_share"}) {
      keys.AddFloat32Array(fmt::format("frugal.predictor.{}", key), shares);
    }
    keys.AddInt32Array("frugal.predictor.rank", std::vector<int32_t>(config_.num_layers, kRank));
    keys.AddInt32Array("frugal.predictor.early_rank", std::vector<int32_t>(config_.num_layers, kRank));
    std::vector<std::vector<float>> data;
    const auto add = [&](const std::string& name, std::vector<uint64_t> shape, std::vector<float> values) {
      (*writer)->AddTensor(name, DType::kF32, shape);
      data.push_back(std::move(values));
    };
    for (uint32_t layer = 0; layer < config_.num_layers; ++layer) {
      for (const PredictorKind kind : {PredictorKind::kOnTime, PredictorKind::kEarly}) {
        add(PredictorTensorName(layer, kind, "down"), {kRank, config_.hidden_size},
            std::vector<float>(size_t{kRank} * config_.hidden_size, 1.0f));
        add(PredictorTensorName(layer, kind, "up"), {config_.ffn_size, kRank}, Rows(layer, kRank));
        add(PredictorTensorName(layer, kind, part_of_bias), {config_.ffn_size}, Rows(layer, 1));
      }
      add(PredictorTensorName(layer, PredictorKind::kOnTime, "popularity"), {config_.ffn_size},
          Rows(layer, 1));
    }
    ASSERT_TRUE((*writer)->BeginData());
    for (size_t i = 0; i < data.size(); ++i)
      ASSERT_TRUE((*writer)->Append(i, std::as_bytes(std::span(data[i]))));
    ASSERT_TRUE((*writer)->Finish());
  }
  float ValueOf(uint32_t layer, uint32_t neuron) const { return static_cast<float>(layer * 1000 + neuron); }
  std::vector<float> Rows(uint32_t layer, size_t columns) const {
    std::vector<float> values;
    for (uint32_t neuron = 0; neuron < config_.ffn_size; ++neuron)
      values.insert(values.end(), columns, ValueOf(layer, neuron));
    return values;
  }
  ReorderOptions Options() const {
    ReorderOptions options = MakeOptions(model_, directory_.File("out.gguf"), orders_);
    options.predictor_source_path = predictor_;
    options.predictor_output_path = directory_.File("out.predict.gguf");
    return options;
  }

  const TempDir directory_;
  const std::string model_ = directory_.File("model.gguf"),
                    predictor_ = directory_.File("model.predict.gguf");
  uint64_t content_hash_ = 0;
  ModelConfig config_;
  NeuronOrders orders_;
};

TEST_F(ReorderPredictorTest, RowsMoveWithTheirNeurons) {
  WritePredictor(content_hash_);
  const ReorderOptions options = Options();
  const Result<PackReport> report = ReorderQuietly(options);
  ASSERT_TRUE(report) << report.error().message;
  const auto file = PredictorFile::Open(options.predictor_output_path, config_, report->content_hash, true);
  ASSERT_TRUE(file) << file.error().message;
  for (const PredictorKind kind : {PredictorKind::kOnTime, PredictorKind::kEarly}) {
    const std::vector<LowRankFactors> factors = file->factors(kind);
    for (uint32_t layer = 0; layer < config_.num_layers; ++layer) {
      const float* const up = reinterpret_cast<const float*>(factors[layer].up);
      for (uint32_t position = 0; position < config_.ffn_size; ++position) {
        const float expected = ValueOf(layer, orders_[layer][position]);
        ASSERT_EQ(up[position * kRank], expected) << layer << ", " << position;
        ASSERT_EQ(up[position * kRank + kRank - 1], expected) << layer << ", " << position;
        ASSERT_EQ(factors[layer].bias[position], expected) << layer << ", " << position;
        ASSERT_EQ(file->popularity(layer)[position], expected) << layer << ", " << position;
      }
    }
  }
}

TEST_F(ReorderPredictorTest, TheWayBackGivesTheSameFiles) {
  WritePredictor(content_hash_);
  const ReorderOptions options = Options();
  ASSERT_TRUE(ReorderQuietly(options));
  ReorderOptions back = MakeOptions(options.output_path, directory_.File("back.gguf"), Identity(config_));
  back.predictor_source_path = options.predictor_output_path;
  back.predictor_output_path = directory_.File("back.predict.gguf");
  const Result<PackReport> report = ReorderQuietly(back);
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_EQ(ReadAllForTest(back.output_path), ReadAllForTest(model_));
  EXPECT_EQ(ReadAllForTest(back.predictor_output_path), ReadAllForTest(predictor_));
}

TEST_F(ReorderPredictorTest, RefusesPredictorsThatItCannotMove) {
  WritePredictor(content_hash_ + 1);
  ExpectError(ReorderQuietly(Options()), ErrorCode::kBadModel, "belong to another model");
  WritePredictor(content_hash_, "threshold");
  ExpectError(ReorderQuietly(Options()), ErrorCode::kBadModel,
              "blk.0.predictor.threshold: no tensor that predictors");
  EXPECT_FALSE(std::filesystem::exists(Options().output_path));
}

TEST_F(ReorderPredictorTest, RefusesWhatCannotBeMeant) {
  ReorderOptions options = MakeOptions(model_, directory_.File("out.gguf"), orders_);
  options.neuron_orders.pop_back();
  ExpectError(ReorderQuietly(options), ErrorCode::kUsage, "orders of neurons for ");
  options.neuron_orders = orders_;
  options.neuron_orders[1][5] = options.neuron_orders[1][6];
  ExpectError(ReorderQuietly(options), ErrorCode::kUsage, "layer 1: the order of neurons is no permutation");
  options.neuron_orders[1].pop_back();
  ExpectError(ReorderQuietly(options), ErrorCode::kUsage, "layer 1: the order of neurons is no permutation");
  options.neuron_orders = orders_;
  options.output_path = model_;
  options.overwrite = Overwrite::kYes;
  ExpectError(ReorderQuietly(options), ErrorCode::kUsage, "is the source itself");
  options.output_path = predictor_;
  options.overwrite = Overwrite::kNo;
  WritePredictor(content_hash_);
  ExpectError(ReorderQuietly(options), ErrorCode::kUsage, "exists");
  options.source_path = predictor_;
  options.output_path = directory_.File("out.gguf");
  ExpectError(ReorderQuietly(options), ErrorCode::kBadModel, kPackedVersionKey);
  options.source_path = directory_.Write("text.gguf", "not a model");
  ExpectError(ReorderQuietly(options), ErrorCode::kBadModel, "text.gguf");
}

TEST_F(ReorderPredictorTest, AFlippedBitIsFoundOnTheWay) {
  auto model = ModelFile::Open(model_);
  ASSERT_TRUE(model);
  const BundleInfo& bundle = model->bundles()[1];
  const uint64_t bad = bundle.extent.offset_bytes + 3 * bundle.stride_bytes;
  FlipByte(model_, bad + 1);
  const ReorderOptions options = MakeOptions(model_, directory_.File("out.gguf"), orders_);
  ExpectError(ReorderQuietly(options), ErrorCode::kBadModel,
              fmt::format("blk.1.ffn_bundle.weight: the bytes at offset {}", bad));
  EXPECT_FALSE(std::filesystem::exists(options.output_path));
}

TEST_F(ReorderPredictorTest, AnInterruptLeavesNothing) {
  std::atomic<bool> cancel = true;
  ReorderOptions options = MakeOptions(model_, directory_.File("out.gguf"), orders_);
  options.cancel = &cancel;
  ExpectError(ReorderQuietly(options), ErrorCode::kFailed, "interrupted");
  EXPECT_FALSE(std::filesystem::exists(options.output_path));
  EXPECT_FALSE(std::filesystem::exists(options.output_path + ".tmp"));
}

}  // namespace
}  // namespace frugal
