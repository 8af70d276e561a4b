// What is left of an output when packing ends in any way.
#include <gtest/gtest.h>

#include <atomic>
#include <string>

#include "src/model/model_file.h"
#include "src/pack/pack.h"
#include "src/pack/pack_for_test.h"

namespace frugal {
namespace {

TEST(PackOutputTest, KeepsAnExistingFile) {
  const TempDir directory;
  const std::string output = directory.Write("model.gguf", "precious");
  PackOptions options = MakePackOptions(DataDir() + "opt", output);
  ExpectError(PackQuietly(options), ErrorCode::kUsage, "exists already");
  EXPECT_EQ(ReadAllForTest(output), "precious");
  options.overwrite = Overwrite::kYes;
  ASSERT_TRUE(PackQuietly(options).has_value());
  EXPECT_TRUE(ModelFile::Open(output).has_value());
}

int fault_countdown = 0;
int FailWhenCountedDown(const char*) { return fault_countdown-- == 0 ? 28 /*ENOSPC*/ : 0; }

// D9, D10: whichever operation fails, nothing is left and what was there stays.
TEST(PackOutputTest, LeavesNothingWhicheverOperationFails) {
  const TempDir directory;
  const std::string output = directory.File("model.gguf");
  PackOptions options = MakePackOptions(DataDir() + "opt", output);
  options.fault_hook_for_test = FailWhenCountedDown;
  int num_failures = 0;
  for (;; ++num_failures) {
    fault_countdown = num_failures;
    const auto report = PackQuietly(options);
    if (report.has_value()) break;
    EXPECT_EQ(report.error().code, ErrorCode::kIo) << report.error().message;
    ASSERT_TRUE(directory.empty()) << "operation " << num_failures << ": " << report.error().message;
  }
  EXPECT_GT(num_failures, 60);  // a write for each tensor at least
  EXPECT_TRUE(ModelFile::Open(output).has_value());
}

TEST(PackOutputTest, LeavesNothingWhenCancelled) {
  const TempDir directory;
  std::atomic<bool> cancel = false;
  PackOptions options = MakePackOptions(DataDir() + "opt", directory.File("model.gguf"));
  options.cancel = &cancel;
  const auto report = Pack(options, [&cancel](double share, std::string_view) { cancel = share > 0.5; });
  ExpectError(report, ErrorCode::kFailed, "interrupted");
  EXPECT_TRUE(directory.empty());
}

}  // namespace
}  // namespace frugal
