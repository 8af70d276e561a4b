// Ordinary GGUF files, run in place: logits and greedy ids against Hugging Face transformers in every mode, and the same bits whatever the
// mode, the budget, the reader, the threads and the batch.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "src/format/json_file.h"
#include "tests/support.h"

namespace frugal::testing {
namespace {

namespace fs = std::filesystem;

class GgufGoldenTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { golden_ = ReadGolden(fs::path(GetParam()).parent_path().string()); }

  EngineOptions Options(RunMode mode) const {
    EngineOptions options = TestOptions(GetParam());
    options.mode = mode;
    options.logit_rows = options.max_batch;
    // A GGUF has no key for a ReLU where llama.cpp knows another activation: the user says so.
    const std::string config_path = golden_.directory + "/config.json";
    const Result<nlohmann::json> json = ReadJsonFile(config_path);
    const auto config = json ? ParseHuggingFaceConfig(*json, config_path) : Result<ModelConfig>(json.error());
    if (!config) {
      ADD_FAILURE() << config.error().message;
      return options;
    }
    if (config->activation.is_sparse()) options.activation = config->activation;
    return options;
  }

  std::vector<float> Logits(const EngineOptions& options) const { return LogitsOf(options, golden_.sequences); }

  GoldenModel golden_;
};

TEST_P(GgufGoldenTest, AgreesWithTransformersInEveryMode) {
  for (const RunMode mode : {RunMode::kResident, RunMode::kNaive, RunMode::kHybrid, RunMode::kFlash}) {
    const EngineOptions options = Options(mode);
    const std::unique_ptr<Engine> engine = OpenOrFail(options);
    ASSERT_NE(engine, nullptr);
    double worst = 0;
    for (const GoldenSequence& sequence : golden_.sequences) {
      worst = std::max(worst, MaxDifference(AllLogits(*engine, sequence.input_ids, options.max_batch), sequence.logits));
      worst = std::max(worst, CheckGreedy(*engine, sequence));
    }
    EXPECT_LE(worst, golden_.tolerance) << golden_.name << ", " << RunModeName(mode);
  }
}

TEST_P(GgufGoldenTest, TheSameBitsUnderHostileSettings) {
  const std::vector<float> expected = Logits(Options(RunMode::kResident));
  const auto check = [&](const EngineOptions& options, const char* what) { ExpectSameBits(Logits(options), expected, what); };
  for (const RunMode mode : {RunMode::kNaive, RunMode::kHybrid, RunMode::kFlash}) check(Options(mode), RunModeName(mode));
  EngineOptions options = Options(RunMode::kNaive);
  options.io = IoBackend::kPread;
  options.direct = DirectMode::kOff;
  options.num_threads = 1;
  check(options, "pread, buffered, one thread");
  options = Options(RunMode::kHybrid);
  options.num_threads = 3;
  options.overlap = false;
  options.max_batch = options.logit_rows = 1;
  options.exact_batch = true;
  check(options, "three threads, no overlap, batches of one");
  // The smallest budget that works.
  options = Options(RunMode::kFlash);
  options.context = 64;
  options.max_batch = options.logit_rows = 5;
  options.ram_bytes = 1;
  const auto refused = Engine::Open(options);
  ASSERT_FALSE(refused);
  ASSERT_EQ(refused.error().code, ErrorCode::kDoesNotFit);
  const std::string& message = refused.error().message;
  options.ram_bytes = std::stoull(message.substr(message.find(" is ", message.find("context of")) + 4));
  check(options, "the smallest budget");
}

TEST_P(GgufGoldenTest, AnF16CacheStaysClose) {
  EngineOptions options = Options(RunMode::kFlash);
  options.kv_type = DType::kF16;
  std::vector<float> expected;
  for (const GoldenSequence& sequence : golden_.sequences) expected.insert(expected.end(), sequence.logits.begin(), sequence.logits.end());
  EXPECT_LT(RelativeRms(Logits(options), expected), 2e-2);
}

TEST_P(GgufGoldenTest, AttentionMayBeQuantisedAsItIsRead) {
  EngineOptions options = Options(RunMode::kResident);
  const std::vector<float> expected = Logits(options);
  options.resident_type = DType::kQ8_0;
  EXPECT_LT(RelativeRms(Logits(options), expected), 8e-2);
}

std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST_P(GgufGoldenTest, Version2IsReadAlike) {
  TemporaryDirectory directory;
  std::string bytes = ReadAll(GetParam());
  ASSERT_EQ(bytes[4], 3);
  bytes[4] = 2;  // which differs in nothing but the number
  EngineOptions options = Options(RunMode::kFlash);
  const std::vector<float> expected = Logits(options);
  options.model_path = directory.File("version2.gguf");
  std::ofstream(options.model_path, std::ios::binary) << bytes;
  EXPECT_EQ(Logits(options), expected);
}

TEST_P(GgufGoldenTest, AMissingTensorIsNamed) {
  TemporaryDirectory directory;
  std::string bytes = ReadAll(GetParam());
  const std::string name = "blk.1.ffn_down.weight";
  const size_t at = bytes.find(name);
  ASSERT_NE(at, std::string::npos);
  bytes[at] = 'x';
  const std::string path = directory.File("spoiled.gguf");
  std::ofstream(path, std::ios::binary) << bytes;
  const auto model = ModelFile::Open(path);
  ASSERT_FALSE(model);
  EXPECT_EQ(model.error().code, ErrorCode::kBadModel);
  EXPECT_NE(model.error().message.find(name + " is missing"), std::string::npos) << model.error().message;
}

std::string TestName(const ::testing::TestParamInfo<std::string>& info) {
  std::string name = fs::path(info.param).stem().string();
  for (char& c : name) {
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  }
  return name;
}

// Models with experts are not supported yet.
std::vector<std::string> GgufFiles() {
  std::vector<std::string> files;
  std::vector<fs::path> folders;
  for (const std::string& root : GoldenRoots()) {
    for (const fs::directory_entry& entry : fs::directory_iterator(root)) folders.push_back(entry.path());
  }
  for (const fs::path& folder : folders) {
    if (!fs::exists(folder / "golden.safetensors")) continue;
    for (const fs::directory_entry& file : fs::directory_iterator(folder)) {
      if (file.path().extension() != ".gguf" || IsRepeated(file.path())) continue;
      const Result<nlohmann::json> json = ReadJsonFile((folder / "config.json").string());
      const auto config = json ? ParseHuggingFaceConfig(*json, folder.string()) : Result<ModelConfig>(json.error());
      if (config) {
        files.push_back(file.path().string());
      } else {
        std::cout << "skipped " << file.path().filename() << ": " << config.error().message << "\n";
      }
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

INSTANTIATE_TEST_SUITE_P(Models, GgufGoldenTest, ::testing::ValuesIn(GgufFiles()), TestName);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(GgufGoldenTest);

}  // namespace
}  // namespace frugal::testing
