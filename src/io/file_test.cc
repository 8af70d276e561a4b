#include "src/io/file.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <utime.h>

#include <cstdio>

#include "src/io/io_test_util.h"

namespace frugal {
namespace {

// A name in the temporary folder that is free, and is removed at the end.
class TempName {
 public:
  explicit TempName(const char* name)
      : path_(testing::TempDir() + "/frugal_" + std::to_string(getpid()) + name) {
    remove(path_.c_str());
  }
  ~TempName() { remove(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

void ExpectError(const std::string& path, ErrorCode code, const std::string& part) {
  const Result<File> file = File::Open(path, DirectMode::kTry);
  ASSERT_FALSE(file) << path;
  EXPECT_EQ(file.error().code, code) << file.error().message;
  EXPECT_NE(file.error().message.find(part), std::string::npos) << file.error().message;
  EXPECT_NE(file.error().message.find(path), std::string::npos) << file.error().message;
}

TEST(FileTest, A15RefusesWhatIsNotARegularFile) {
  const TempName fifo("fifo");
  ASSERT_EQ(mkfifo(fifo.path().c_str(), 0600), 0);
  ExpectError(fifo.path(), ErrorCode::kBadModel, "FIFO");
  ExpectError(testing::TempDir(), ErrorCode::kBadModel, "directory");
  ExpectError("/dev/zero", ErrorCode::kBadModel, "character device");
}

TEST(FileTest, A15RefusesWhatCannotBeOpened) {
  const TempName missing("missing");
  ExpectError(missing.path(), ErrorCode::kIo, "No such file");
  const TempName loop("loop");
  ASSERT_EQ(symlink(loop.path().c_str(), loop.path().c_str()), 0);
  ExpectError(loop.path(), ErrorCode::kIo, "symbolic links");
  ExpectError(std::string(5000, 'x'), ErrorCode::kIo, "too long");
  EXPECT_FALSE(File::Open(std::string("a\0b", 3), DirectMode::kTry));
}

TEST(FileTest, A15RefusesWithoutPermission) {
  if (geteuid() == 0) GTEST_SKIP() << "root may read everything";
  const PatternFile secret(4096);
  ASSERT_EQ(chmod(secret.path().c_str(), 0), 0);
  ExpectError(secret.path(), ErrorCode::kIo, "Permission denied");
}

TEST(FileTest, A15OpensASparseFileAbove2TiB) {
  const TempName sparse("sparse");
  const UniqueFd fd(open(sparse.path().c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
  const off_t size_bytes = off_t{3} << 40;
  if (ftruncate(fd.get(), size_bytes) != 0) GTEST_SKIP() << "the file system has no files of 3 TiB";
  const File file = OpenFile(sparse.path(), DirectMode::kTry);
  EXPECT_EQ(file.size_bytes(), static_cast<uint64_t>(size_bytes));
}

TEST(FileTest, FollowsASymbolicLink) {
  const PatternFile target(4096);
  const TempName link("link");
  ASSERT_EQ(symlink(target.path().c_str(), link.path().c_str()), 0);
  EXPECT_EQ(OpenFile(link.path(), DirectMode::kTry).size_bytes(), 4096u);
}

TEST(FileTest, DirectIsProvedAndItsAlignmentReads) {
  const PatternFile pattern(100'000);
  const File file = OpenFile(pattern.path(), DirectMode::kTry);
  if (!file.direct()) GTEST_SKIP() << file.direct_note();
  EXPECT_EQ(file.direct_note(), "");
  EXPECT_NE(fcntl(file.fd(), F_GETFL) & O_DIRECT, 0);
  EXPECT_EQ(fcntl(file.fd(), F_GETFL) & O_NONBLOCK, 0);
  const uint32_t alignment = file.alignment_bytes();
  ASSERT_GE(alignment, 512u);
  AlignedBuffer buffer = NewBuffer(2 * alignment);
  ASSERT_EQ(pread(file.fd(), buffer.data() + alignment, alignment, alignment), alignment);
  EXPECT_TRUE(IsPattern(kTestSeed, alignment, buffer.bytes().subspan(alignment)));
}

TEST(FileTest, ACoarserDeviceThanTheFileAllowsIsReadBuffered) {
  const PatternFile pattern(100'000);
  if (!OpenFile(pattern.path(), DirectMode::kTry).direct()) GTEST_SKIP() << "no direct I/O here";
  const Result<File> file = File::Open(pattern.path(), DirectMode::kTry, 256);
  ASSERT_TRUE(file);
  EXPECT_FALSE(file->direct());
  EXPECT_EQ(file->alignment_bytes(), 1u);
  EXPECT_NE(file->direct_note().find("256"), std::string::npos) << file->direct_note();
  EXPECT_EQ(fcntl(file->fd(), F_GETFL) & O_DIRECT, 0);
}

TEST(FileTest, BufferedWhenAskedForOrEmpty) {
  const PatternFile pattern(4096);
  const File off = OpenFile(pattern.path(), DirectMode::kOff);
  EXPECT_FALSE(off.direct());
  EXPECT_EQ(off.alignment_bytes(), 1u);
  EXPECT_NE(off.direct_note(), "");
  const PatternFile empty(0);
  const File nothing = OpenFile(empty.path(), DirectMode::kTry);
  EXPECT_FALSE(nothing.direct());
  EXPECT_EQ(nothing.size_bytes(), 0u);
  EXPECT_NE(nothing.direct_note(), "");
}

TEST(FileTest, FilesOfEverySmallSizeOpen) {
  for (const uint64_t size_bytes : {1, 511, 512, 513, 4095, 4096, 4097}) {
    const PatternFile pattern(size_bytes);
    EXPECT_EQ(OpenFile(pattern.path(), DirectMode::kTry).size_bytes(), size_bytes);
  }
}

TEST(FileTest, D4TmpfsIsBufferedWithANote) {
  struct statfs info {};
  if (statfs("/dev/shm", &info) != 0 || info.f_type != 0x01021994)
    GTEST_SKIP() << "/dev/shm is no tmpfs here";
  const PatternFile pattern(8192, "/dev/shm");
  const File file = OpenFile(pattern.path(), DirectMode::kTry);
  EXPECT_FALSE(file.direct());
  EXPECT_EQ(file.alignment_bytes(), 1u);
  EXPECT_EQ(file.direct_note(), "O_DIRECT refused by tmpfs: buffered");
}

TEST(FileTest, D6ATruncatedFileHasChanged) {
  const PatternFile pattern(8192);
  const File file = OpenFile(pattern.path(), DirectMode::kTry);
  EXPECT_TRUE(file.CheckUnchanged());
  ASSERT_EQ(truncate(pattern.path().c_str(), 4096), 0);
  const Status status = file.CheckUnchanged();
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kIo);
  EXPECT_NE(status.error().message.find("file changed"), std::string::npos) << status.error().message;
  EXPECT_NE(status.error().message.find("4096"), std::string::npos) << status.error().message;
}

TEST(FileTest, D6ARewrittenFileHasChanged) {
  const PatternFile pattern(8192);
  const File file = OpenFile(pattern.path(), DirectMode::kTry);
  const utimbuf other_time = {1, 1};
  ASSERT_EQ(utime(pattern.path().c_str(), &other_time), 0);
  const Status status = file.CheckUnchanged();
  ASSERT_FALSE(status);
  EXPECT_NE(status.error().message.find("file changed"), std::string::npos);
}

TEST(FileTest, D7AReplacedFileKeepsServing) {
  const PatternFile pattern(8192);
  const PatternFile other(4096);
  const File file = OpenFile(pattern.path(), DirectMode::kTry);
  ASSERT_EQ(rename(other.path().c_str(), pattern.path().c_str()), 0);
  EXPECT_TRUE(file.CheckUnchanged());
  EXPECT_EQ(OpenFile(pattern.path(), DirectMode::kTry).size_bytes(), 4096u);
}

}  // namespace
}  // namespace frugal
