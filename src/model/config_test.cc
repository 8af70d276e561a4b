#include "src/model/config.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <span>

#include "src/format/byte_source.h"
#include "src/format/gguf_bytes_for_test.h"
#include "src/format/gguf_reader.h"

namespace frugal {
namespace {

ModelConfig GoodConfig() {
  ModelConfig config;
  config.architecture = Architecture::kLlama;
  config.num_layers = 2;
  config.hidden_size = config.embedding_size = 64;
  config.ffn_size = 192;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 16;
  config.vocab_size = 320;
  config.max_context = 256;
  config.rope.dims = 16;
  config.attention_scale = 0.25f;
  config.gated = true;
  return config;
}

struct FieldCase {
  const char* what;
  std::function<void(ModelConfig&, uint64_t)> set;
  uint64_t most;
  bool zero_is_good = false, one_is_good = true;
};

// A10: every field at 0, 1, max, max + 1.
TEST(ConfigTest, A10EveryFieldHasItsLimits) {
  const FieldCase cases[] = {
      {"num_layers", [](ModelConfig& c, uint64_t v) { c.num_layers = static_cast<uint32_t>(v); }, ConfigLimits::kLayers},
      {"hidden_size", [](ModelConfig& c, uint64_t v) { c.hidden_size = static_cast<uint32_t>(v); }, ConfigLimits::kHidden},
      {"embedding_size", [](ModelConfig& c, uint64_t v) { c.embedding_size = static_cast<uint32_t>(v); }, ConfigLimits::kHidden},
      {"ffn_size", [](ModelConfig& c, uint64_t v) { c.ffn_size = static_cast<uint32_t>(v); }, ConfigLimits::kFfn},
      {"num_heads", [](ModelConfig& c, uint64_t v) { c.num_heads = c.num_kv_heads = static_cast<uint32_t>(v); }, ConfigLimits::kHeads},
      {"num_kv_heads", [](ModelConfig& c, uint64_t v) { c.num_kv_heads = static_cast<uint32_t>(v); }, 4},
      {"head_dim",
       [](ModelConfig& c, uint64_t v) {
         c.rope.dims = 0;
         c.head_dim = static_cast<uint32_t>(v);
       },
       ConfigLimits::kHeadDim},
      {"vocab_size", [](ModelConfig& c, uint64_t v) { c.vocab_size = static_cast<uint32_t>(v); }, ConfigLimits::kVocab},
      {"max_context", [](ModelConfig& c, uint64_t v) { c.max_context = static_cast<uint32_t>(v); }, ConfigLimits::kContext},
      {"rope dimensions", [](ModelConfig& c, uint64_t v) { c.rope.dims = static_cast<uint32_t>(v); }, 16, true, false},
      {"sliding window", [](ModelConfig& c, uint64_t v) { c.layer_windows.assign(2, static_cast<uint32_t>(v)); }, ConfigLimits::kContext,
       true},
  };
  for (const FieldCase& field : cases) {
    for (const auto& [value, good] : {std::pair<uint64_t, bool>{0, field.zero_is_good}, {1, field.one_is_good}, {field.most, true},
                                      {field.most + 1, false}, {UINT32_MAX, false}}) {
      ModelConfig config = GoodConfig();
      field.set(config, value);
      const Status status = ValidateConfig(config, "m.gguf");
      EXPECT_EQ(status.has_value(), good) << field.what << " = " << value << (status ? "" : ": " + status.error().message);
      if (status) continue;
      EXPECT_EQ(status.error().code, ErrorCode::kBadModel);
      EXPECT_NE(status.error().message.find("m.gguf: "), std::string::npos);
    }
  }
}

TEST(ConfigTest, FieldsMustFitEachOther) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::pair<const char*, std::function<void(ModelConfig&)>> cases[] = {
      {"no multiple of num_kv_heads", [](ModelConfig& c) { c.num_kv_heads = 3; }},
      {"num_heads * head_dim", [](ModelConfig& c) { c.num_heads = 4096, c.num_kv_heads = 1, c.head_dim = 64; }},
      {"rope dimensions", [](ModelConfig& c) { c.rope.dims = 18; }},
      {"rope dimensions", [](ModelConfig& c) { c.has_local_rope = true, c.local_rope.dims = 17; }},
      {"rope_theta", [nan](ModelConfig& c) { c.rope.theta = nan; }},
      {"rope_theta", [](ModelConfig& c) { c.rope.theta = 0.0f; }},
      {"rope scaling factor", [](ModelConfig& c) { c.rope.scaling.kind = RopeScaling::Kind::kLinear, c.rope.scaling.factor = 0.0f; }},
      {"original context", [](ModelConfig& c) { c.rope.scaling.kind = RopeScaling::Kind::kYarn; }},
      {"high_freq_factor",
       [](ModelConfig& c) {
         c.rope.scaling.kind = RopeScaling::Kind::kLlama3;
         c.rope.scaling.original_context = 64;
         c.rope.scaling.low_frequency = c.rope.scaling.high_frequency;
       }},
      {"sliding windows of 3 layers", [](ModelConfig& c) { c.layer_windows.assign(3, 8); }},
      {"attention scale", [nan](ModelConfig& c) { c.attention_scale = nan; }},
      {"embedding scale", [](ModelConfig& c) { c.embedding_scale = -1.0f; }},
      {"norm epsilon", [](ModelConfig& c) { c.norm_epsilon = 0.0f; }},
      {"norm epsilon", [nan](ModelConfig& c) { c.norm_epsilon = nan; }},
      {"drelu asks for a gate",
       [](ModelConfig& c) {
         c.gated = false;
         c.activation.kind = ActivationKind::kDRelu;
       }},
      {"threshold", [nan](ModelConfig& c) { c.activation = {ActivationKind::kFatRelu, nan}; }},
      {"does not fit a model with a gate", [](ModelConfig& c) { c.ffn_layout = FfnLayout::kUpDown; }},
  };
  ASSERT_TRUE(ValidateConfig(GoodConfig(), "m.gguf"));
  for (const auto& [expected, spoil] : cases) {
    ModelConfig config = GoodConfig();
    spoil(config);
    const Status status = ValidateConfig(config, "m.gguf");
    ASSERT_FALSE(status) << expected;
    EXPECT_NE(status.error().message.find(expected), std::string::npos) << status.error().message;
  }
}

TEST(ConfigTest, ActivationsAreReadAsTheyAreWritten) {
  for (const char* text : {"relu", "relu2", "fatrelu:0.3", "fatrelu:0", "drelu", "silu", "gelu", "gelu_tanh"}) {
    const auto activation = ParseActivation(text);
    ASSERT_TRUE(activation) << text;
    EXPECT_EQ(ActivationName(*activation), text);
  }
  for (const char* text : {"", "rel", "relu:1", "fatrelu", "fatrelu:", "fatrelu:-1", "fatrelu:nan", "fatrelu:1x", "fatrelu:1e9"}) {
    EXPECT_FALSE(ParseActivation(text)) << text;
  }
}

TEST(ConfigTest, Llama3StretchesLongWavelengthsAlone) {
  Rope rope;
  rope.dims = 16;
  rope.theta = 500000.0f;
  rope.scaling.kind = RopeScaling::Kind::kLlama3;
  rope.scaling.factor = 8.0f;
  rope.scaling.original_context = 64;
  const std::vector<float> divisors = Llama3Divisors(rope);
  EXPECT_EQ(divisors.front(), 1.0f);
  EXPECT_EQ(divisors.back(), 8.0f);
  EXPECT_TRUE(std::is_sorted(divisors.begin(), divisors.end()));
}

TEST(ConfigTest, YarnKeepsFastPairsAndStretchesSlowOnes) {
  Rope rope;
  rope.dims = 64;
  const std::vector<float> plain = RopeFrequencies(rope);
  rope.scaling.kind = RopeScaling::Kind::kYarn;
  rope.scaling.factor = 20.0f;
  rope.scaling.original_context = 4096;
  const std::vector<float> scaled = RopeFrequencies(rope);
  EXPECT_EQ(scaled.front(), plain.front());
  EXPECT_NEAR(scaled.back() / plain.back(), 1.0 / 20.0, 1e-6);
}

// --- config.json

nlohmann::json Sizes(const char* model_type) {
  return {{"model_type", model_type}, {"vocab_size", 320}, {"hidden_size", 64}, {"num_hidden_layers", 3}, {"num_attention_heads", 4},
          {"intermediate_size", 192}, {"max_position_embeddings", 256}};
}

ModelConfig Parsed(const nlohmann::json& json) {
  const auto config = ParseHuggingFaceConfig(json, "config.json");
  if (!config) ADD_FAILURE() << config.error().message;
  return config ? *config : ModelConfig();
}

std::string ErrorOf(const nlohmann::json& json) {
  const auto config = ParseHuggingFaceConfig(json, "config.json");
  return config ? "no error" : config.error().message;
}

TEST(HuggingFaceConfigTest, FalconHasTransformersDefaults) {
  // As the published file of Falcon 7B, which leaves most keys out.
  const ModelConfig config = Parsed({{"model_type", "falcon"}, {"vocab_size", 320}, {"hidden_size", 64}, {"num_hidden_layers", 3},
                                     {"num_attention_heads", 4}, {"multi_query", true}, {"parallel_attn", true}});
  EXPECT_EQ(config.ffn_size, 256u);
  EXPECT_EQ(config.num_kv_heads, 1u);
  EXPECT_EQ(config.max_context, 2048u);
  EXPECT_EQ(config.activation.kind, ActivationKind::kGelu);
  EXPECT_EQ(config.rope.dims, 16u);
  EXPECT_TRUE(config.parallel());
  EXPECT_FALSE(config.has_ffn_norm);
  EXPECT_FALSE(config.has_output_matrix);
}

TEST(HuggingFaceConfigTest, BothTransformersVersionsMeanTheSame) {
  nlohmann::json four = Sizes("gemma3_text"), five = four;
  four.update({{"rope_theta", 1e6}, {"rope_local_base_freq", 20000.0}, {"rope_scaling", {{"rope_type", "linear"}, {"factor", 8.0}}},
               {"sliding_window_pattern", 3}, {"sliding_window", 8}});
  five.update({{"rope_parameters", {{"full_attention", {{"rope_theta", 1e6}, {"rope_type", "linear"}, {"factor", 8.0}}},
                                    {"sliding_attention", {{"rope_theta", 20000.0}, {"rope_type", "default"}}}}},
               {"layer_types", {"sliding_attention", "sliding_attention", "full_attention"}}, {"sliding_window", 8}});
  for (const nlohmann::json& json : {four, five}) {
    const ModelConfig config = Parsed(json);
    EXPECT_EQ(config.rope.theta, 1e6f);
    EXPECT_EQ(config.rope.scaling.kind, RopeScaling::Kind::kLinear);
    EXPECT_EQ(config.local_rope.theta, 20000.0f);
    EXPECT_EQ(config.local_rope.scaling.kind, RopeScaling::Kind::kNone);
    EXPECT_EQ(config.layer_windows, (std::vector<uint32_t>{8, 8, 0}));
    EXPECT_EQ(config.head_dim, 256u);
    EXPECT_EQ(config.embedding_scale, 8.0f);
  }
}

TEST(HuggingFaceConfigTest, SaysWhatAnArchitectureComputes) {
  nlohmann::json fatrelu = Sizes("sparsellama");
  fatrelu.update({{"hidden_act", "fatrelu"}, {"hidden_act_param", 0.3}});
  EXPECT_EQ(ActivationName(Parsed(fatrelu).activation), "fatrelu:0.3");
  nlohmann::json sparse = Sizes("llama_sparse_relu");
  sparse["hidden_act"] = "silu";
  EXPECT_EQ(Parsed(sparse).activation.kind, ActivationKind::kRelu);
  EXPECT_EQ(Parsed(Sizes("bamboo")).activation.kind, ActivationKind::kDRelu);
  nlohmann::json mistral = Sizes("mistral");
  EXPECT_EQ(Parsed(mistral).window(0), 4096u);
  mistral["sliding_window"] = nullptr;
  EXPECT_EQ(Parsed(mistral).window(0), 0u);
  nlohmann::json phi = Sizes("phi");
  phi["partial_rotary_factor"] = 0.5;
  EXPECT_EQ(Parsed(phi).rope.dims, 8u);
  EXPECT_EQ(Parsed(Sizes("persimmon")).head_norm, HeadNorm::kLayer);
  EXPECT_FALSE(Parsed(Sizes("arcee")).gated);
  nlohmann::json llama = Sizes("llama");
  llama["eos_token_id"] = {128001, 128008};
  EXPECT_EQ(Parsed(llama).eos_id, 128001);
}

TEST(HuggingFaceConfigTest, WhatIsNotSupportedIsNamed) {
  EXPECT_NE(ErrorOf({{"model_type", "bert"}}).find("model_type \"bert\""), std::string::npos);
  EXPECT_NE(ErrorOf(nlohmann::json::array()).find("expected a JSON object"), std::string::npos);
  const std::tuple<const char*, const char*, nlohmann::json, const char*> cases[] = {
      {"llama", "hidden_act", "tanh", "hidden_act \"tanh\""},
      {"llama", "num_local_experts", 8, "mixture-of-experts models are not supported yet"},
      {"llama", "num_attention_heads", 0, "num_heads is 0"},
      {"llama", "num_attention_heads", 5, "no multiple of num_heads"},
      {"llama", "num_attention_heads", -1, "num_attention_heads"},
      {"llama", "hidden_size", "64", "hidden_size"},
      {"llama", "num_hidden_layers", 1e30, "num_hidden_layers"},
      {"llama", "num_hidden_layers", uint64_t{1} << 63, "num_hidden_layers"},
      {"llama", "rope_scaling", {{"rope_type", "longrope"}}, "longrope"},
      {"llama", "rope_scaling", 3, "rope scaling"},
      {"llama", "rope_parameters", "x", "rope_parameters"},
      {"llama", "rope_theta", "x", "rope_theta"},
      {"llama", "tie_word_embeddings", 1, "tie_word_embeddings"},
      {"phi", "partial_rotary_factor", 1.5, "partial_rotary_factor"},
      {"falcon", "alibi", true, "alibi"},
      {"falcon", "parallel_attn", false, "parallel_attn"},
      {"gemma3_text", "final_logit_softcapping", 30.0, "final_logit_softcapping"},
      {"gemma3_text", "layer_types", {"full_attention"}, "layer_types"},
      {"gemma3_text", "layer_types", {"full_attention", "x", 3}, "layer_types"},
      {"opt", "enable_bias", false, "enable_bias"},
  };
  for (const auto& [model_type, key, value, expected] : cases) {
    nlohmann::json json = Sizes(model_type);
    json["ffn_dim"] = 256;
    json[key] = value;
    EXPECT_NE(ErrorOf(json).find(expected), std::string::npos) << model_type << ", " << key << ": " << ErrorOf(json);
  }
}

// --- keys of a GGUF

RawGguf LlamaGguf() {
  RawGguf raw;
  raw.keys = {{"general.architecture", 8, GgufText("llama")},
              {"llama.block_count", 4, BytesOf<uint32_t>(2)},
              {"llama.embedding_length", 4, BytesOf<uint32_t>(64)},
              {"llama.feed_forward_length", 4, BytesOf<uint32_t>(192)},
              {"llama.context_length", 4, BytesOf<uint32_t>(256)},
              {"llama.attention.head_count", 4, BytesOf<uint32_t>(4)},
              {"llama.attention.head_count_kv", 4, BytesOf<uint32_t>(2)},
              {"llama.attention.layer_norm_rms_epsilon", 6, BytesOf<float>(1e-5f)},
              {"llama.rope.freq_base", 6, BytesOf<float>(10000.0f)}};
  raw.tensors = {{"token_embd.weight", {64, 2}, 0, 0}};
  raw.data_bytes = 512;
  return raw;
}

Result<ModelConfig> ReadConfig(const RawGguf& raw, std::optional<Activation> activation = std::nullopt) {
  const std::string bytes = raw.Bytes();
  FRUGAL_ASSIGN(const GgufReader reader, GgufReader::Open(MakeMemorySource("m.gguf", std::as_bytes(std::span(bytes)))));
  return ReadGgufConfig(reader, activation);
}

TEST(GgufConfigTest, ReadsWhatLlamaCppWrites) {
  const auto config = ReadConfig(LlamaGguf());
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->vocab_size, 2u);  // no key: the embedding's rows
  EXPECT_EQ(config->head_dim, 16u);
  EXPECT_EQ(config->num_kv_heads, 2u);
  EXPECT_EQ(config->rope.pairs, RopePairs::kNeighbours);
  EXPECT_EQ(config->activation.kind, ActivationKind::kSilu);
  EXPECT_EQ(config->ffn_layout, FfnLayout::kMatrices);
  EXPECT_EQ(config->attention_scale, 0.25f);
  const auto relu = ReadConfig(LlamaGguf(), Activation{ActivationKind::kRelu, 0.0f});
  ASSERT_TRUE(relu);
  EXPECT_EQ(relu->activation.kind, ActivationKind::kRelu);
}

TEST(GgufConfigTest, FrugalsKeysSayWhatLlamaCppHasNoKeyFor) {
  RawGguf raw = LlamaGguf();
  raw.keys.push_back({"frugal.activation", 8, GgufText("fatrelu:0.3")});
  raw.keys.push_back({"frugal.rope_pairs", 8, GgufText("halves")});
  raw.keys.push_back({"frugal.layer_windows", 9,
                      BytesOf<uint32_t>(4) + BytesOf<uint64_t>(2) + BytesOf<uint32_t>(8) + BytesOf<uint32_t>(0)});
  const auto config = ReadConfig(raw);
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(ActivationName(config->activation), "fatrelu:0.3");
  EXPECT_EQ(config->rope.pairs, RopePairs::kHalves);
  EXPECT_EQ(config->layer_windows, (std::vector<uint32_t>{8, 0}));
}

// A9: each key with a value of another type, and without the key.
TEST(GgufConfigTest, A9KeysOfAnotherTypeAreNamed) {
  const RawGguf good = LlamaGguf();
  for (size_t i = 0; i < good.keys.size(); ++i) {
    RawGguf raw = good;
    raw.keys[i].type = 7;
    raw.keys[i].value = BytesOf<uint8_t>(1);
    const auto config = ReadConfig(raw);
    ASSERT_FALSE(config) << good.keys[i].key;
    EXPECT_EQ(config.error().code, ErrorCode::kBadModel);
    EXPECT_NE(config.error().message.find(good.keys[i].key), std::string::npos) << config.error().message;
  }
}

TEST(GgufConfigTest, A12OnePartOfASplitModel) {
  RawGguf raw = LlamaGguf();
  raw.keys.push_back({"split.count", 2, BytesOf<uint16_t>(1)});
  EXPECT_TRUE(ReadConfig(raw));
  raw.keys.back().value = BytesOf<uint16_t>(3);
  EXPECT_NE(ReadConfig(raw).error().message.find("split.count is 3: it is one of 3 parts"), std::string::npos);
}

TEST(GgufConfigTest, A10AbsurdValuesAreRefused) {
  const std::pair<const char*, uint32_t> cases[] = {
      {"llama.attention.head_count", 0},    {"llama.attention.head_count", 5},       {"llama.attention.head_count_kv", 0},
      {"llama.attention.head_count_kv", 3}, {"llama.embedding_length", 0},           {"llama.block_count", 0},
      {"llama.block_count", UINT32_MAX},    {"llama.feed_forward_length", UINT32_MAX}, {"llama.context_length", 0},
  };
  for (const auto& [key, value] : cases) {
    RawGguf raw = LlamaGguf();
    for (RawKey& each : raw.keys) {
      if (each.key == key) each.value = BytesOf<uint32_t>(value);
    }
    const auto config = ReadConfig(raw);
    ASSERT_FALSE(config) << key << " = " << value;
    EXPECT_EQ(config.error().code, ErrorCode::kBadModel);
  }
  RawGguf rope = LlamaGguf();
  rope.keys.push_back({"llama.rope.dimension_count", 4, BytesOf<uint32_t>(18)});
  EXPECT_FALSE(ReadConfig(rope));
  RawGguf experts = LlamaGguf();
  experts.keys.push_back({"llama.expert_count", 4, BytesOf<uint32_t>(0)});
  EXPECT_TRUE(ReadConfig(experts));
  experts.keys.back().value = BytesOf<uint32_t>(8);
  EXPECT_NE(ReadConfig(experts).error().message.find("llama.expert_count is 8: mixture-of-experts models are not supported yet"),
            std::string::npos);
  RawGguf unknown = LlamaGguf();
  unknown.keys[0].value = GgufText("mamba");
  EXPECT_NE(ReadConfig(unknown).error().message.find("\"mamba\" is not supported"), std::string::npos);
}

}  // namespace
}  // namespace frugal
