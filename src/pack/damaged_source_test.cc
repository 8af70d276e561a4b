// Checkpoints of every architecture that lack a tensor, or have one of another shape; options that do not fit a model.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "src/model/source_names.h"
#include "src/pack/pack_for_test.h"
#include "src/pack/packed_model_for_test.h"

namespace frugal {
namespace {

class DamagedSourceTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string found = FindModelDir(GetParam());
    if (found.empty()) GTEST_SKIP() << GetParam() << " is neither in tests/data/models nor in ../shared/models";
    directory_ = CopyOf(found, temp_);
    header_ = ReadAllForTest(weights());
  }
  std::string weights() const { return directory_ + "/model.safetensors"; }
  // The weights with the first `from` of the header replaced; as long as before.
  void Change(const std::string& from, const std::string& to) const {
    ASSERT_EQ(from.size(), to.size());
    std::string bytes = header_;
    const size_t at = bytes.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    std::ofstream(weights(), std::ios::binary) << bytes.replace(at, from.size(), to);
  }

  const TempDir temp_;
  std::string directory_, header_;
};

// Under another name it is missing, and the message says so.
TEST_P(DamagedSourceTest, A11NamesEveryMissingTensor) {
  const SourceForTest source(directory_);
  size_t num_refused = 0;
  for (const TensorInfo& tensor : source.tensors()) {
    const bool is_superfluous = tensor.name.ends_with("inv_freq") || tensor.name.find("predictor") != std::string::npos;
    std::string renamed = tensor.name;
    renamed.back() = '_';
    Change("\"" + tensor.name + "\"", "\"" + renamed + "\"");
    PackOptions options = MakePackOptions(directory_, temp_.File("packed.gguf"));
    options.overwrite = Overwrite::kYes;
    const auto report = PackQuietly(options);
    if (is_superfluous) {
      ASSERT_TRUE(report.has_value()) << report.error().message;
      continue;
    }
    ExpectError(report, ErrorCode::kBadModel, "tensor " + tensor.name + " is missing");
    ++num_refused;
  }
  EXPECT_GT(num_refused, 20u);
}

// Two numbers of its shape change places: its bytes are as many.
TEST_P(DamagedSourceTest, A11NamesTensorsOfAnotherShape) {
  const SourceForTest source(directory_);
  size_t num_refused = 0;
  for (const TensorInfo& tensor : source.tensors()) {
    if (tensor.shape.size() != 2 || tensor.shape[0] == tensor.shape[1] || tensor.name.find("predictor") != std::string::npos) continue;
    std::string bytes = header_;
    const size_t name_at = bytes.find("\"" + tensor.name + "\"");
    const size_t begin = bytes.find("\"shape\":[", name_at) + 9;
    const std::string shape = fmt::format("{},{}", tensor.shape[0], tensor.shape[1]);
    ASSERT_EQ(bytes.substr(begin, shape.size()), shape);
    bytes.replace(begin, shape.size(), fmt::format("{},{}", tensor.shape[1], tensor.shape[0]));
    std::ofstream(weights(), std::ios::binary) << bytes;
    ExpectError(PackQuietly(MakePackOptions(directory_, temp_.File("packed.gguf"))), ErrorCode::kBadModel,
                fmt::format("tensor {} has the shape [{}, {}], config.json makes it [{}, {}]", tensor.name, tensor.shape[1],
                            tensor.shape[0], tensor.shape[0], tensor.shape[1]));
    ++num_refused;
  }
  EXPECT_GE(num_refused, 5u);
}

// attention_bias and mlp_bias decide, not what happens to lie in the file.
TEST(DeclaredBiasesTest, AreTakenOrIgnoredAsConfigSays) {
  const std::string found = FindModelDir("llama-bias");
  if (found.empty()) GTEST_SKIP() << "llama-bias is neither in tests/data/models nor in ../shared/models";
  const TempDir temp;
  const std::string directory = CopyOf(found, temp);
  const std::string config = ReadAllForTest(directory + "/config.json");
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string changed = config;
    const size_t at = changed.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    std::ofstream(directory + "/config.json") << changed.replace(at, from.size(), to);
  };
  PackOptions options = MakePackOptions(directory, temp.File("packed.gguf"));
  options.overwrite = Overwrite::kYes;
  with("\"attention_bias\": true", "\"attention_bias\": false");
  const auto report = PackQuietly(options);
  ASSERT_TRUE(report.has_value()) << report.error().message;
  const GgufForTest packed(options.output_path);
  EXPECT_FALSE(packed.tensors().contains("blk.0.attn_q.bias"));
  EXPECT_TRUE(packed.tensors().contains("blk.0.ffn_up.bias"));
  const auto names_bias = [](const std::string& line) { return line.find("self_attn.q_proj.bias [64] is not used") != std::string::npos; };
  EXPECT_EQ(std::count_if(report->warnings.begin(), report->warnings.end(), names_bias), 3);
  with("\"attention_bias\": true", "\"other\": true");  // where nothing is said, what is there is taken
  ASSERT_TRUE(PackQuietly(options).has_value());
  EXPECT_TRUE(GgufForTest(options.output_path).tensors().contains("blk.0.attn_q.bias"));
}

INSTANTIATE_TEST_SUITE_P(Models, DamagedSourceTest,
                         testing::Values("opt", "opt-350m-style", "falcon-7b-relu", "falcon-40b-relu", "persimmon", "phi-2-relu",
                                         "llama-silu-tied-rope3", "llama-relu", "llama-bias", "llama-fatrelu", "bamboo-drelu",
                                         "mistral-window", "qwen2", "qwen3", "gemma3", "nemotron", "arcee"),
                         [](const auto& instance) {
                           std::string name = instance.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(SourceNamesTest, KnowsWhatIsSuperfluous) {
  ModelConfig config;
  config.architecture = Architecture::kLlama;
  config.num_layers = 3;
  SourceNames names;
  names.prefix = "model.";
  names.layers = "layers";
  names.output = "lm_head";
  names.num_extra_layers = 1;
  for (const char* name : {"model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.2.mlp.predictor.fc1.weight", "lm_head.weight",
                           "model.layers.3.eh_proj.weight", "model.layers.3.mlp.up_proj.weight", "mtp.layers.0.norm.weight"}) {
    EXPECT_TRUE(IsKnownSuperfluous(name, config, names)) << name;
  }
  config.has_output_matrix = true;
  for (const char* name : {"lm_head.weight", "model.layers.4.mlp.up_proj.weight", "model.layers.2.mlp.up_proj.bias", "model.layers.3",
                           "model.layers.x.weight", "vision.weight"}) {
    EXPECT_FALSE(IsKnownSuperfluous(name, config, names)) << name;
  }
}

TEST(PackOptionsTest, RefusesLayoutsAndTypesThatDoNotFitTheModel) {
  const TempDir temp;
  PackOptions options = MakePackOptions(DataDir() + "opt", temp.File("a.gguf"));
  options.layout = FfnLayout::kBundle3;
  ExpectError(PackQuietly(options), ErrorCode::kUsage, "layout bundle3: the model has activation relu and no gate, its layout is up+down");
  options.layout.reset();
  options.activation = Activation{ActivationKind::kDRelu, 0.0f};
  ExpectError(PackQuietly(options), ErrorCode::kBadModel, "drelu asks for a gate");
  options.activation = Activation{ActivationKind::kGelu, 0.0f};
  options.neuron_orders.assign(3, std::vector<uint32_t>(256));
  for (std::vector<uint32_t>& order : options.neuron_orders) std::iota(order.begin(), order.end(), 0u);
  ExpectError(PackQuietly(options), ErrorCode::kUsage, "orders of neurons: the model has activation gelu");
  options.neuron_orders.clear();
  const auto report = PackQuietly(options);
  ASSERT_TRUE(report.has_value()) << report.error().message;
  EXPECT_EQ(report->layout, FfnLayout::kMatrices);
  ExpectError(PackQuietly(MakePackOptions(options.output_path, temp.File("b.gguf"))), ErrorCode::kUsage, "is a packed model already");
}

}  // namespace
}  // namespace frugal
