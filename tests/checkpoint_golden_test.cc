// Hugging Face checkpoints, run in place: logits and greedy ids against Hugging Face transformers in every mode, and the same bits whatever
// the mode, the budget, the reader, the threads, the batch, and where in how many files the tensors lie.
#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>

#include "src/format/gguf_writer.h"
#include "src/format/json_file.h"
#include "src/format/safetensors.h"
#include "tests/support.h"

namespace frugal::testing {
namespace {

namespace fs = std::filesystem;

bool IsWeights(const fs::path& file) {
  const std::string name = file.filename().string();
  return name.starts_with("model") || name.starts_with("pytorch_model");
}

// The checkpoint without its goldens, to be spoiled.
void CopyCheckpoint(const fs::path& from, const fs::path& to) {
  fs::create_directories(to);
  for (const fs::directory_entry& file : fs::directory_iterator(from)) {
    if (IsWeights(file.path()) || file.path().filename() == "config.json") fs::copy_file(file.path(), to / file.path().filename());
  }
}

class CheckpointGoldenTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { golden_ = ReadGolden(GetParam()); }

  EngineOptions Options(RunMode mode) const {
    EngineOptions options = TestOptions(GetParam());
    options.mode = mode;
    options.logit_rows = options.max_batch;
    return options;
  }
  std::vector<float> Logits(const EngineOptions& options) const { return LogitsOf(options, golden_.sequences); }

  GoldenModel golden_;
};

TEST_P(CheckpointGoldenTest, AgreesWithTransformersInEveryMode) {
  ExpectGoldenInEveryMode(golden_, [this](RunMode mode) { return Options(mode); });
  const auto model = ModelFile::Open(GetParam());
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_TRUE(model->unused_tensors().empty()) << model->unused_tensors().front();
}

TEST_P(CheckpointGoldenTest, TheSameBitsUnderHostileSettings) {
  ExpectSameBitsInPlace(golden_, [this](RunMode mode) { return Options(mode); });
}

// Sums have the same order where the packed model's FFN are matrices too, and rotated rows lie as in the checkpoint.
TEST_P(CheckpointGoldenTest, ThePackedModelsBits) {
  TemporaryDirectory directory;
  EngineOptions options = Options(RunMode::kResident);
  const std::vector<float> in_place = Logits(options);
  options.model_path = PackModel(GetParam(), directory);
  const std::vector<float> packed = Logits(options);
  const auto model = ModelFile::Open(options.model_path);
  ASSERT_TRUE(model) << model.error().message;
  const ModelConfig& config = model->config();
  if (model->has_bundles() || config.rope.pairs == RopePairs::kNeighbours) {
    EXPECT_LT(RelativeRms(in_place, packed), 1e-5);
  } else {
    ExpectSameBits(in_place, packed, "packed");
  }
}

TEST_P(CheckpointGoldenTest, AttentionMayBeQuantisedAsItIsRead) {
  EngineOptions options = Options(RunMode::kResident);
  const std::vector<float> expected = Logits(options);
  options.resident_type = DType::kQ8_0;
  EXPECT_LT(RelativeRms(Logits(options), expected), 8e-2);
}

// As downloads lie in Hugging Face's cache: every file is a link into blobs.
TEST_P(CheckpointGoldenTest, ACacheEntryIsRunInPlace) {
  TemporaryDirectory directory;
  const fs::path entry = directory.File("models--org--name"), snapshot = entry / "snapshots" / "0123abcd";
  CopyCheckpoint(GetParam(), entry / "blobs");
  fs::create_directories(snapshot);
  for (const fs::directory_entry& blob : fs::directory_iterator(entry / "blobs")) {
    const std::string name = blob.path().filename().string();
    fs::rename(blob.path(), entry / "blobs" / (name + "-hash"));
    fs::create_symlink(fs::path("../../blobs") / (name + "-hash"), snapshot / name);
  }
  fs::create_directories(entry / "refs");
  WriteAll(entry / "refs" / "main", "0123abcd\n");
  EngineOptions options = Options(RunMode::kNaive);
  const std::vector<float> expected = Logits(options);
  for (const fs::path& path : {entry, snapshot}) {
    options.model_path = path.string();
    ExpectSameBits(Logits(options), expected, path.string());
  }
}

// Blanks in front of the data: its tensors begin where no number of their type would lie in memory.
TEST_P(CheckpointGoldenTest, TensorsMayBeginAnywhere) {
  const fs::path weights = fs::path(GetParam()) / "model.safetensors";
  if (!fs::exists(weights)) GTEST_SKIP() << "not one file of safetensors";
  EngineOptions options = Options(RunMode::kResident);
  const std::vector<float> expected = Logits(options);
  const std::string bytes = ReadAllForTest(weights);
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof(length));
  for (const size_t blanks : {1, 7, 509}) {
    TemporaryDirectory directory;
    fs::copy_file(fs::path(GetParam()) / "config.json", directory.File("config.json"));
    std::string moved = bytes;
    moved.insert(sizeof(length) + length, blanks, ' ');
    const uint64_t moved_length = length + blanks;
    std::memcpy(moved.data(), &moved_length, sizeof(moved_length));
    WriteAll(directory.File("other-name.safetensors"), moved);
    options.model_path = directory.File("other-name.safetensors");
    for (const RunMode mode : {RunMode::kResident, RunMode::kNaive, RunMode::kHybrid}) {
      options.mode = mode;
      ExpectSameBits(Logits(options), expected, fmt::format("{} blanks, {}", blanks, RunModeName(mode)));
    }
  }
}

// As llama.cpp's converter writes a Persimmon: every tensor as the checkpoint has it, query, key and value fused head by head.
void WritePersimmonGguf(const std::string& from, const std::string& to) {
  const auto source = SafetensorsDirectory::Open(from).value();
  auto writer = GgufWriter::Open(to, Overwrite::kNo, 32).value();
  writer->AddString("general.architecture", "persimmon");
  const std::vector<std::pair<std::string, uint32_t>> keys = {
      {"block_count", 3},  {"embedding_length", 64},        {"feed_forward_length", 256}, {"attention.head_count", 4},
      {"vocab_size", 320}, {"attention.head_count_kv", 4}, {"context_length", 256},      {"rope.dimension_count", 8}};
  for (const auto& [key, value] : keys) writer->AddUint32("persimmon." + key, value);
  writer->AddFloat32("persimmon.attention.layer_norm_epsilon", 1e-5f);
  writer->AddFloat32("persimmon.rope.freq_base", 25000.0f);
  const std::vector<std::pair<std::string, std::string>> names = {
      {"model.embed_tokens.", "token_embd."},    {"model.final_layernorm.", "output_norm."},
      {"lm_head.", "output."},                   {"model.layers.", "blk."},
      {"self_attn.query_key_value.", "attn_qkv."}, {"self_attn.dense.", "attn_output."},
      {"self_attn.q_layernorm.", "attn_q_norm."}, {"self_attn.k_layernorm.", "attn_k_norm."},
      {"input_layernorm.", "attn_norm."},        {"post_attention_layernorm.", "ffn_norm."},
      {"mlp.dense_h_to_4h.", "ffn_up."},         {"mlp.dense_4h_to_h.", "ffn_down."}};
  for (const TensorInfo& tensor : source->tensors()) {
    std::string name = tensor.name;
    for (const auto& [part, renamed] : names) {
      const size_t at = name.find(part);
      if (at != std::string::npos) name.replace(at, part.size(), renamed);
    }
    writer->AddTensor(name, tensor.dtype, tensor.shape);
  }
  ASSERT_TRUE(writer->BeginData());
  const std::string bytes = ReadAllForTest(source->file_paths()[0]);
  for (size_t i = 0; i < source->tensors().size(); ++i) {
    const Extent& extent = source->tensors()[i].extent;
    ASSERT_TRUE(writer->WriteTensorPart(i, 0, std::as_bytes(std::span(bytes).subspan(extent.offset_bytes, extent.size_bytes))));
  }
  ASSERT_TRUE(writer->Finish());
}

TEST(FusedGgufTest, HeadsOfAPersimmonAreTakenApart) {
  const std::string directory = FindGolden("persimmon");
  if (!fs::exists(directory + "/model.safetensors")) GTEST_SKIP() << directory << " has no safetensors";
  const GoldenModel golden = ReadGolden(directory);
  TemporaryDirectory temporary;
  WritePersimmonGguf(directory, temporary.File("persimmon.gguf"));
  EngineOptions options = TestOptions(directory);
  options.logit_rows = options.max_batch;
  options.mode = RunMode::kNaive;
  const std::vector<float> expected = LogitsOf(options, golden.sequences);
  options.model_path = temporary.File("persimmon.gguf");
  for (const RunMode mode : {RunMode::kResident, RunMode::kNaive}) {
    options.mode = mode;
    ExpectSameBits(LogitsOf(options, golden.sequences), expected, RunModeName(mode));
  }
}

std::string TestName(const ::testing::TestParamInfo<std::string>& info) {
  std::string name = fs::path(info.param).filename().string();
  for (char& c : name) {
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  }
  return name;
}

// Models with experts are not supported yet.
std::vector<std::string> Checkpoints() {
  std::vector<std::string> found;
  std::vector<fs::path> folders;
  for (const std::string& root : GoldenRoots()) {
    for (const fs::directory_entry& entry : fs::directory_iterator(root)) folders.push_back(entry.path());
  }
  for (const fs::path& folder : folders) {
    if (!fs::exists(folder / "golden.safetensors") || folder.filename() == "tale") continue;
    std::vector<fs::path> weights;
    for (const fs::directory_entry& file : fs::directory_iterator(folder)) {
      if (IsWeights(file.path())) weights.push_back(file.path());
    }
    if (weights.empty() || IsRepeated(weights.front())) continue;
    const Result<nlohmann::json> json = ReadJsonFile((folder / "config.json").string());
    const auto config = json ? ParseHuggingFaceConfig(*json, folder.string()) : Result<ModelConfig>(json.error());
    if (config) {
      found.push_back(folder.string());
    } else {
      std::cout << "skipped " << config.error().message << "\n";
    }
  }
  std::sort(found.begin(), found.end());
  return found;
}

INSTANTIATE_TEST_SUITE_P(Models, CheckpointGoldenTest, ::testing::ValuesIn(Checkpoints()), TestName);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(CheckpointGoldenTest);

}  // namespace
}  // namespace frugal::testing
