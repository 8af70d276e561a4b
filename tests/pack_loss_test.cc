// The program measures what `pack` loses in perplexity where it converts weights, against the source: a GGUF where it lies, a checkpoint
// packed exactly; it prints and stores it, and measures nothing where that is not asked for and not cheap.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "src/base/bytes.h"
#include "tests/program.h"
#include "tests/support.h"

namespace frugal::testing {
namespace {

namespace fs = std::filesystem;

class PackLossTest : public ProgramTest {
 protected:
  // Names of what is in the directory beside the program's output.
  std::vector<std::string> Files() const {
    std::vector<std::string> names;
    for (const fs::directory_entry& file : fs::directory_iterator(fs::path(packed_).parent_path())) {
      const std::string name = file.path().filename().string();
      if (!name.starts_with("out") && name != "ids.txt") names.push_back(name);
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  // Of the first ids of a golden model, as `eval` measures it.
  double Perplexity(const std::string& model, const std::string& ids) {
    EXPECT_EQ(Run({"eval", model, "--mode", "resident", "--ids", ids, "--json"}), 0) << Errors();
    return Json()["perplexity"];
  }

  const std::string packed_ = directory_.File("packed.gguf");
};

TEST_F(PackLossTest, ACheckpointIsComparedWithItsExactPacking) {
  const std::string source = FindGolden("llama-relu");
  if (!fs::exists(source)) GTEST_SKIP() << source << " is not there";
  std::vector<int32_t> ids;
  for (const GoldenSequence& sequence : ReadGolden(source).sequences) {
    if (sequence.input_ids.size() > ids.size()) ids = sequence.input_ids;
  }
  ASSERT_GT(ids.size(), 4u);
  const std::string text = fmt::format("{}", fmt::join(ids, ","));
  std::ofstream(directory_.File("ids.txt")) << text;
  ASSERT_EQ(Run({"pack", source, "-o", packed_, "--type", "q4_0", "--measure-ids", directory_.File("ids.txt"), "--json"}), 0) << Errors();
  const nlohmann::json measured = Json()["perplexity"];
  EXPECT_EQ(measured["tokens"].get<size_t>(), ids.size() - 1);
  EXPECT_EQ(Files(), std::vector<std::string>{"packed.gguf"}) << "the exact one has gone";
  const double packed = measured["packed"], exact = measured["source"];
  EXPECT_NE(packed, exact);
  EXPECT_NEAR(measured["delta_percent"].get<double>(), 100 * (packed - exact) / exact, 1e-9);
  EXPECT_NEAR(Perplexity(packed_, text), packed, 1e-9 * packed);
  const std::string exact_path = directory_.File("exact.gguf");
  ASSERT_EQ(Run({"pack", source, "-o", exact_path}), 0) << Errors();
  EXPECT_NEAR(Perplexity(exact_path, text), exact, 1e-9 * exact);
  ASSERT_EQ(Run({"inspect", packed_}), 0) << Errors();
  EXPECT_NE(Output().find(fmt::format("perplexity {:.4f} -> {:.4f}", exact, packed)), std::string::npos) << Output();
  EXPECT_NE(Output().find("(ids:ids.txt), against the source"), std::string::npos) << Output();
  EXPECT_EQ(Run({"check", packed_}), 0) << "the header was rewritten, and its hash: " << Errors();
}

TEST_F(PackLossTest, WithoutATokenizerItIsSaidThatNothingWasMeasured) {
  const std::string source = FindGolden("llama-relu");
  if (!fs::exists(source)) GTEST_SKIP() << source << " is not there";
  ASSERT_EQ(Run({"pack", source, "-o", packed_, "--type", "q8_0", "--json"}), 0) << Errors();
  EXPECT_TRUE(Json()["perplexity"].is_null()) << Output();
  EXPECT_NE(Errors().find("perplexity was not measured: the model has no tokenizer"), std::string::npos) << Errors();
  const std::string text = directory_.File("out.txt");
  std::ofstream(text) << "Some words.\n";
  EXPECT_EQ(Run({"pack", source, "-o", packed_, "--force", "--type", "q8_0", "--measure", text}), 2);
  EXPECT_NE(Errors().find("--measure-ids"), std::string::npos) << Errors();
}

TEST_F(PackLossTest, FlagsThatMakeNoSenseAreUsageErrors) {
  const std::string source = TaleDirectory();
  const std::string text = directory_.File("out.txt");
  std::ofstream(text) << "Some words.\n";
  EXPECT_EQ(Run({"pack", source, "-o", packed_, "--measure", text}), 2);
  EXPECT_NE(Errors().find("--measure"), std::string::npos) << Errors();
  EXPECT_EQ(Run({"pack", source, "-o", packed_, "--type", "q8_0", "--measure", text, "--no-measure"}), 2);
  EXPECT_EQ(Run({"pack", source, "-o", packed_, "--type", "q8_0", "--measure", directory_.File("absent.txt")}), 5) << Errors();
  EXPECT_TRUE(Files().empty()) << "nothing is left of what could not be measured";
}

// Weights that the budget does not hold are streamed: the result is the same.
TEST_F(PackLossTest, ASmallBudgetMeasuresTheSame) {
  std::vector<nlohmann::json> measured;
  for (const char* ram : {"20M", "1G"}) {
    // The smaller one is kept: packing and both models in a memory cgroup of exactly that size.
    MemoryCgroup cgroup;
    const bool is_small = measured.empty();
    const std::optional<std::string> no_cgroup = is_small ? cgroup.Create(20 * kMiB) : std::nullopt;
    if (no_cgroup) std::cout << "without a memory cgroup: " << *no_cgroup << "\n";
    const ProgramResult result =
        RunProgram(is_small && !no_cgroup ? &cgroup : nullptr,
                   {FRUGAL_BINARY, "pack", TaleDirectory(), "-o", packed_, "--force", "--type", "q4_0", "--ram", ram, "--json"},
                   directory_.File("out"));
    ASSERT_EQ(result.exit_code, 0) << Errors();
    measured.push_back(Json()["perplexity"]);
    EXPECT_FALSE(measured.back().is_null()) << Errors();
    EXPECT_EQ(Files(), std::vector<std::string>{"packed.gguf"});
  }
  EXPECT_EQ(measured[0], measured[1]);
}

TEST_F(PackLossTest, ATrainedModelIsMeasuredOnTheBuiltInText) {
  ASSERT_EQ(Run({"pack", TaleDirectory(), "-o", packed_, "--type", "q4_0", "--json"}), 0) << Errors();
  const nlohmann::json measured = Json()["perplexity"];
  ASSERT_FALSE(measured.is_null()) << Errors();
  EXPECT_GT(measured["tokens"].get<int>(), 400);
  // Prose that it never saw; 4 bits cost some percent.
  EXPECT_GT(measured["source"].get<double>(), 20.0);
  EXPECT_LT(measured["source"].get<double>(), 2000.0);
  EXPECT_GT(measured["delta_percent"].get<double>(), 0.1);
  EXPECT_LT(measured["delta_percent"].get<double>(), 30.0);
  ASSERT_EQ(Run({"inspect", packed_}), 0) << Errors();
  EXPECT_NE(Output().find("(built in), against the source"), std::string::npos) << Output();
}

TEST_F(PackLossTest, AGgufIsMeasuredWhereItLies) {
  const std::string model = std::string(FRUGAL_SOURCE_DIR) + "/../shared/models/stories260k/stories260K.gguf";
  if (!fs::exists(model)) GTEST_SKIP() << model << " is not there";
  ASSERT_EQ(Run({"pack", model, "-o", packed_, "--layout", "gate+bundle2", "--type", "q8_0"}), 0) << Errors();
  EXPECT_NE(Output().find("against the source"), std::string::npos) << Output();
  EXPECT_EQ(Files(), std::vector<std::string>{"packed.gguf"});
  ASSERT_EQ(Run({"pack", model, "-o", packed_, "--force", "--layout", "gate+bundle2", "--type", "q8_0", "--no-measure"}), 0) << Errors();
  EXPECT_EQ(Output().find("perplexity"), std::string::npos) << Output();
  ASSERT_EQ(Run({"pack", model, "-o", packed_, "--force", "--type", "f32"}), 0) << Errors();
  EXPECT_EQ(Output().find("perplexity"), std::string::npos) << "nothing was lost: " << Output();
}

}  // namespace
}  // namespace frugal::testing
