#include "src/pack/inspect.h"

#include <gtest/gtest.h>

#include <array>

#include "src/format/gguf_writer.h"
#include "src/pack/pack_for_test.h"

namespace frugal {
namespace {

const InspectedKey* FindKey(const Inspection& inspection, std::string_view name) {
  for (const InspectedKey& key : inspection.keys) {
    if (key.key == name) return &key;
  }
  return nullptr;
}

TEST(InspectTest, SummarisesAPackedModel) {
  const TempDir directory;
  const std::string path = directory.File("tale.gguf");
  const auto report = PackQuietly(MakePackOptions(TaleDir(), path));
  ASSERT_TRUE(report.has_value()) << report.error().message;
  const auto inspection = Inspect(path);
  ASSERT_TRUE(inspection.has_value()) << inspection.error().message;
  EXPECT_EQ(inspection->file_bytes, std::filesystem::file_size(path));
  EXPECT_EQ(inspection->alignment_bytes, 4096u);
  EXPECT_EQ(inspection->num_parameters, report->num_parameters);
  EXPECT_EQ(inspection->tensors.back().name, "frugal.hash_of_hashes");
  ASSERT_TRUE(inspection->packed.has_value());
  EXPECT_EQ(inspection->packed->content_hash, report->content_hash);
  EXPECT_EQ(inspection->packed->stride_bytes, 1024u);
  EXPECT_EQ(inspection->packed->bundle_bytes, 1024u);
  EXPECT_EQ(inspection->packed->ffn_bytes, 8u * 2048 * 1024);
  EXPECT_NEAR(inspection->packed->ffn_share, 0.7, 0.05);
  EXPECT_TRUE(inspection->packed->has_tokenizer);
  EXPECT_EQ(inspection->packed->num_tokens, 4096u);
  const InspectedKey* tokens = FindKey(*inspection, "tokenizer.ggml.tokens");
  ASSERT_NE(tokens, nullptr);
  EXPECT_EQ(tokens->type, "array of string");
  EXPECT_EQ(tokens->count, 4096u);
  EXPECT_EQ(tokens->value.size(), kMaxShownElements);
  const nlohmann::ordered_json json = ToJson(*inspection);
  EXPECT_EQ(json["packed"]["ffn_size"], 2048);
  EXPECT_EQ(json["packed"]["content_hash"], fmt::format("{:016x}", report->content_hash));
  EXPECT_EQ(json["tensors"].size(), inspection->tensors.size());
  EXPECT_FALSE(json.dump().empty());
}

TEST(InspectTest, ShowsACheckpoint) {
  const auto inspection = Inspect(DataDir() + "falcon-7b-relu-bin");
  ASSERT_TRUE(inspection.has_value()) << inspection.error().message;
  ASSERT_EQ(inspection->files.size(), 2u);
  EXPECT_EQ(inspection->file_bytes, std::filesystem::file_size(inspection->files[0]) + std::filesystem::file_size(inspection->files[1]));
  EXPECT_GT(inspection->num_parameters, 100000u);
  EXPECT_EQ(FindKey(*inspection, "model_type")->value, "falcon");
  EXPECT_EQ(FindKey(*inspection, "architectures")->count, 1u);
  ASSERT_TRUE(inspection->config.has_value());
  EXPECT_EQ(inspection->config->activation.kind, ActivationKind::kRelu);
  const nlohmann::ordered_json json = ToJson(*inspection);
  EXPECT_EQ(json["files"].size(), 2u);
  EXPECT_FALSE(json["file"].contains("gguf_version"));
  EXPECT_EQ(json["tensors"].back()["file"], 1);
  const auto alone = Inspect(DataDir() + "llama-relu/model.safetensors", Activation{ActivationKind::kFatRelu, 0.5f});
  ASSERT_TRUE(alone.has_value()) << alone.error().message;
  EXPECT_EQ(ActivationName(alone->config->activation), "fatrelu:0.5");
  ExpectError(Inspect(DataDir() + "absent"), ErrorCode::kIo, "absent");
}

TEST(InspectTest, ShowsEveryKindOfKeyOfAnyGguf) {
  const TempDir directory;
  const std::string path = directory.File("plain.gguf");
  auto writer = GgufWriter::Open(path, Overwrite::kNo, 32);
  ASSERT_TRUE(writer.has_value());
  (*writer)->AddUint64("a.u64", uint64_t{1} << 40);
  (*writer)->AddFloat32("a.float", 0.5f);
  (*writer)->AddBool("a.bool", true);
  (*writer)->AddString("a.string", std::string("line\nbreak") + std::string(1000, 'x'));
  (*writer)->AddInt32Array("a.ints", std::array{-1, 2, 3});
  (*writer)->AddInt32Array("a.none", {});
  (*writer)->AddFloat32Array("a.floats", std::vector<float>(20, 0.25f));
  (*writer)->AddTensor("t", DType::kF16, std::array<uint64_t, 2>{3, 5});
  ASSERT_TRUE((*writer)->BeginData().has_value());
  ASSERT_TRUE((*writer)->WriteTensorPart(0, 0, std::vector<std::byte>(30)).has_value());
  ASSERT_TRUE((*writer)->Finish().has_value());
  const auto inspection = Inspect(path);
  ASSERT_TRUE(inspection.has_value()) << inspection.error().message;
  EXPECT_FALSE(inspection->packed.has_value());
  EXPECT_EQ(inspection->num_parameters, 15u);
  EXPECT_EQ(FindKey(*inspection, "a.u64")->value, uint64_t{1} << 40);
  EXPECT_EQ(FindKey(*inspection, "a.float")->value, 0.5);
  EXPECT_EQ(FindKey(*inspection, "a.bool")->value, true);
  const std::string text = FindKey(*inspection, "a.string")->value;
  EXPECT_EQ(text.find('\n'), std::string::npos);
  EXPECT_LT(text.size(), 300u);
  EXPECT_EQ(FindKey(*inspection, "a.ints")->value, nlohmann::json({-1, 2, 3}));
  EXPECT_EQ(FindKey(*inspection, "a.none")->value, nlohmann::json::array());
  EXPECT_EQ(FindKey(*inspection, "a.none")->count, 0u);
  EXPECT_EQ(FindKey(*inspection, "a.floats")->value.size(), kMaxShownElements);
  EXPECT_EQ(FindKey(*inspection, "a.floats")->count, 20u);
  ExpectError(Inspect(directory.Write("empty.gguf", "")), ErrorCode::kBadModel, "is empty");
}

}  // namespace
}  // namespace frugal
