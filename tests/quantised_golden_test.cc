// Quantised GGUF files, in place and packed: not worse than 1.2 times llama.cpp against transformers on the dequantised weights. Both
// quantise the inputs of their products too.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "src/format/json_file.h"
#include "src/pack/pack.h"
#include "tests/support.h"

namespace frugal::testing {
namespace {

namespace fs = std::filesystem;

// What a safetensors file says about itself.
std::string Metadata(const std::string& path, const char* key) {
  std::ifstream file(path, std::ios::binary);
  uint64_t size = 0;
  file.read(reinterpret_cast<char*>(&size), sizeof(size));
  std::string header(std::min<uint64_t>(size, 1 << 20), '\0');
  file.read(header.data(), static_cast<std::streamsize>(header.size()));
  return ParseJson(header, path).value()["__metadata__"].at(key).get<std::string>();
}

class QuantisedGoldenTest : public ::testing::TestWithParam<std::string> {
 protected:
  std::string golden_path() const {
    std::string path = GetParam();
    return path.replace(path.size() - 5, 5, ".golden.safetensors");
  }

  EngineOptions Options(const std::string& path, RunMode mode) const {
    EngineOptions options = TestOptions(path);
    options.mode = mode;
    options.logit_rows = options.max_batch;
    return options;
  }

  std::vector<float> Logits(const EngineOptions& options) const { return LogitsOf(options, ReadSequences(golden_path())); }

  // Relative rms of all logits in flash mode.
  double ErrorOf(const std::string& path) const {
    std::vector<float> expected;
    for (const GoldenSequence& sequence : ReadSequences(golden_path())) {
      expected.insert(expected.end(), sequence.logits.begin(), sequence.logits.end());
    }
    return RelativeRms(Logits(Options(path, RunMode::kFlash)), expected);
  }
  double Yardstick() const { return 1.2 * std::stod(Metadata(golden_path(), "llama_cpp_relative_rms")); }
};

TEST_P(QuantisedGoldenTest, IsNotWorseThanLlamaCpp) {
  const double error = ErrorOf(GetParam());
  EXPECT_LE(error, Yardstick());
  RecordProperty("relative_rms", std::to_string(error));
}

// Packed with a down projection that its blocks do not hinder, as a matrix and in bundles.
TEST_P(QuantisedGoldenTest, PackedWithAnotherDownTypeIsNotWorseThanLlamaCpp) {
  TemporaryDirectory directory;
  for (const std::optional<FfnLayout> layout : {std::optional<FfnLayout>(), std::optional(FfnLayout::kGateAndBundle2)}) {
    for (const DType down_type : {DType::kF16, DType::kF32}) {
      SCOPED_TRACE(fmt::format("{}, {}", layout ? FfnLayoutName(*layout) : "the layout of its kind", DTypeName(down_type)));
      PackOptions pack;
      pack.source_path = GetParam();
      pack.output_path = directory.File("packed.gguf");
      pack.overwrite = Overwrite::kYes;
      pack.layout = layout;
      pack.down_type = down_type;
      const auto report = Pack(pack, [](double, std::string_view) {});
      ASSERT_TRUE(report) << report.error().message;
      EXPECT_LE(ErrorOf(pack.output_path), Yardstick());
    }
  }
}

TEST_P(QuantisedGoldenTest, TheSameBitsInEveryModeAndPacked) {
  const std::vector<float> expected = Logits(Options(GetParam(), RunMode::kResident));
  const auto check = [&](const EngineOptions& options, const char* what) { ExpectSameBits(Logits(options), expected, what); };
  check(Options(GetParam(), RunMode::kNaive), "naive");
  check(Options(GetParam(), RunMode::kHybrid), "hybrid");
  EngineOptions options = Options(GetParam(), RunMode::kNaive);
  options.max_batch = options.logit_rows = 1;
  options.num_threads = 3;
  options.exact_batch = true;
  check(options, "token by token");
  TemporaryDirectory directory;
  PackOptions pack;
  pack.source_path = GetParam();
  pack.output_path = directory.File("packed.gguf");
  const auto report = Pack(pack, [](double, std::string_view) {});
  ASSERT_TRUE(report) << report.error().message;
  check(Options(pack.output_path, RunMode::kNaive), "packed, naive");
  check(Options(pack.output_path, RunMode::kFlash), "packed, flash");
}

std::string TestName(const ::testing::TestParamInfo<std::string>& info) {
  std::string name = fs::path(info.param).stem().string();
  for (char& c : name) {
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  }
  return name;
}

// Of dense models; what has a type that is not read is listed as skipped.
std::vector<std::string> QuantisedFiles() {
  std::vector<std::string> files;
  std::vector<fs::path> found;
  for (const std::string& root : GoldenRoots()) {
    std::error_code none;
    for (const fs::directory_entry& file : fs::directory_iterator(fs::path(root) / "quantised", none)) found.push_back(file.path());
  }
  for (const fs::path& file : found) {
    if (file.extension() != ".gguf" || !file.filename().string().starts_with("dense") || IsRepeated(file)) continue;
    const auto model = ModelFile::Open(file.string());
    if (model) {
      files.push_back(file.string());
    } else {
      std::cout << "skipped " << model.error().message << "\n";
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

INSTANTIATE_TEST_SUITE_P(Types, QuantisedGoldenTest, ::testing::ValuesIn(QuantisedFiles()), TestName);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(QuantisedGoldenTest);

}  // namespace
}  // namespace frugal::testing
