// Packed models of every dense architecture: each tensor against the checkpoint that it is made from, and against the GGUF
// that llama.cpp's converter made from the same checkpoint.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "src/base/random.h"
#include "src/format/hugging_face.h"
#include "src/format/json_file.h"
#include "src/pack/check.h"
#include "src/pack/inspect.h"
#include "src/pack/pack_for_test.h"
#include "src/pack/packed_model_for_test.h"
#include "src/pack/reorder.h"

namespace frugal {
namespace {

struct DenseCase {
  const char* name;
  const char* architecture;
  const char* activation;
  FfnLayout layout;
  const char* twin = "";            // the GGUF file beside it
  const char* twin_activation = "";  // what its keys cannot say
};

void PrintTo(const DenseCase& dense, std::ostream* out) { *out << dense.name; }

using Floats = std::vector<float>;

Floats Rows(const Floats& matrix, uint64_t columns, uint64_t first, uint64_t count) {
  const auto at = [&](uint64_t row) { return matrix.begin() + static_cast<std::ptrdiff_t>(row * columns); };
  return {at(first), at(first + count)};
}

Floats Joined(std::initializer_list<Floats> parts) {
  Floats joined;
  for (const Floats& part : parts) joined.insert(joined.end(), part.begin(), part.end());
  return joined;
}

class DensePackTest : public testing::TestWithParam<DenseCase> {
 protected:
  void SetUp() override {
    directory_ = FindModelDir(GetParam().name);
    if (directory_.empty()) GTEST_SKIP() << GetParam().name << " is neither in tests/data/models nor in ../shared/models";
  }

  void Pack(PackOptions options) {
    const auto report = PackQuietly(options);
    ASSERT_TRUE(report.has_value()) << report.error().message;
    EXPECT_EQ(report->largest_difference, 0.0f);
    for (const std::string& warning : report->warnings) EXPECT_NE(warning.find("tokenizer"), std::string::npos) << warning;
    const auto checked = CheckModel(options.output_path, [](double, std::string_view) {});
    ASSERT_TRUE(checked.has_value()) << checked.error().message;
    EXPECT_EQ(checked->num_problems, 0u) << checked->problems[0].message;
    EXPECT_EQ(checked->content_hash, report->content_hash);
  }

  std::string directory_;
  const TempDir temp_;
  const std::string output_ = temp_.File("packed.gguf");
};

TEST_P(DensePackTest, SaysWhatItIs) {
  Pack(MakePackOptions(directory_, output_));
  const auto inspection = Inspect(output_);
  ASSERT_TRUE(inspection.has_value()) << inspection.error().message;
  ASSERT_TRUE(inspection->packed.has_value());
  EXPECT_EQ(inspection->packed->architecture, GetParam().architecture);
  EXPECT_EQ(ActivationName(inspection->packed->config.activation), GetParam().activation);
  EXPECT_EQ(inspection->packed->config.ffn_layout, GetParam().layout);

  // The keys give back what config.json said, but for what packing changes.
  const GgufForTest packed(output_);
  const std::string config_path = directory_ + "/config.json";
  const auto json = ReadJsonFile(config_path);
  const auto source = ParseHuggingFaceConfig(*json, config_path);
  ASSERT_TRUE(source.has_value()) << source.error().message;
  const ModelConfig& config = packed.config();
  EXPECT_EQ(config.architecture, source->architecture);
  EXPECT_EQ(config.num_layers, source->num_layers);
  EXPECT_EQ(config.hidden_size, source->hidden_size);
  EXPECT_EQ(config.ffn_size, source->ffn_size);
  EXPECT_EQ(config.num_heads, source->num_heads);
  EXPECT_EQ(config.num_kv_heads, source->num_kv_heads);
  EXPECT_EQ(config.head_dim, source->head_dim);
  EXPECT_EQ(config.vocab_size, source->vocab_size);
  EXPECT_EQ(config.max_context, source->max_context);
  EXPECT_EQ(config.norm, source->norm);
  EXPECT_EQ(config.norm_epsilon, source->norm_epsilon);
  EXPECT_EQ(config.head_norm, source->head_norm);
  EXPECT_EQ(config.has_ffn_norm, source->has_ffn_norm);
  EXPECT_EQ(config.has_post_norms, source->has_post_norms);
  EXPECT_EQ(config.block_order, source->block_order);
  EXPECT_EQ(config.gated, source->gated);
  EXPECT_FLOAT_EQ(config.attention_scale, source->attention_scale);
  EXPECT_EQ(config.embedding_scale, source->embedding_scale);
  EXPECT_EQ(config.layer_windows, source->layer_windows);
  EXPECT_EQ(config.has_output_matrix, source->has_output_matrix);
  EXPECT_EQ(config.rope.dims, source->rope.dims);
  EXPECT_EQ(config.rope.theta, source->rope.theta);
  EXPECT_EQ(config.has_local_rope, source->has_local_rope);
  EXPECT_EQ(config.local_rope.theta, source->local_rope.theta);
}

// Each tensor of the converter's file has its twin, number by number, and there are no others.
TEST_P(DensePackTest, HasTheNumbersOfTheConvertersFile) {
  const DenseCase& dense = GetParam();
  if (std::string(dense.twin).empty()) GTEST_SKIP() << dense.name << " has no GGUF twin";
  const GgufForTest twin(directory_ + "/" + dense.twin);
  Pack(MakePackOptions(directory_, output_));
  const GgufForTest packed(output_);
  size_t num_found = 0;
  for (const auto& [name, expected] : twin.tensors()) {
    if (!name.ends_with("attn_qkv.weight")) {
      if (name == "rope_freqs.weight") {
        for (size_t i = 0; i < expected.size(); ++i) EXPECT_FLOAT_EQ(packed[name][i], expected[i]);
      } else {
        EXPECT_EQ(packed[name], expected) << name;
      }
      ++num_found;
      continue;
    }
    const std::string layer = name.substr(0, name.find("attn_qkv"));
    EXPECT_EQ(Joined({packed[layer + "attn_q.weight"], packed[layer + "attn_k.weight"], packed[layer + "attn_v.weight"]}), expected)
        << name;
    num_found += 3;
  }
  EXPECT_EQ(packed.tensors().size(), num_found);
}

// A converter's file is packed to the same tensors as the checkpoint.
TEST_P(DensePackTest, PacksTheConvertersFileToTheSameTensors) {
  const DenseCase& dense = GetParam();
  if (std::string(dense.twin).empty()) GTEST_SKIP() << dense.name << " has no GGUF twin";
  PackOptions options = MakePackOptions(directory_ + "/" + dense.twin, output_);
  if (*dense.twin_activation != '\0') options.activation = ParseActivation(dense.twin_activation);
  Pack(options);
  const std::string other = temp_.File("checkpoint.gguf");
  Pack(MakePackOptions(directory_, other));
  const GgufForTest from_gguf(output_), from_checkpoint(other);
  EXPECT_EQ(from_gguf.config().ffn_layout, dense.layout);
  EXPECT_EQ(ActivationName(from_gguf.config().activation), dense.activation);
  ASSERT_EQ(from_gguf.tensors().size(), from_checkpoint.tensors().size());
  for (const auto& [name, expected] : from_checkpoint.tensors()) {
    if (name == "rope_freqs.weight") continue;
    EXPECT_EQ(from_gguf[name], expected) << name;
  }
}

// Projections and FFN against the checkpoint's own tensors, by formulas of this test.
TEST_P(DensePackTest, HasTheNumbersOfTheCheckpoint) {
  const auto source = OpenCheckpointTensors(directory_);
  ASSERT_TRUE(source.has_value()) << source.error().message;
  std::map<std::string, Floats> stored;
  for (const TensorInfo& info : (*source)->tensors()) {
    stored[info.name] = FloatsForTest(info, ReadAllForTest((*source)->file_paths()[info.file_index]));
  }
  Pack(MakePackOptions(directory_, output_));
  const GgufForTest packed(output_);
  const ModelConfig& config = packed.config();
  const uint64_t hidden = config.hidden_size, dim = config.head_dim;
  const uint64_t group = config.num_heads / config.num_kv_heads;
  // The first source tensor that ends so in the layer.
  const auto find = [&](uint32_t layer, std::initializer_list<const char*> ends) -> const Floats* {
    for (const auto& [name, values] : stored) {
      for (const char* end : ends) {
        if (name.ends_with(fmt::format("s.{}.{}", layer, end)) || name.ends_with(fmt::format("h.{}.{}", layer, end))) return &values;
      }
    }
    return nullptr;
  };
  for (uint32_t layer = 0; layer < config.num_layers; ++layer) {
    const auto name = [layer](const char* part) { return fmt::format("blk.{}.{}", layer, part); };
    EXPECT_EQ(packed[name("ffn_up.weight")],
              *find(layer, {"mlp.up_proj.weight", "mlp.fc1.weight", "fc1.weight", "mlp.dense_h_to_4h.weight"}));
    EXPECT_EQ(packed[name("ffn_down.weight")],
              *find(layer, {"mlp.down_proj.weight", "mlp.fc2.weight", "fc2.weight", "mlp.dense_4h_to_h.weight"}));
    if (config.gated) {
      EXPECT_EQ(packed[name("ffn_gate.weight")], *find(layer, {"mlp.gate_proj.weight"}));
    }
    const Floats* fused = find(layer, {"self_attention.query_key_value.weight", "self_attn.query_key_value.weight"});
    const bool is_turned = config.rope.pairs == RopePairs::kNeighbours;
    for (uint64_t head = 0; head < config.num_heads; ++head) {
      const uint64_t kv_head = head / group;
      Floats q, k, v;
      if (fused == nullptr) {
        q = Rows(*find(layer, {"self_attn.q_proj.weight"}), hidden, head * dim, dim);
        k = Rows(*find(layer, {"self_attn.k_proj.weight"}), hidden, kv_head * dim, dim);
        v = Rows(*find(layer, {"self_attn.v_proj.weight"}), hidden, kv_head * dim, dim);
      } else {
        const uint64_t begin = kv_head * (group + 2) * dim;
        q = Rows(*fused, hidden, begin + head % group * dim, dim);
        k = Rows(*fused, hidden, begin + group * dim, dim);
        v = Rows(*fused, hidden, begin + (group + 1) * dim, dim);
      }
      if (is_turned) {
        for (Floats* part : {&q, &k}) {
          Floats turned;
          for (uint64_t i = 0; i < dim / 2; ++i) {
            turned = Joined({turned, Rows(*part, hidden, i, 1), Rows(*part, hidden, i + dim / 2, 1)});
          }
          *part = turned;
        }
      }
      EXPECT_EQ(Rows(packed[name("attn_q.weight")], hidden, head * dim, dim), q) << layer << ", head " << head;
      EXPECT_EQ(Rows(packed[name("attn_k.weight")], hidden, kv_head * dim, dim), k) << layer << ", head " << head;
      EXPECT_EQ(Rows(packed[name("attn_v.weight")], hidden, kv_head * dim, dim), v) << layer << ", head " << head;
    }
  }
}

// bundle3 and gate+bundle2, in any order of neurons and in the smallest budget, hold the same numbers; Reorder gives what packing
// in that order gives.
TEST_P(DensePackTest, LaysOutTheFfnInAnyOrder) {
  if (GetParam().layout == FfnLayout::kMatrices) GTEST_SKIP() << "no bundles";
  Pack(MakePackOptions(directory_, output_));
  const GgufForTest plain(output_);
  const uint32_t ffn_size = plain.config().ffn_size, hidden = plain.config().hidden_size;
  NeuronOrders orders(plain.config().num_layers, std::vector<uint32_t>(ffn_size));
  Random random(11);
  for (std::vector<uint32_t>& order : orders) {
    std::iota(order.begin(), order.end(), 0u);
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.Below(i)]);
  }
  for (const FfnLayout layout : {FfnLayout::kGateAndBundle2, FfnLayout::kBundle3}) {
    PackOptions options = MakePackOptions(directory_, temp_.File("ordered.gguf"));
    options.neuron_orders = orders;
    options.overwrite = Overwrite::kYes;
    options.ram_bytes = 14 * kMiB;
    if (plain.config().gated) options.layout = layout;
    Pack(options);
    const GgufForTest ordered(options.output_path);
    EXPECT_EQ(ordered.config().ffn_layout, plain.config().gated ? layout : FfnLayout::kUpDown);
    ASSERT_EQ(ordered.tensors().size(), plain.tensors().size());
    for (const auto& [name, values] : plain.tensors()) {
      const bool is_row = name.find("ffn_gate.") != std::string::npos || name.find("ffn_up.") != std::string::npos;
      const bool is_down = name.ends_with("ffn_down.weight");
      Floats expected = values;
      if (is_row || is_down) {
        const std::vector<uint32_t>& order = orders[std::stoul(name.substr(4))];
        const uint64_t rows = is_down ? hidden : ffn_size, columns = values.size() / rows;
        for (uint64_t r = 0; r < rows; ++r) {
          for (uint64_t c = 0; c < columns; ++c) {
            expected[r * columns + c] = is_down ? values[r * columns + order[c]] : values[order[r] * columns + c];
          }
        }
      }
      EXPECT_EQ(ordered[name], expected) << name;
    }
    // The same from the packed file.
    PackOptions unordered = options;
    unordered.output_path = temp_.File("unordered.gguf");
    unordered.neuron_orders.clear();
    Pack(unordered);
    ReorderOptions reorder;
    reorder.source_path = unordered.output_path;
    reorder.output_path = temp_.File("reordered.gguf");
    reorder.neuron_orders = orders;
    reorder.overwrite = Overwrite::kYes;
    const auto reordered = Reorder(reorder, [](double, std::string_view) {});
    ASSERT_TRUE(reordered.has_value()) << reordered.error().message;
    EXPECT_EQ(ReadAllForTest(reorder.output_path), ordered.file());
  }
}

constexpr FfnLayout kUpDown = FfnLayout::kUpDown, kMatrices = FfnLayout::kMatrices, kGated = FfnLayout::kGateAndBundle2;

INSTANTIATE_TEST_SUITE_P(
    Models, DensePackTest,
    testing::Values(DenseCase{"opt", "opt", "relu", kUpDown}, DenseCase{"opt-bin", "opt", "relu", kUpDown},
                    DenseCase{"falcon-7b-style", "falcon", "gelu", kMatrices, "falcon-7b-style-bf16.gguf"},
                    DenseCase{"falcon-7b-relu", "falcon", "relu", kUpDown, "falcon-7b-relu-f16.gguf", "relu"},
                    DenseCase{"falcon-7b-relu-bin", "falcon", "relu", kUpDown},
                    DenseCase{"falcon-40b-relu", "falcon", "relu", kUpDown, "falcon-40b-relu-bf16.gguf", "relu"},
                    DenseCase{"persimmon", "persimmon", "relu2", kUpDown},
                    DenseCase{"phi-2-gelu", "phi2", "gelu_tanh", kMatrices, "phi-2-gelu-f16.gguf"},
                    DenseCase{"phi-2-relu", "phi2", "relu", kUpDown},
                    DenseCase{"llama-silu-tied-rope3", "llama", "silu", kMatrices, "llama-silu-tied-rope3-bf16.gguf"},
                    DenseCase{"llama-relu", "llama", "relu", kGated},
                    DenseCase{"llama-bias", "llama", "silu", kMatrices, "llama-bias-bf16.gguf"},
                    DenseCase{"llama-fatrelu", "llama", "fatrelu:0.3", kGated},
                    DenseCase{"bamboo-drelu", "llama", "drelu", kGated},
                    DenseCase{"mistral-window", "llama", "silu", kMatrices},
                    DenseCase{"qwen2", "qwen2", "silu", kMatrices, "qwen2-bf16.gguf"},
                    DenseCase{"qwen3", "qwen3", "silu", kMatrices, "qwen3-bf16.gguf"},
                    DenseCase{"gemma3", "gemma3", "gelu_tanh", kMatrices, "gemma3-bf16.gguf"},
                    DenseCase{"gemma3-1b-style", "gemma3", "gelu_tanh", kMatrices},
                    DenseCase{"nemotron", "nemotron", "relu2", kUpDown, "nemotron-bf16.gguf"},
                    DenseCase{"arcee", "arcee", "relu2", kUpDown, "arcee-bf16.gguf"}),
    [](const auto& instance) {
      std::string name = instance.param.name;
      std::replace(name.begin(), name.end(), '-', '_');
      return name;
    });

}  // namespace
}  // namespace frugal
