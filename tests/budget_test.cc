// A memory cgroup of exactly --ram: the program runs to the end in the smallest budget that `plan` names and in larger ones, though its
// code is not in memory yet, and plan's peak is what was used, code included, within 10% + 2 MiB and never below it. Needs root and a
// writable memory controller.
#include <gtest/gtest.h>

#include <iostream>
#include <nlohmann/json.hpp>

#include "src/base/bytes.h"
#include "src/engine/process_memory.h"
#include "tests/program.h"
#include "tests/support.h"

namespace frugal::testing {
namespace {

class BudgetTest : public ::testing::Test {
 protected:
  nlohmann::json Plan(const std::string& packed, const std::vector<std::string>& flags) {
    std::vector<std::string> arguments = {FRUGAL_BINARY, "plan", packed, "--json"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    const std::string output = directory_.File("plan.json");
    const ProgramResult result = RunProgram(nullptr, arguments, output);
    EXPECT_EQ(result.exit_code, 0) << ReadAllForTest(output + ".err");
    return nlohmann::json::parse(ReadAllForTest(output), nullptr, false);
  }

  // In a cgroup of exactly that size; skips the test where there can be none.
  static std::optional<ProgramResult> RunWithin(uint64_t ram_bytes, const std::vector<std::string>& arguments, const std::string& output) {
    MemoryCgroup cgroup;
    if (const std::optional<std::string> reason = cgroup.Create(ram_bytes)) {
      std::cout << "skipped: " << *reason << "\n";
      SkipBecause(*reason);
      return std::nullopt;
    }
    return RunProgram(&cgroup, arguments, output);
  }
  static void SkipBecause(const std::string& reason) { GTEST_SKIP() << reason; }

  // Runs in a cgroup of exactly `ram_bytes` and compares what was used with the plan.
  void ExpectRuns(const std::string& packed, uint64_t ram_bytes, std::vector<std::string> flags) {
    SCOPED_TRACE("--ram " + std::to_string(ram_bytes) + ", " + flags.back());
    flags.push_back("--ram");
    flags.push_back(std::to_string(ram_bytes));
    const nlohmann::json plan = Plan(packed, flags);
    std::vector<std::string> arguments = {FRUGAL_BINARY, "run", packed, "-n", "24", "--ids", "2,17,5,9,100", "--print-ids", "--ignore-eos"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    const std::optional<ProgramResult> run = RunWithin(ram_bytes, arguments, directory_.File("run.txt"));
    if (!run) return;
    const ProgramResult& result = *run;
    ASSERT_EQ(result.exit_code, 0) << ReadAllForTest(directory_.File("run.txt.err"));
    const uint64_t planned = plan["peak_bytes"].get<uint64_t>();
    EXPECT_LE(planned, ram_bytes);
    EXPECT_LE(result.peak_bytes, planned) << "used more than planned";
    // The cgroup has charged the code only as far as nobody else had it in memory.
    const uint64_t used = result.peak_bytes + kCodeBytes;
    EXPECT_LE(planned, used + used / 10 + 2 * kMiB) << "planned far more than was used";
    std::cout << "planned " << planned << ", used " << result.peak_bytes << " of " << ram_bytes << "\n";
  }

  TemporaryDirectory directory_;
};

TEST_F(BudgetTest, TheSmallestBudgetAndThreeLargerOnesAreKept) {
  const std::string packed = PackModel(TaleDirectory(), directory_);
  TrainPredictors(packed);
  for (const char* mode : {"flash", "hybrid", "naive"}) {
    const std::vector<std::string> flags = {"-c", "128", "-t", "2", "--mode", mode};
    std::vector<std::string> generous = flags;
    generous.insert(generous.end(), {"--ram", "200M"});
    const uint64_t smallest = Plan(packed, generous)["smallest_bytes"].get<uint64_t>();
    for (const uint64_t ram : {smallest, smallest + 2 * kMiB, smallest + 6 * kMiB, smallest + 20 * kMiB}) ExpectRuns(packed, ram, flags);
  }
}

// Files are read whole to make the tokenizer, and every shard is open.
TEST_F(BudgetTest, ACheckpointInPlaceKeepsItsBudget) {
  for (const char* mode : {"flash", "naive"}) {
    const std::vector<std::string> flags = {"-c", "128", "-t", "2", "--mode", mode};
    std::vector<std::string> generous = flags;
    generous.insert(generous.end(), {"--ram", "200M"});
    for (const std::string& model : {TaleDirectory(), FindGolden("opt-sharded")}) {
      const uint64_t smallest = Plan(model, generous)["smallest_bytes"].get<uint64_t>();
      for (const uint64_t ram : {smallest, smallest + 2 * kMiB, smallest + 30 * kMiB}) ExpectRuns(model, ram, flags);
    }
  }
}

// It is filled before the first token, through slots and buffers that the budget has anyway.
TEST_F(BudgetTest, ASketchIsPartOfTheBudget) {
  const std::string packed = PackModel(TaleDirectory(), directory_);
  const std::vector<std::string> flags = {"-c", "128", "-t", "2", "--selector", "sketch"};
  std::vector<std::string> generous = flags;
  generous.insert(generous.end(), {"--ram", "200M"});
  const uint64_t smallest = Plan(packed, generous)["smallest_bytes"].get<uint64_t>();
  for (const uint64_t ram : {smallest, smallest + 2 * kMiB, smallest + 20 * kMiB}) ExpectRuns(packed, ram, flags);
}

// Engines of all rows follow each other in one process: what the one before gave back must not count twice.
TEST_F(BudgetTest, BenchRunsInACgroupOfExactlyItsBudget) {
  const std::string packed = PackModel(TaleDirectory(), directory_);
  TrainPredictors(packed);
  constexpr uint64_t kRam = 16 * kMiB;
  const std::string output = directory_.File("bench.txt");
  const std::optional<ProgramResult> result =
      RunWithin(kRam, {FRUGAL_BINARY, "bench", packed, "--ram", std::to_string(kRam), "-c", "128", "-t", "2", "--ids", "2,17,5,9", "--warm-up",
                       "4", "-n", "20", "--rounds", "1", "--row-seconds", "0.1", "--prefill", "24", "--json", directory_.File("bench.json")},
                output);
  if (!result) return;
  ASSERT_EQ(result->exit_code, 0) << ReadAllForTest(output + ".err");
  const nlohmann::json json = nlohmann::json::parse(ReadAllForTest(directory_.File("bench.json")), nullptr, false);
  ASSERT_EQ(json["rows"].size(), 7u);
  for (const nlohmann::json& row : json["rows"]) {
    EXPECT_TRUE(row["fits"].get<bool>()) << row.dump();
    EXPECT_GT(row["total_ms_median"].get<double>(), 0) << row.dump();
  }
  ASSERT_EQ(json["prefill"].size(), 2u);
  for (const nlohmann::json& row : json["prefill"]) EXPECT_GT(row["needed_flops"].get<double>(), 0) << row.dump();
}

TEST_F(BudgetTest, OneByteLessThanTheSmallestIsRefusedBeforeAnyWeightIsRead) {
  const std::string packed = PackModel(TaleDirectory(), directory_);
  const uint64_t smallest = Plan(packed, {"--ram", "200M", "-c", "128"})["smallest_bytes"].get<uint64_t>();
  const std::string output = directory_.File("refused.txt");
  const ProgramResult result = RunProgram(
      nullptr, {FRUGAL_BINARY, "run", packed, "--ids", "2", "-c", "128", "--ram", std::to_string(smallest - 1)}, output);
  EXPECT_EQ(result.exit_code, 4) << ReadAllForTest(output + ".err");
  EXPECT_NE(ReadAllForTest(output + ".err").find(std::to_string(smallest)), std::string::npos) << ReadAllForTest(output + ".err");
}

}  // namespace
}  // namespace frugal::testing
