// io_uring that is refused or limited (D5). Filters and limits are set in a forked child and end with it.
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cerrno>
#include <cstddef>

#include "src/base/function_ref.h"
#include "src/io/io_test_util.h"

namespace frugal {
namespace {

constexpr int kCannotTest = 77;

// Runs `body` in a child; 0 means that it holds.
void ExpectInChild(FunctionRef<int()> body) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) _exit(body());
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
  if (WEXITSTATUS(status) == kCannotTest) GTEST_SKIP() << "seccomp filters or limits cannot be set here";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

// From now on this system call answers `error_number`.
bool BlockSystemCall(int number, int error_number) {
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(number), 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<uint32_t>(error_number)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program = {sizeof(filter) / sizeof(filter[0]), filter};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

// 0 when this reader reads the start of the file right.
int ReadStart(ExtentReader& reader, const File& file) {
  Result<AlignedBuffer> memory = AlignedBuffer::Allocate(8192);
  if (!memory) return 10;
  const iovec segment = {memory->data(), 8192};
  const ReadRequest request = {file.fd(), 0, {&segment, 1}, 5};
  if (reader.Submit({&request, 1}) != 1) return 11;
  ReadCompletion completion;
  if (reader.Reap({&completion, 1}, WaitMode::kBlock) != 1) return 12;
  if (completion.tag != 5 || completion.result != 8192) return 13;
  return IsPattern(kTestSeed, 0, memory->bytes()) ? 0 : 14;
}

class UringBlockedTest : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Errors, UringBlockedTest, testing::Values(EPERM, ENOSYS));

TEST_P(UringBlockedTest, D5FallsBackToPreadAndSaysWhy) {
  const PatternFile pattern(8192);
  const File file = OpenFile(pattern.path(), DirectMode::kTry);
  ExpectInChild([&] {
    if (!BlockSystemCall(SYS_io_uring_setup, GetParam())) return kCannotTest;
    Result<OpenedReader> opened = OpenReader({});
    if (!opened) return 1;
    if (opened->reader->name() != "pread") return 2;
    if (opened->note.find("io_uring is not available") == std::string::npos) return 3;
    ReaderOptions forced;
    forced.backend = IoBackend::kUring;
    const Result<OpenedReader> refused = OpenReader(forced);
    if (refused || refused.error().code != ErrorCode::kIo) return 4;
    return ReadStart(*opened->reader, file);
  });
}

TEST(UringReaderTest, D5ARingThatCannotBeEnteredIsNotTaken) {
  const PatternFile pattern(8192);
  const File file = OpenFile(pattern.path(), DirectMode::kTry);
  ExpectInChild([&] {
    if (!BlockSystemCall(SYS_io_uring_enter, EPERM)) return kCannotTest;
    Result<OpenedReader> opened = OpenReader({});
    if (!opened || opened->reader->name() != "pread" || opened->note.empty()) return 1;
    return ReadStart(*opened->reader, file);
  });
}

TEST(UringReaderTest, ARefusedSubmissionCompletesWithTheError) {
  const PatternFile pattern(8192);
  const File file = OpenFile(pattern.path(), DirectMode::kTry);
  ExpectInChild([&] {
    ReaderOptions options;
    options.backend = IoBackend::kUring;
    options.queue_depth = 4;
    Result<OpenedReader> opened = OpenReader(options);
    if (!opened || !BlockSystemCall(SYS_io_uring_enter, EPERM)) return kCannotTest;
    Result<AlignedBuffer> memory = AlignedBuffer::Allocate(8192);
    if (!memory) return 1;
    const iovec segments[] = {{memory->data(), 4096}, {memory->data() + 4096, 4096}};
    for (int round = 0; round < 3; ++round) {
      const ReadRequest requests[] = {{file.fd(), 0, {&segments[0], 1}, 5},
                                      {file.fd(), 4096, {&segments[1], 1}, 6}};
      if (opened->reader->Submit(requests) != 2 || opened->reader->num_in_flight() != 2) return 2;
      ReadCompletion completions[4];
      if (opened->reader->Reap(completions, WaitMode::kBlock) != 2) return 3;
      if (completions[0].result != -EPERM || completions[1].result != -EPERM) return 4;
      if (completions[0].tag + completions[1].tag != 11) return 5;
      if (opened->reader->num_in_flight() != 0) return 6;
    }
    return 0;
  });
}

TEST(UringReaderTest, D5ASmallMemoryLockLimitOnlyCostsTheRegistration) {
  const PatternFile pattern(8192);
  const File file = OpenFile(pattern.path(), DirectMode::kTry);
  AlignedBuffer big = NewBuffer(4 << 20);
  const iovec buffer = {big.data(), big.size_bytes()};
  ExpectInChild([&] {
    const rlimit small = {65536, 65536};
    // Root is not bound by the limit: the child gives its privileges up.
    if (setrlimit(RLIMIT_MEMLOCK, &small) != 0) return kCannotTest;
    if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)) return kCannotTest;
    ReaderOptions options;
    options.buffers = {&buffer, 1};
    Result<OpenedReader> opened = OpenReader(options);
    if (!opened) return 1;
    if (opened->note.empty()) return 2;
    return ReadStart(*opened->reader, file);
  });
}

TEST(UringReaderTest, ARefusedFileRegistrationIsNoError) {
  const PatternFile pattern(8192);
  const File file = OpenFile(pattern.path(), DirectMode::kTry);
  const int bad_fd = 999'999;
  ReaderOptions options;
  options.backend = IoBackend::kUring;
  options.fds = {&bad_fd, 1};
  Result<OpenedReader> opened = OpenReader(options);
  ASSERT_TRUE(opened);
  EXPECT_NE(opened->note.find("files not registered"), std::string::npos) << opened->note;
  EXPECT_EQ(ReadStart(*opened->reader, file), 0);
}

}  // namespace
}  // namespace frugal
