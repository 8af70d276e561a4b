// Real models from their published GGUF files, in place, end to end: the program continues each prompt in a memory cgroup of exactly
// --ram, once in 60% of the file's size, process and KV cache included, and once in the smallest budget that `plan` names.
//
// FRUGAL_REAL_MODELS names the directory of the GGUF files; a reference (NAME.json: the greedy ids of Hugging Face transformers on the
// dequantised weights, with the gap between the two best logits at each step) lies beside them or in a golden root's real/.
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <iostream>
#include <nlohmann/json.hpp>

#include "src/format/json_file.h"
#include "tests/program.h"
#include "tests/support.h"

namespace frugal::testing {
namespace {

namespace fs = std::filesystem;

// Two right engines round differently: they may choose different tokens where the two best logits are that close.
constexpr double kCloseGap = 0.5;
constexpr double kShareOfFile = 0.6;

class RealModelsTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const Result<nlohmann::json> reference = ReadJsonFile(GetParam());
    ASSERT_TRUE(reference) << reference.error().message;
    reference_ = *reference;
    path_ = (fs::path(std::getenv("FRUGAL_REAL_MODELS")) / reference_["file"].get<std::string>()).string();
    if (!fs::exists(path_)) GTEST_SKIP() << path_ << " is not there";
  }

  nlohmann::json Plan() const {
    const std::string output = directory_.File("plan.json");
    const ProgramResult result = RunProgram(nullptr, {FRUGAL_BINARY, "plan", path_, "--json", "--ram", "4G"}, output);
    EXPECT_EQ(result.exit_code, 0) << ReadAllForTest(output + ".err");
    return nlohmann::json::parse(ReadAllForTest(output), nullptr, false);
  }

  // The ids that the program continues the prompt with.
  std::vector<int32_t> Continue(const nlohmann::json& prompt, size_t count, uint64_t ram_bytes) const {
    const std::string output = directory_.File("run.txt");
    const std::vector<std::string> arguments = {FRUGAL_BINARY, "run", path_, "-p", prompt.get<std::string>(), "-n", std::to_string(count),
                                                "--temp", "0", "--ignore-eos", "--print-ids", "--ram", std::to_string(ram_bytes)};
    MemoryCgroup cgroup;
    const std::optional<std::string> no_cgroup = cgroup.Create(ram_bytes);
    if (no_cgroup) std::cout << "without a memory cgroup: " << *no_cgroup << "\n";
    const ProgramResult result = RunProgram(no_cgroup ? nullptr : &cgroup, arguments, output);
    EXPECT_EQ(result.exit_code, 0) << "--ram " << ram_bytes << ": " << ReadAllForTest(output + ".err");
    EXPECT_LE(result.peak_bytes, ram_bytes);
    // "1,2,3" is JSON but for its brackets.
    const nlohmann::json ids = nlohmann::json::parse("[" + ReadAllForTest(output) + "]", nullptr, false);
    if (!ids.is_array()) return {};
    return ids.get<std::vector<int32_t>>();
  }

  // Up to the first difference, which must be at a close choice: what follows continues another text.
  static void ExpectGreedy(const std::vector<int32_t>& got, const nlohmann::json& example) {
    const auto expected = example["float32_greedy_ids"].get<std::vector<int32_t>>();
    const auto gaps = example["float32_top2_gaps"].get<std::vector<double>>();
    ASSERT_EQ(got.size(), expected.size()) << example["prompt"];
    ASSERT_EQ(gaps.size(), expected.size()) << example["prompt"];
    const size_t at = static_cast<size_t>(std::mismatch(got.begin(), got.end(), expected.begin()).first - got.begin());
    if (at == got.size()) return;
    EXPECT_LT(gaps[at], kCloseGap) << example["prompt"] << ": id " << at << " is " << got[at] << ", expected " << expected[at];
    std::cout << example["prompt"] << ": parts at id " << at << " of " << got.size() << ", gap " << gaps[at] << "\n";
  }

  nlohmann::json reference_;
  std::string path_;
  TemporaryDirectory directory_;
};

TEST_P(RealModelsTest, GreedyIdsWithin60PercentOfTheFileAndInTheSmallestBudget) {
  const uint64_t share_bytes = static_cast<uint64_t>(kShareOfFile * static_cast<double>(fs::file_size(path_)));
  const nlohmann::json plan = Plan();
  ASSERT_TRUE(plan.is_object());
  EXPECT_LE(plan["smallest_bytes"].get<uint64_t>(), share_bytes) << "with the whole context";
  const uint64_t smallest_bytes = plan["smallest_with_reduced_context_bytes"].get<uint64_t>();
  std::cout << reference_["model"] << ": 60% of the file is " << share_bytes << " B, the smallest budget is " << smallest_bytes << " B\n";
  for (const nlohmann::json& example : reference_["cases"]) {
    const size_t count = example["float32_greedy_ids"].size();
    const std::vector<int32_t> ids = Continue(example["prompt"], count, share_bytes);
    ExpectGreedy(ids, example);
    EXPECT_EQ(Continue(example["prompt"], count, smallest_bytes), ids) << example["prompt"] << ": the budget changed the result";
  }
}

std::vector<std::string> References() {
  std::vector<std::string> found;
  const char* const models = std::getenv("FRUGAL_REAL_MODELS");
  if (models == nullptr) return found;
  for (const fs::path& folder : {fs::path(models), fs::path(FindGolden("real"))}) {
    std::error_code error;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
      if (entry.path().extension() != ".json") continue;
      const Result<nlohmann::json> json = ReadJsonFile(entry.path().string());
      if (json && json->contains("file") && json->contains("cases")) found.push_back(entry.path().string());
    }
  }
  std::sort(found.begin(), found.end());
  return found;
}

std::string TestName(const ::testing::TestParamInfo<std::string>& info) {
  std::string name = fs::path(info.param).stem().string();
  std::replace_if(name.begin(), name.end(), [](unsigned char c) { return !std::isalnum(c); }, '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Models, RealModelsTest, ::testing::ValuesIn(References()), TestName);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(RealModelsTest);

TEST(RealModelsSetupTest, ModelsAreThere) {
  if (References().empty()) GTEST_SKIP() << "FRUGAL_REAL_MODELS names no directory of real GGUF files with their references";
}

}  // namespace
}  // namespace frugal::testing
