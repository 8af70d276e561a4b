#include "src/format/output_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <vector>

#include "src/base/bytes.h"
#include "src/base/temp_dir_for_test.h"

namespace frugal {
namespace {

std::span<const std::byte> Bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

TEST(OutputFileTest, AppearsOnlyWhenCommitted) {
  TempDir dir;
  const std::string path = dir.File("out");
  auto file = OutputFile::Open(path, Overwrite::kNo).value();
  ASSERT_TRUE(file->Reserve(10));
  ASSERT_TRUE(file->Write(3, Bytes("abc"), "text"));
  EXPECT_NE(access(path.c_str(), F_OK), 0);
  EXPECT_EQ(access((path + ".tmp").c_str(), F_OK), 0);
  ASSERT_TRUE(file->Commit());
  EXPECT_EQ(ReadAllForTest(path), std::string("\0\0\0abc\0\0\0\0", 10));
  EXPECT_NE(access((path + ".tmp").c_str(), F_OK), 0);
}

TEST(OutputFileTest, DestroyedItLeavesNothing) {
  TempDir dir;
  {
    auto file = OutputFile::Open(dir.File("out"), Overwrite::kNo).value();
    ASSERT_TRUE(file->Write(0, Bytes("abc"), "text"));
  }
  EXPECT_TRUE(dir.empty());
}

TEST(OutputFileTest, AnExistingFileIsReplacedOnlyWhenAsked) {
  TempDir dir;
  const std::string path = dir.Write("out", "old");
  const auto refused = OutputFile::Open(path, Overwrite::kNo);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kUsage);
  EXPECT_EQ(refused.error().message, path + ": exists already");
  EXPECT_NE(access((path + ".tmp").c_str(), F_OK), 0);
  auto file = OutputFile::Open(path, Overwrite::kYes).value();
  ASSERT_TRUE(file->Write(0, Bytes("new"), "text"));
  EXPECT_EQ(ReadAllForTest(path), "old");
  ASSERT_TRUE(file->Commit());
  EXPECT_EQ(ReadAllForTest(path), "new");
}

TEST(OutputFileTest, AFileThatAppearsMeanwhileIsKept) {
  TempDir dir;
  {
    auto file = OutputFile::Open(dir.File("out"), Overwrite::kNo).value();
    dir.Write("out", "somebody else's");
    const Status committed = file->Commit();
    ASSERT_FALSE(committed);
    EXPECT_NE(committed.error().message.find(std::strerror(EEXIST)), std::string::npos)
        << committed.error().message;
  }
  EXPECT_EQ(ReadAllForTest(dir.File("out")), "somebody else's");
  EXPECT_NE(access(dir.File("out.tmp").c_str(), F_OK), 0);
}

TEST(OutputFileTest, PathsThatCannotBeFiles) {
  TempDir dir;
  const auto expect = [](const std::string& path, ErrorCode code) {
    const auto opened = OutputFile::Open(path, Overwrite::kYes);
    ASSERT_FALSE(opened) << path;
    EXPECT_EQ(opened.error().code, code) << opened.error().message;
  };
  ASSERT_EQ(mkfifo(dir.File("fifo").c_str(), 0600), 0);
  ASSERT_EQ(mkfifo(dir.File("x.tmp").c_str(), 0600), 0);
  ASSERT_EQ(symlink("victim", dir.File("y.tmp").c_str()), 0);
  expect("", ErrorCode::kUsage);
  expect(dir.path() + "/", ErrorCode::kUsage);
  expect(dir.path(), ErrorCode::kUsage);
  expect(dir.File("fifo"), ErrorCode::kUsage);
  expect(dir.File("x"), ErrorCode::kUsage);
  expect(dir.File("y"), ErrorCode::kIo);
  expect(dir.File("absent/z"), ErrorCode::kIo);
  EXPECT_NE(access(dir.File("victim").c_str(), F_OK), 0);
}

TEST(OutputFileTest, AStaleTemporaryFileIsReused) {
  TempDir dir;
  dir.Write("out.tmp", "left by somebody who was killed");
  auto file = OutputFile::Open(dir.File("out"), Overwrite::kNo).value();
  ASSERT_TRUE(file->Reserve(4));
  ASSERT_TRUE(file->Commit());
  EXPECT_EQ(ReadAllForTest(dir.File("out")), std::string(4, '\0'));
}

TEST(OutputFileTest, D18TwoWritersInOneProcess) {
  TempDir dir;
  auto first = OutputFile::Open(dir.File("out"), Overwrite::kNo).value();
  const auto second = OutputFile::Open(dir.File("out"), Overwrite::kNo);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kFailed);
  EXPECT_NE(second.error().message.find("is being written already"), std::string::npos)
      << second.error().message;
  ASSERT_TRUE(first->Commit());  // the refused one has not taken its temporary file away
}

TEST(OutputFileTest, D18ASecondProcessIsToldThePidOfTheFirst) {
  TempDir dir;
  int ready[2];
  int go_on[2];
  ASSERT_EQ(pipe(ready), 0);
  ASSERT_EQ(pipe(go_on), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    close(go_on[1]);
    auto file = OutputFile::Open(dir.File("out"), Overwrite::kNo);
    char byte = 0;
    if (!file || write(ready[1], "r", 1) != 1 || read(go_on[0], &byte, 1) < 0) _exit(1);
    _exit((*file)->Commit() ? 0 : 2);
  }
  close(ready[1]);
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  const auto second = OutputFile::Open(dir.File("out"), Overwrite::kNo);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kFailed);
  EXPECT_NE(second.error().message.find(fmt::format("process {}", child)), std::string::npos)
      << second.error().message;
  close(go_on[1]);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(access(dir.File("out").c_str(), F_OK), 0);
  close(ready[0]);
  close(go_on[0]);
}

TEST(OutputFileTest, D11AKilledWriterLeavesOnlyTheTemporaryFile) {
  TempDir dir;
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    auto file = OutputFile::Open(dir.File("out"), Overwrite::kNo);
    if (!file || !(*file)->Write(0, Bytes("half"), "text")) _exit(1);
    raise(SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_NE(access(dir.File("out").c_str(), F_OK), 0);
  EXPECT_EQ(ReadAllForTest(dir.File("out.tmp")), "half");
  auto next = OutputFile::Open(dir.File("out"), Overwrite::kNo);
  ASSERT_TRUE(next) << next.error().message;
  ASSERT_TRUE((*next)->Commit());
}

// The hook is a plain function, so that what it counts lies here.
int operations_left = 0;
int injected_errno = 0;
std::vector<std::string> operations;
int CountDown(const char* operation) {
  operations.emplace_back(operation);
  return operations_left-- == 0 ? injected_errno : 0;
}

Status WriteAll(const std::string& path, Overwrite overwrite) {
  FRUGAL_ASSIGN(const auto file, OutputFile::Open(path, overwrite));
  file->set_fault_hook_for_test(CountDown);
  FRUGAL_TRY(file->Reserve(100));
  FRUGAL_TRY(file->Write(0, Bytes("first"), "text"));
  FRUGAL_TRY(file->Write(90, Bytes("last"), "text"));
  return file->Commit();
}

TEST(OutputFileTest, D9D10EveryOperationMayFail) {
  injected_errno = EIO;
  for (int n = 0;; ++n) {
    SCOPED_TRACE(n);
    TempDir dir;
    operations.clear();
    operations_left = n;
    const Status written = WriteAll(dir.File("out"), Overwrite::kNo);
    if (written) {
      EXPECT_EQ(operations, (std::vector<std::string>{"statvfs", "fallocate", "write", "write", "fsync",
                                                      "close", "rename", "fsync directory"}));
      EXPECT_EQ(n, 8);
      break;
    }
    EXPECT_EQ(written.error().code, ErrorCode::kIo);
    EXPECT_TRUE(written.error().message.starts_with(dir.File("out") + ": ")) << written.error().message;
    EXPECT_NE(written.error().message.find(std::strerror(EIO)), std::string::npos) << written.error().message;
    EXPECT_TRUE(dir.empty());
  }
}

TEST(OutputFileTest, D9TheOldFileSurvivesAFailure) {
  injected_errno = ENOSPC;
  for (int n = 0; n < 7; ++n) {  // all but the sync of the directory, which comes after the replacement
    TempDir dir;
    const std::string path = dir.Write("out", "old");
    operations_left = n;
    ASSERT_FALSE(WriteAll(path, Overwrite::kYes));
    EXPECT_EQ(ReadAllForTest(path), "old") << n;
    EXPECT_NE(access((path + ".tmp").c_str(), F_OK), 0);
  }
}

TEST(OutputFileTest, InterruptedCallsAreRepeated) {
  injected_errno = EINTR;
  for (const int n : {1, 2, 3}) {  // fallocate and the writes
    TempDir dir;
    operations_left = n;
    EXPECT_TRUE(WriteAll(dir.File("out"), Overwrite::kNo)) << n;
    EXPECT_EQ(ReadAllForTest(dir.File("out")).substr(90), std::string("last\0\0\0\0\0\0", 10));
  }
}

TEST(OutputFileTest, WorksWithoutFallocate) {
  injected_errno = EOPNOTSUPP;
  operations_left = 1;
  TempDir dir;
  ASSERT_TRUE(WriteAll(dir.File("out"), Overwrite::kNo));
  EXPECT_EQ(ReadAllForTest(dir.File("out")).size(), 100u);
}

TEST(OutputFileTest, AfterAFailureNothingElseWorks) {
  injected_errno = EIO;
  operations_left = 0;
  TempDir dir;
  auto file = OutputFile::Open(dir.File("out"), Overwrite::kNo).value();
  file->set_fault_hook_for_test(CountDown);
  ASSERT_FALSE(file->Write(0, Bytes("x"), "text"));
  ASSERT_FALSE(file->Write(0, Bytes("x"), "text"));
  ASSERT_FALSE(file->Commit());
  EXPECT_NE(access(dir.File("out").c_str(), F_OK), 0);
}

TEST(OutputFileTest, D9SpaceIsAskedForBeforeAnythingIsWritten) {
  TempDir dir;
  auto file = OutputFile::Open(dir.File("out"), Overwrite::kNo).value();
  const Status reserved = file->Reserve(uint64_t{1} << 60);
  ASSERT_FALSE(reserved);
  EXPECT_EQ(reserved.error().code, ErrorCode::kIo);
  EXPECT_NE(reserved.error().message.find("needs 1152921504606846976 bytes"), std::string::npos)
      << reserved.error().message;
  EXPECT_NE(reserved.error().message.find("are free"), std::string::npos) << reserved.error().message;
}

// In a child, since limits and mounts stay.
TEST(OutputFileTest, D9FilesLargerThanTheProcessMayWrite) {
  TempDir dir;
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {1000, 1000};
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) _exit(1);
    auto file = OutputFile::Open(dir.File("out"), Overwrite::kNo).value();
    const Status reserved = file->Reserve(2000);
    const bool as_expected = !reserved && reserved.error().code == ErrorCode::kIo &&
                             reserved.error().message.find(std::strerror(EFBIG)) != std::string::npos;
    file.reset();
    _exit(as_expected ? 0 : 2);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(dir.empty());
}

TEST(OutputFileTest, D9ADiskThatIsReallyFull) {
  TempDir dir;
  if (mount("none", dir.path().c_str(), "tmpfs", 0, "size=1m") != 0) {
    GTEST_SKIP() << "no tmpfs of one's own can be mounted here: " << std::strerror(errno);
  }
  const std::string megabyte(kMiB, 'x');
  {  // The free space is known, and so the refusal names it.
    auto file = OutputFile::Open(dir.File("out"), Overwrite::kNo).value();
    const Status reserved = file->Reserve(2 * kMiB);
    EXPECT_FALSE(reserved);
    EXPECT_TRUE(reserved || reserved.error().message.find("are free") != std::string::npos);
  }
  {  // Written without a reservation it ends in the middle.
    auto file = OutputFile::Open(dir.File("out"), Overwrite::kNo).value();
    EXPECT_TRUE(file->Write(0, Bytes(std::string_view(megabyte).substr(0, kMiB / 2)), "text"));
    const Status written = file->Write(kMiB / 2, Bytes(megabyte), "tail");
    EXPECT_FALSE(written);
    if (!written) {
      EXPECT_EQ(written.error().code, ErrorCode::kIo);
      EXPECT_NE(written.error().message.find(std::strerror(ENOSPC)), std::string::npos)
          << written.error().message;
      EXPECT_NE(written.error().message.find("tail"), std::string::npos) << written.error().message;
    }
    EXPECT_FALSE(file->Commit());
  }
  EXPECT_TRUE(dir.empty());
  {  // And what fits still works.
    auto file = OutputFile::Open(dir.File("out"), Overwrite::kNo).value();
    EXPECT_TRUE(file->Reserve(kMiB / 2));
    EXPECT_TRUE(file->Write(0, Bytes(std::string_view(megabyte).substr(0, kMiB / 2)), "text"));
    EXPECT_TRUE(file->Commit());
  }
  EXPECT_EQ(umount(dir.path().c_str()), 0);
}

}  // namespace
}  // namespace frugal
