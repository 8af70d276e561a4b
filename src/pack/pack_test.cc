#include "src/pack/pack.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "src/base/random.h"
#include "src/format/gguf_reader.h"
#include "src/format/packed_format.h"
#include "src/kernels/kernels.h"
#include "src/model/model_file.h"
#include "src/pack/check.h"
#include "src/pack/pack_for_test.h"
#include "src/tensor/half.h"

namespace frugal {
namespace {

std::string BytesOf(const std::string& file, const Extent& extent) {
  return file.substr(extent.offset_bytes, extent.size_bytes);
}

std::vector<uint64_t> HashesOf(const std::string& bytes) {
  std::vector<uint64_t> hashes(bytes.size() / 8);
  std::memcpy(hashes.data(), bytes.data(), bytes.size());
  return hashes;
}

uint64_t HashOf(const std::string& bytes) { return HashBytes(std::as_bytes(std::span(bytes))); }

std::string DecoderName(uint32_t layer, const char* part) {
  return fmt::format("model.decoder.layers.{}.{}", layer, part);
}

// Row i of fc1 and column i of fc2 make the bundle of neuron i, byte for byte; zeros follow.
void ExpectBundles(const ModelFile& model, const std::string& packed, const SourceForTest& source,
                   const std::vector<std::vector<uint32_t>>& orders) {
  const uint64_t hidden_size = model.config().hidden_size;
  const uint64_t ffn_size = model.config().ffn_size;
  for (uint32_t layer = 0; layer < model.config().num_layers; ++layer) {
    const TensorInfo& up = source.Find(DecoderName(layer, "fc1.weight"));
    const uint64_t element_bytes = TraitsOf(up.dtype).block_bytes;
    const std::string up_bytes = source.Bytes(up);
    const std::string down_bytes = source.Bytes(DecoderName(layer, "fc2.weight"));
    const std::string up_bias = source.Bytes(DecoderName(layer, "fc1.bias"));
    const std::string packed_bias = BytesOf(packed, model.vector(layer, LayerVector::kUpBias).extent);
    const BundleInfo& info = model.bundles()[layer];
    EXPECT_EQ(info.up_type, up.dtype);
    const std::vector<uint64_t> hashes = HashesOf(BytesOf(packed, info.hashes));
    for (uint64_t position = 0; position < ffn_size; ++position) {
      const uint64_t i = orders.empty() ? position : orders[layer][position];
      std::string expected = up_bytes.substr(i * hidden_size * element_bytes, hidden_size * element_bytes);
      for (uint64_t row = 0; row < hidden_size; ++row) {
        expected += down_bytes.substr((row * ffn_size + i) * element_bytes, element_bytes);
      }
      expected.resize(info.stride_bytes, '\0');
      const std::string bundle =
          packed.substr(info.extent.offset_bytes + position * info.stride_bytes, info.stride_bytes);
      ASSERT_EQ(bundle, expected) << "layer " << layer << ", position " << position;
      ASSERT_EQ(hashes[position], HashOf(bundle)) << "layer " << layer << ", position " << position;
      ASSERT_EQ(packed_bias.substr(position * element_bytes, element_bytes),
                up_bias.substr(i * element_bytes, element_bytes));
    }
  }
}

// All hashes, recomputed from the bytes as packed_format.h says.
void ExpectHashes(const ModelFile& model, const std::string& packed, uint64_t content_hash) {
  std::vector<uint64_t> expected;
  for (const TensorInfo& info : model.gguf().tensors()) {
    if (info.name.find("ffn_bundle") != std::string::npos || info.name == kTensorHashesName ||
        info.name == kHashOfHashesName) {
      continue;
    }
    const std::string bytes = BytesOf(packed, info.extent);
    AppendChunkHashes(std::as_bytes(std::span(bytes)), expected);
  }
  EXPECT_EQ(HashesOf(BytesOf(packed, model.tensor_hashes())), expected);
  std::vector<uint64_t> of_hashes;
  for (const BundleInfo& bundle : model.bundles())
    of_hashes.push_back(HashOf(BytesOf(packed, bundle.hashes)));
  of_hashes.push_back(HashOf(BytesOf(packed, model.tensor_hashes())));
  of_hashes.push_back(HashOf(packed.substr(0, model.gguf().data_offset_bytes())));
  const std::string last = BytesOf(packed, model.hash_of_hashes());
  EXPECT_EQ(HashesOf(last), of_hashes);
  EXPECT_EQ(content_hash, HashOf(last));
  EXPECT_EQ(model.gguf().tensors().back().name, kHashOfHashesName);
}

struct PackCase {
  const char* name;
  DType dtype;
};

class PackTest : public testing::TestWithParam<PackCase> {
 protected:
  std::string source_dir() const {
    return std::string(GetParam().name) == "tale" ? TaleDir() : DataDir() + GetParam().name;
  }
  const TempDir directory_;
  const std::string output_ = directory_.File("model.gguf");
};

TEST_P(PackTest, KeepsEveryByteOfTheWeights) {
  double last_share = 0;
  const auto report = Pack(MakePackOptions(source_dir(), output_), [&](double share, std::string_view) {
    EXPECT_GE(share, last_share);
    last_share = share;
  });
  ASSERT_TRUE(report.has_value()) << report.error().message;
  EXPECT_EQ(last_share, 1.0);
  const auto model = ModelFile::Open(output_);
  ASSERT_TRUE(model.has_value()) << model.error().message;
  const std::string packed = ReadAllForTest(output_);
  const SourceForTest source(source_dir());
  EXPECT_EQ(report->file_bytes, packed.size());
  EXPECT_EQ(report->num_tensors, source.tensors().size());
  ExpectBundles(*model, packed, source, {});
  ExpectHashes(*model, packed, report->content_hash);
  uint64_t num_parameters = 0;
  for (const TensorInfo& tensor : source.tensors()) num_parameters += tensor.rows() * tensor.columns();
  EXPECT_EQ(report->num_parameters, num_parameters);
  EXPECT_EQ(model->matrices()[model->layer(0).q].dtype, GetParam().dtype);
  // Every other tensor is in the file as it is in the source.
  const std::pair<const char*, std::string> names[] = {
      {"token_embd.weight", "model.decoder.embed_tokens.weight"},
      {"position_embd.weight", "model.decoder.embed_positions.weight"},
      {"output_norm.bias", "model.decoder.final_layer_norm.bias"},
      {"project_in.weight", "model.decoder.project_in.weight"},
      {"project_out.weight", "model.decoder.project_out.weight"},
      {"blk.1.attn_k.weight", DecoderName(1, "self_attn.k_proj.weight")},
      {"blk.1.attn_output.weight", DecoderName(1, "self_attn.out_proj.weight")},
      {"blk.1.attn_output.bias", DecoderName(1, "self_attn.out_proj.bias")},
      {"blk.2.attn_norm.weight", DecoderName(2, "self_attn_layer_norm.weight")},
      {"blk.2.ffn_norm.bias", DecoderName(2, "final_layer_norm.bias")},
      {"blk.2.ffn_down.bias", DecoderName(2, "fc2.bias")},
  };
  for (const auto& [packed_name, source_name] : names) {
    const TensorInfo* tensor = model->gguf().FindTensor(packed_name);
    const bool in_source = std::any_of(source.tensors().begin(), source.tensors().end(),
                                       [&name = source_name](const TensorInfo& t) { return t.name == name; });
    ASSERT_EQ(tensor != nullptr, in_source) << packed_name;
    if (in_source) {
      EXPECT_EQ(BytesOf(packed, tensor->extent), source.Bytes(source_name)) << packed_name;
    }
  }
}

std::vector<float> FloatsOf(const TensorInfo& info, const std::string& bytes) {
  std::vector<float> values(info.rows() * info.columns());
  ConvertToFloat(info.dtype, reinterpret_cast<const std::byte*>(bytes.data()), values.size(), values.data());
  return values;
}

std::string Quantised(DType dtype, const std::vector<float>& values) {
  std::string bytes(*RowBytes(dtype, values.size()), '\0');
  ConvertFromFloat(dtype, values.data(), values.size(), reinterpret_cast<std::byte*>(bytes.data()));
  return bytes;
}

// Matrices row by row, up rows and down columns each on its own, along hidden_size; in any budget, whose panels cut
// a layer's bundles. Norms, biases and position embeddings stay as they were.
TEST_P(PackTest, QuantisesMatricesAndBundles) {
  const SourceForTest source(source_dir());
  for (const DType dtype : {DType::kQ8_0, DType::kQ4_0}) {
    PackOptions options = MakePackOptions(source_dir(), output_);
    options.type = dtype;
    options.overwrite = Overwrite::kYes;
    options.ram_bytes = (std::string(GetParam().name) == "tale" ? 18 : 13) * kMiB;
    const auto report = PackQuietly(options);
    ASSERT_TRUE(report.has_value()) << report.error().message;
    const auto model = ModelFile::Open(output_);
    ASSERT_TRUE(model.has_value()) << model.error().message;
    const std::string packed = ReadAllForTest(output_);
    ExpectHashes(*model, packed, report->content_hash);
    float largest_difference = 0;
    const auto note = [&](const std::string& bytes, const std::vector<float>& exact) {
      std::vector<float> values(exact.size());
      ConvertToFloat(dtype, reinterpret_cast<const std::byte*>(bytes.data()), values.size(), values.data());
      for (size_t i = 0; i < exact.size(); ++i) {
        largest_difference = std::max(largest_difference, std::fabs(values[i] - exact[i]));
      }
    };
    const uint64_t hidden_size = model->config().hidden_size;
    const uint64_t ffn_size = model->config().ffn_size;
    for (uint32_t layer = 0; layer < model->config().num_layers; ++layer) {
      for (const auto& [id, part] : {std::pair{model->layer(layer).q, "self_attn.q_proj.weight"},
                                     std::pair{model->layer(layer).k, "self_attn.k_proj.weight"},
                                     std::pair{model->layer(layer).v, "self_attn.v_proj.weight"},
                                     std::pair{model->layer(layer).o, "self_attn.out_proj.weight"}}) {
        const TensorInfo& info = source.Find(DecoderName(layer, part));
        const std::string expected = Quantised(dtype, FloatsOf(info, source.Bytes(info)));
        EXPECT_EQ(BytesOf(packed, model->matrices()[id].extent), expected) << layer << " " << part;
        note(expected, FloatsOf(info, source.Bytes(info)));
      }
      const TensorInfo& up_info = source.Find(DecoderName(layer, "fc1.weight"));
      const TensorInfo& down_info = source.Find(DecoderName(layer, "fc2.weight"));
      const std::vector<float> up = FloatsOf(up_info, source.Bytes(up_info));
      const std::vector<float> down = FloatsOf(down_info, source.Bytes(down_info));
      const BundleInfo& bundle = model->bundles()[layer];
      EXPECT_EQ(bundle.up_type, dtype);
      EXPECT_EQ(bundle.down_type, dtype);
      for (uint64_t i = 0; i < ffn_size; ++i) {
        const std::vector<float> row(up.begin() + static_cast<std::ptrdiff_t>(i * hidden_size),
                                     up.begin() + static_cast<std::ptrdiff_t>((i + 1) * hidden_size));
        std::vector<float> column(hidden_size);
        for (uint64_t r = 0; r < hidden_size; ++r) column[r] = down[r * ffn_size + i];
        std::string expected = Quantised(dtype, row) + Quantised(dtype, column);
        note(expected.substr(0, expected.size() / 2), row);
        note(expected.substr(expected.size() / 2), column);
        expected.resize(bundle.stride_bytes, '\0');
        ASSERT_EQ(packed.substr(bundle.extent.offset_bytes + i * bundle.stride_bytes, bundle.stride_bytes), expected)
            << "layer " << layer << ", neuron " << i;
      }
    }
    const TensorInfo& tokens = source.Find("model.decoder.embed_tokens.weight");
    const TensorInfo* packed_tokens = model->gguf().FindTensor("token_embd.weight");
    EXPECT_EQ(packed_tokens->dtype, dtype);
    EXPECT_EQ(BytesOf(packed, packed_tokens->extent), Quantised(dtype, FloatsOf(tokens, source.Bytes(tokens))));
    note(BytesOf(packed, packed_tokens->extent), FloatsOf(tokens, source.Bytes(tokens)));
    EXPECT_EQ(model->gguf().FindTensor("position_embd.weight")->dtype, GetParam().dtype);
    EXPECT_EQ(model->gguf().FindTensor("blk.1.attn_norm.weight")->dtype, GetParam().dtype);
    EXPECT_EQ(report->largest_difference > 0, true);
    if (!model->config().has_projections() && !model->config().has_output_matrix) {
      EXPECT_EQ(report->largest_difference, largest_difference);
    }
    const auto checked = CheckModel(output_, [](double, std::string_view) {});
    ASSERT_TRUE(checked.has_value()) << checked.error().message;
    EXPECT_EQ(checked->num_problems, 0u);
  }
}

// The smallest budget builds a layer's bundles in many panels, in any order of neurons: the file is the same.
TEST_P(PackTest, WritesTheSameFileInAnyBudget) {
  PackOptions options = MakePackOptions(source_dir(), output_);
  const SourceForTest source(source_dir());
  const uint64_t ffn_size = source.Find(DecoderName(0, "fc1.weight")).shape[0];
  Random random(7);
  for (uint32_t layer = 0;; ++layer) {
    const std::string name = DecoderName(layer, "fc1.weight");
    if (std::none_of(source.tensors().begin(), source.tensors().end(),
                     [&name](const TensorInfo& t) { return t.name == name; })) {
      break;
    }
    std::vector<uint32_t> order(ffn_size);
    std::iota(order.begin(), order.end(), 0u);
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.Below(i)]);
    options.neuron_orders.push_back(std::move(order));
  }
  for (const bool reordered : {false, true}) {
    PackOptions roomy = options;
    if (!reordered) roomy.neuron_orders.clear();
    PackOptions tight = roomy;
    tight.output_path = directory_.File("tight.gguf");
    roomy.overwrite = tight.overwrite = Overwrite::kYes;
    tight.ram_bytes = 1;
    const auto refused = PackQuietly(tight);
    ExpectError(refused, ErrorCode::kDoesNotFit, "the smallest that works is --ram ");
    const std::string& message = refused.error().message;
    const auto smallest = ParseSize(message.substr(message.rfind(' ') + 1));
    ASSERT_TRUE(smallest.has_value()) << message;
    tight.ram_bytes = *smallest;
    const auto tight_report = PackQuietly(tight);
    ASSERT_TRUE(tight_report.has_value()) << tight_report.error().message;
    EXPECT_LE(tight_report->memory.total_bytes(), *smallest);
    const auto roomy_report = PackQuietly(roomy);
    ASSERT_TRUE(roomy_report.has_value()) << roomy_report.error().message;
    EXPECT_EQ(tight_report->content_hash, roomy_report->content_hash);
    EXPECT_EQ(ReadAllForTest(tight.output_path), ReadAllForTest(roomy.output_path));
    tight.ram_bytes = *smallest - kMiB;
    ExpectError(PackQuietly(tight), ErrorCode::kDoesNotFit, "smallest that works");
    const auto model = ModelFile::Open(output_);
    ASSERT_TRUE(model.has_value()) << model.error().message;
    ExpectBundles(*model, ReadAllForTest(output_), source, roomy.neuron_orders);
    const TensorInfo* order = model->gguf().FindTensor(BundleOrderName(1));
    ASSERT_NE(order, nullptr);
    const std::string order_bytes = BytesOf(ReadAllForTest(output_), order->extent);
    for (uint32_t i = 0; i < ffn_size; ++i) {
      uint32_t neuron = 0;
      std::memcpy(&neuron, order_bytes.data() + i * 4, 4);
      ASSERT_EQ(neuron, reordered ? roomy.neuron_orders[1][i] : i);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, PackTest,
                         testing::Values(PackCase{"opt", DType::kF16}, PackCase{"opt-sharded", DType::kBF16},
                                         PackCase{"opt-350m-style", DType::kF32},
                                         PackCase{"tale", DType::kF16}),
                         [](const auto& instance) {
                           std::string name = instance.param.name;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

float ElementOf(DType dtype, const std::string& bytes, size_t i) {
  if (dtype == DType::kF32) {
    float value = 0;
    std::memcpy(&value, bytes.data() + i * 4, 4);
    return value;
  }
  uint16_t bits = 0;
  std::memcpy(&bits, bytes.data() + i * 2, 2);
  return dtype == DType::kF16 ? HalfToFloat(bits) : Bf16ToFloat(bits);
}

TEST(PackConversionTest, RoundsToTheNearest) {
  const TempDir directory;
  for (const char* name : {"opt", "opt-sharded", "opt-350m-style"}) {
    const SourceForTest source(DataDir() + name);
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      SCOPED_TRACE(fmt::format("{} to {}", name, DTypeName(dtype)));
      PackOptions options = MakePackOptions(DataDir() + name, directory.File("converted.gguf"));
      options.overwrite = Overwrite::kYes;
      options.type = dtype;
      const auto report = PackQuietly(options);
      ASSERT_TRUE(report.has_value()) << report.error().message;
      const auto model = ModelFile::Open(options.output_path);
      ASSERT_TRUE(model.has_value()) << model.error().message;
      const std::string packed = ReadAllForTest(options.output_path);
      const TensorInfo& up = source.Find(DecoderName(1, "fc1.weight"));
      const TensorInfo& down = source.Find(DecoderName(1, "fc2.weight"));
      const std::string up_bytes = source.Bytes(up);
      const std::string down_bytes = source.Bytes(down);
      const BundleInfo& info = model->bundles()[1];
      EXPECT_EQ(info.up_type, dtype);
      EXPECT_EQ(info.down_type, dtype);
      const auto expected = [dtype](float value) {
        if (dtype == DType::kF32) return value;
        return dtype == DType::kF16 ? HalfToFloat(FloatToHalf(value)) : Bf16ToFloat(FloatToBf16(value));
      };
      for (const size_t i : {size_t{0}, size_t{17}, size_t{up.rows() - 1}}) {
        const std::string bundle =
            packed.substr(info.extent.offset_bytes + i * info.stride_bytes, info.stride_bytes);
        for (size_t k = 0; k < up.columns(); ++k) {
          ASSERT_EQ(ElementOf(dtype, bundle, k),
                    expected(ElementOf(up.dtype, up_bytes, i * up.columns() + k)));
          ASSERT_EQ(ElementOf(dtype, bundle.substr(info.down_offset_bytes), k),
                    expected(ElementOf(down.dtype, down_bytes, k * down.columns() + i)));
        }
      }
      const MatrixInfo& query = model->matrices()[model->layer(2).q];
      EXPECT_EQ(query.dtype, dtype);
      const std::string query_bytes = source.Bytes(DecoderName(2, "self_attn.q_proj.weight"));
      for (size_t i = 0; i < query.rows * query.columns; ++i) {
        ASSERT_EQ(ElementOf(dtype,
                            packed.substr(query.extent.offset_bytes + i * TraitsOf(dtype).block_bytes, 4), 0),
                  expected(ElementOf(up.dtype, query_bytes, i)));
      }
      // Vectors keep their type.
      EXPECT_EQ(model->vector(0, LayerVector::kUpBias).dtype, up.dtype);
    }
  }
}

TEST(PackOptionsTest, RefusesRowsThatAreNoWholeQuantisedBlocks) {
  const TempDir directory;
  const std::string copy = CopyOf(DataDir() + "opt", directory);
  std::string config = ReadAllForTest(copy + "/config.json");
  const std::string size = "\"hidden_size\": 64";
  ASSERT_NE(config.find(size), std::string::npos);
  config.replace(config.find(size), size.size(), "\"hidden_size\": 72");
  std::ofstream(copy + "/config.json") << config;
  PackOptions options = MakePackOptions(copy, directory.File("model.gguf"));
  options.type = DType::kQ8_0;
  ExpectError(PackQuietly(options), ErrorCode::kUsage, "hidden_size is 72");
}

TEST(PackOptionsTest, RefusesWhatCannotBeMeant) {
  const TempDir directory;
  PackOptions options = MakePackOptions(DataDir() + "opt", directory.File("model.gguf"));
  options.align_bytes = 1024;
  ExpectError(PackQuietly(options), ErrorCode::kUsage, "1024");
  options.align_bytes = 512;
  options.type = DType::kI8;
  ExpectError(PackQuietly(options), ErrorCode::kUsage, "I8, expected F32");
  options.type.reset();
  options.neuron_orders.assign(3, std::vector<uint32_t>(256));
  ExpectError(PackQuietly(options), ErrorCode::kUsage, "no permutation");
  options.neuron_orders.resize(2);
  ExpectError(PackQuietly(options), ErrorCode::kUsage, "2 orders of neurons for 3 layers");
  options.neuron_orders.clear();
  const std::string copy = CopyOf(DataDir() + "opt", directory);
  options.source_path = copy;
  options.output_path = copy + "/model.safetensors";
  options.overwrite = Overwrite::kYes;
  ExpectError(PackQuietly(options), ErrorCode::kUsage, "is a file of the checkpoint itself");
  ExpectError(PackQuietly(MakePackOptions(directory.File("absent"), directory.File("a.gguf"))),
              ErrorCode::kIo, "absent");
}

TEST(PackOptionsTest, AlignsBundlesAsAskedFor) {
  const TempDir directory;
  PackOptions options = MakePackOptions(DataDir() + "opt", directory.File("model.gguf"));
  options.align_bytes = 4096;
  const auto report = PackQuietly(options);
  ASSERT_TRUE(report.has_value()) << report.error().message;
  EXPECT_EQ(report->stride_bytes, 4096u);
  const auto model = ModelFile::Open(options.output_path);
  ASSERT_TRUE(model.has_value()) << model.error().message;
  ExpectBundles(*model, ReadAllForTest(options.output_path), SourceForTest(options.source_path), {});
}

TEST(PackKeysTest, AreThoseOfTheModel) {
  const TempDir directory;
  const std::string output = directory.File("tale.gguf");
  const auto report = PackQuietly(MakePackOptions(TaleDir(), output));
  ASSERT_TRUE(report.has_value()) << report.error().message;
  EXPECT_TRUE(report->has_tokenizer);
  EXPECT_TRUE(report->warnings.empty());
  const auto model = ModelFile::Open(output);
  ASSERT_TRUE(model.has_value()) << model.error().message;
  const GgufReader& gguf = model->gguf();
  EXPECT_EQ(*gguf.GetString("general.name"), "tale");
  EXPECT_EQ(*gguf.GetString("frugal.activation"), "relu");
  EXPECT_EQ(*gguf.GetString(kBundleLayoutKey), "up+down");
  EXPECT_EQ(*gguf.GetUint("general.file_type"), 1u);
  EXPECT_EQ(*gguf.GetUint("opt.attention.head_count_kv"), 4u);
  EXPECT_EQ(model->config().eos_id, 2);
  EXPECT_EQ(model->config().max_context, 512u);
  // What is read first lies first: vectors, embeddings, then layer by layer.
  const std::vector<TensorInfo>& tensors = gguf.tensors();
  EXPECT_EQ(tensors[0].name, "output_norm.weight");
  EXPECT_EQ(tensors[82].name, "token_embd.weight");
  EXPECT_EQ(tensors[83].name, "position_embd.weight");
  EXPECT_EQ(tensors[84].name, "blk.0.attn_q.weight");
  EXPECT_EQ(tensors[88].name, "blk.0.ffn_bundle.weight");
  EXPECT_EQ(tensors[89].name, "blk.1.attn_q.weight");
}

}  // namespace
}  // namespace frugal
