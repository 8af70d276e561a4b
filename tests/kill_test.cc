// pack and train killed at any moment leave no file under the final name, and a full disk is an error with nothing left behind.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <random>

#include "src/base/random.h"
#include "src/pack/check.h"
#include "tests/support.h"

namespace frugal::testing {
namespace {

namespace fs = std::filesystem;

pid_t Start(const std::vector<std::string>& arguments) {
  const pid_t child = fork();
  if (child == 0) {
    const int null = open("/dev/null", O_WRONLY);
    dup2(null, 1);
    dup2(null, 2);
    std::vector<char*> argv;
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    execv(argv[0], argv.data());
    _exit(127);
  }
  return child;
}

// Kills `arguments` after random times until a run finishes first; whatever lies under `output` at any time must be whole.
void KillUntilDone(const std::vector<std::string>& arguments, const std::string& output, uint64_t longest_us,
                   const std::function<void()>& expect_whole) {
  const uint64_t seed = std::random_device{}();
  std::cout << "seed " << seed << "\n";
  Random random(seed);
  int killed = 0;
  for (int round = 0; round < 60; ++round) {
    const pid_t child = Start(arguments);
    usleep(static_cast<useconds_t>(random.Below(longest_us)));
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    if (fs::exists(output)) {
      expect_whole();
      fs::remove(output);
    }
    if (WIFSIGNALED(status)) ++killed;
  }
  EXPECT_GT(killed, 0);
  int status = 0;
  waitpid(Start(arguments), &status, 0);
  ASSERT_EQ(WEXITSTATUS(status), 0);
  expect_whole();
}

TEST(KillTest, PackLeavesNothingPartial) {
  TemporaryDirectory directory;
  const std::string output = directory.File("killed.gguf");
  KillUntilDone({FRUGAL_BINARY, "pack", TaleDirectory(), "-o", output}, output, 250'000, [&] {
    const auto report = CheckModel(output, [](double, std::string_view) {});
    ASSERT_TRUE(report) << report.error().message;
    EXPECT_TRUE(report->problems.empty());
  });
}

TEST(KillTest, TrainLeavesNothingPartialAndResumes) {
  TemporaryDirectory directory;
  const std::string packed = PackModel(std::string(FRUGAL_SOURCE_DIR) + "/tests/data/models/opt", directory);
  const std::string output = DefaultPredictorPath(packed);
  KillUntilDone({FRUGAL_BINARY, "train", packed, "--tokens", "2048"}, output, 1'000'000, [&] {
    const ModelFile model = ModelFile::Open(packed).value();
    const auto info = PredictorFile::Inspect(output, model.config());
    ASSERT_TRUE(info) << info.error().message;
    EXPECT_TRUE(PredictorFile::Open(output, model.config(), info->model_content_hash, true));
  });
}

// A small file system of its own; skipped with the reason where it cannot be mounted.
TEST(KillTest, AFullDiskIsAnErrorWithNothingLeftBehind) {
  if (geteuid() != 0) GTEST_SKIP() << "skipped: needs root to mount a small file system";
  TemporaryDirectory directory;
  const std::string mount = directory.File("small");
  fs::create_directory(mount);
  if (std::system(("mount -t tmpfs -o size=4m tmpfs " + mount).c_str()) != 0) {
    GTEST_SKIP() << "skipped: cannot mount a tmpfs";
  }
  int status = 0;
  waitpid(Start({FRUGAL_BINARY, "pack", TaleDirectory(), "-o", mount + "/full.gguf"}), &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), 5);
  EXPECT_TRUE(fs::is_empty(mount));
  EXPECT_EQ(std::system(("umount " + mount).c_str()), 0);
}

}  // namespace
}  // namespace frugal::testing
