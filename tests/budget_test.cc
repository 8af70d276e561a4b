// A memory cgroup of exactly --ram: the program runs to the end in the smallest budget that `plan` names and in larger ones, and
// plan's peak is what was used, within 10% + 2 MiB and never below it. Needs root and a writable memory controller.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "src/base/bytes.h"
#include "tests/support.h"

namespace frugal::testing {
namespace {

namespace fs = std::filesystem;

bool WriteText(const fs::path& path, const std::string& text) {
  const int fd = open(path.c_str(), O_WRONLY);
  if (fd < 0) return false;
  const bool written = write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  close(fd);
  return written;
}

// A memory cgroup (v1 or v2) of its own, removed with the object.
class MemoryCgroup {
 public:
  // The reason why there can be none, or nothing.
  std::optional<std::string> Create(uint64_t limit_bytes) {
    if (geteuid() != 0) return "needs root";
    const std::string name = "frugal_test_" + std::to_string(getpid());
    const fs::path v1 = "/sys/fs/cgroup/memory";
    is_v1_ = fs::exists(v1 / "memory.limit_in_bytes");
    path_ = (is_v1_ ? v1 : fs::path("/sys/fs/cgroup")) / name;
    std::error_code error;
    fs::create_directory(path_, error);
    if (error) return "cannot create " + path_.string() + ": " + error.message();
    const std::string limit = std::to_string(limit_bytes);
    if (!WriteText(path_ / (is_v1_ ? "memory.limit_in_bytes" : "memory.max"), limit)) return "no memory controller in " + path_.string();
    if (!is_v1_) WriteText(path_ / "memory.swap.max", "0");
    return std::nullopt;
  }
  ~MemoryCgroup() {
    for (int tries = 0; tries < 100 && !path_.empty() && rmdir(path_.c_str()) != 0 && errno == EBUSY; ++tries) usleep(10'000);
  }
  void Enter() const { WriteText(path_ / "cgroup.procs", "0"); }
  // What is charged now without file cache: anonymous memory and kernel memory.
  uint64_t UsedBytes() const {
    std::ifstream stat(path_ / "memory.stat");
    std::string key;
    uint64_t value = 0, used = 0;
    while (stat >> key >> value) {
      if (is_v1_ ? key == "rss" : (key == "anon" || key == "kernel")) used += value;
    }
    if (is_v1_) {
      std::ifstream kernel(path_ / "memory.kmem.usage_in_bytes");
      if (kernel >> value) used += value;
    }
    return used;
  }

 private:
  fs::path path_;
  bool is_v1_ = false;
};

struct RunResult {
  int exit_code = -1;  // 128 + signal when killed
  uint64_t peak_bytes = 0;
};

RunResult RunInCgroup(const MemoryCgroup* cgroup, const std::vector<std::string>& arguments, const std::string& output) {
  const pid_t child = fork();
  if (child == 0) {
    if (cgroup != nullptr) cgroup->Enter();
    const int out = open(output.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    dup2(out, 1);
    const int err = open((output + ".err").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    dup2(err, 2);
    std::vector<char*> argv;
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    execv(argv[0], argv.data());
    _exit(127);
  }
  RunResult result;
  int status = 0;
  while (waitpid(child, &status, WNOHANG) == 0) {
    if (cgroup != nullptr) result.peak_bytes = std::max(result.peak_bytes, cgroup->UsedBytes());
    usleep(1000);
  }
  result.exit_code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  return result;
}

std::string ReadAll(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

class BudgetTest : public ::testing::Test {
 protected:
  nlohmann::json Plan(const std::string& packed, const std::vector<std::string>& flags) {
    std::vector<std::string> arguments = {FRUGAL_BINARY, "plan", packed, "--json"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    const std::string output = directory_.File("plan.json");
    const RunResult result = RunInCgroup(nullptr, arguments, output);
    EXPECT_EQ(result.exit_code, 0) << ReadAll(output + ".err");
    return nlohmann::json::parse(ReadAll(output), nullptr, false);
  }

  // In a cgroup of exactly that size; skips the test where there can be none.
  static std::optional<RunResult> RunWithin(uint64_t ram_bytes, const std::vector<std::string>& arguments, const std::string& output) {
    MemoryCgroup cgroup;
    if (const std::optional<std::string> reason = cgroup.Create(ram_bytes)) {
      std::cout << "skipped: " << *reason << "\n";
      SkipBecause(*reason);
      return std::nullopt;
    }
    return RunInCgroup(&cgroup, arguments, output);
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
    const std::optional<RunResult> run = RunWithin(ram_bytes, arguments, directory_.File("run.txt"));
    if (!run) return;
    const RunResult& result = *run;
    ASSERT_EQ(result.exit_code, 0) << ReadAll(directory_.File("run.txt.err"));
    const uint64_t planned = plan["peak_bytes"].get<uint64_t>();
    EXPECT_LE(planned, ram_bytes);
    EXPECT_LE(result.peak_bytes, planned) << "used more than planned";
    EXPECT_LE(planned, result.peak_bytes + result.peak_bytes / 10 + 2 * kMiB) << "planned far more than was used";
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
  const std::optional<RunResult> result =
      RunWithin(kRam, {FRUGAL_BINARY, "bench", packed, "--ram", std::to_string(kRam), "-c", "128", "-t", "2", "--ids", "2,17,5,9", "--warm-up",
                       "4", "-n", "20", "--rounds", "1", "--row-seconds", "0.1", "--prefill", "24", "--json", directory_.File("bench.json")},
                output);
  if (!result) return;
  ASSERT_EQ(result->exit_code, 0) << ReadAll(output + ".err");
  const nlohmann::json json = nlohmann::json::parse(ReadAll(directory_.File("bench.json")), nullptr, false);
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
  const RunResult result = RunInCgroup(
      nullptr, {FRUGAL_BINARY, "run", packed, "--ids", "2", "-c", "128", "--ram", std::to_string(smallest - 1)}, output);
  EXPECT_EQ(result.exit_code, 4) << ReadAll(output + ".err");
  EXPECT_NE(ReadAll(output + ".err").find(std::to_string(smallest)), std::string::npos) << ReadAll(output + ".err");
}

}  // namespace
}  // namespace frugal::testing
