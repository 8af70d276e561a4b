// `frugal bench` of models of every kind: each has the rows that say something of it, and what is said below them.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/program.h"
#include "tests/support.h"

namespace frugal::testing {
namespace {

using Names = std::vector<std::string>;

class BenchTest : public ::testing::Test {
 protected:
  // Packs by the program, since --layout is its own.
  std::string Pack(const std::string& name, const Names& flags = {}) {
    const std::string packed = directory_.File("model.gguf");
    Names arguments = {FRUGAL_BINARY, "pack", FindGolden(name), "-o", packed};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    EXPECT_EQ(RunProgram(nullptr, arguments, directory_.File("pack.txt")).exit_code, 0) << ReadAllForTest(directory_.File("pack.txt.err"));
    return packed;
  }

  nlohmann::json Bench(const std::string& model, const Names& flags = {}) {
    Names arguments = {FRUGAL_BINARY, "bench",    model, "--ram", "9M",       "-c", "40",            "-t",  "2",      "--ids",
                       "2,17,5,9",    "--warm-up", "8",   "-n",    "12",       "--rounds", "1", "--row-seconds", "0.1", "--json",
                       directory_.File("bench.json")};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    EXPECT_EQ(RunProgram(nullptr, arguments, directory_.File("bench.txt")).exit_code, 0) << ReadAllForTest(directory_.File("bench.txt.err"));
    return nlohmann::json::parse(ReadAllForTest(directory_.File("bench.json")), nullptr, false);
  }
  bool Says(const std::string& text) const { return ReadAllForTest(directory_.File("bench.txt")).find(text) != std::string::npos; }

  static Names NamesOf(const nlohmann::json& json) {
    Names names;
    for (const nlohmann::json& row : json["rows"]) {
      EXPECT_TRUE(row["fits"].get<bool>()) << row.dump();
      EXPECT_GT(row["total_ms_median"].get<double>(), 0) << row.dump();
      EXPECT_GT(row["bare_loop_ms_median"].get<double>(), 0) << row.dump();
      names.push_back(row["name"]);
    }
    return names;
  }
  // Of a model that selects: the last row against hybrid, and its neurons.
  void ExpectGain(const nlohmann::json& json) const {
    EXPECT_GT(json["flash_against_hybrid"]["measured"].get<double>(), 0);
    EXPECT_GT(json["flash_against_hybrid"]["bare_loops_allow"].get<double>(), 0);
    EXPECT_TRUE(Says("\nflash against hybrid: "));
    const nlohmann::json& last = json["rows"].back();
    EXPECT_GT(last["active_neurons_per_token"].get<double>(), 0);
    EXPECT_LE(last["active_neurons_per_token"].get<double>(), last["chosen_neurons_per_token"].get<double>());
    EXPECT_EQ(json["new_neurons"]["tokens"], 12);  // of prompt and warm-up
    EXPECT_EQ(json["new_neurons"]["windows"].size(), 2u);
    EXPECT_GE(json["new_neurons"]["windows"][0]["measured"].get<double>(), json["new_neurons"]["windows"][1]["measured"].get<double>());
  }

  TemporaryDirectory directory_;
};

TEST_F(BenchTest, WithoutBundlesThereAreTheBaselinesAlone) {
  const std::string model = FindGolden("llama-silu-tied-rope3/llama-silu-tied-rope3-bf16.gguf");
  const nlohmann::json json = Bench(model);
  EXPECT_EQ(NamesOf(json), (Names{"naive", "hybrid"}));
  EXPECT_TRUE(json["flash_against_hybrid"].is_null());
  EXPECT_TRUE(json["new_neurons"].is_null());
  ASSERT_GE(json["streaming"].size(), 1u);
  EXPECT_EQ(json["streaming"][0]["name"], "naive");
  EXPECT_TRUE(Says("\nnaive streams "));
  const std::string output = directory_.File("no.txt");
  EXPECT_EQ(RunProgram(nullptr, {FRUGAL_BINARY, "bench", model, "--ids", "2", "--rows", "flash"}, output).exit_code, 2);
  EXPECT_NE(ReadAllForTest(output + ".err").find("it has no selector"), std::string::npos);
}

TEST_F(BenchTest, AGateThatIsAMatrixTakesThePredictorsPlace) {
  const nlohmann::json json = Bench(Pack("llama-relu", {"--layout", "gate+bundle2"}));
  EXPECT_EQ(NamesOf(json), (Names{"naive", "hybrid", "+ gate", "+ window", "+ bundling", "+ overlap"}));
  ExpectGain(json);
  for (const nlohmann::json& row : json["rows"]) EXPECT_TRUE(row["recall"].is_null()) << row.dump();
}

TEST_F(BenchTest, ASketchTakesThePredictorsPlaceAndItsRecallIsSampled) {
  const nlohmann::json json = Bench(Pack("llama-fatrelu", {"--layout", "bundle3"}), {"--selector", "sketch"});
  EXPECT_EQ(NamesOf(json), (Names{"naive", "hybrid", "+ gate sketch", "+ window", "+ bundling", "+ overlap"}));
  ExpectGain(json);
  EXPECT_GT(json["rows"].back()["recall"].get<double>(), 0.5);
}

TEST_F(BenchTest, ParallelBlocksHaveNoEarlyPrediction) {
  const std::string packed = Pack("phi-2-relu");
  TrainPredictors(packed);
  const nlohmann::json json = Bench(packed);
  EXPECT_EQ(NamesOf(json), (Names{"naive", "hybrid", "+ predictor", "+ window", "+ bundling", "+ overlap"}));
  ExpectGain(json);
  EXPECT_FALSE(json["new_neurons"]["windows"][0]["by_file"].is_null());
  EXPECT_EQ(NamesOf(Bench(packed, {"--rows", "hybrid,flash"})), (Names{"hybrid", "+ overlap"}));
}

}  // namespace
}  // namespace frugal::testing
