#include "src/format/byte_source.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "src/base/random.h"
#include "src/format/regular_file.h"
#include "src/base/temp_dir_for_test.h"

namespace frugal {
namespace {

std::string RandomBytes(size_t size, uint64_t seed) {
  Random random(seed);
  std::string bytes(size, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random.Next());
  return bytes;
}

std::string ReadText(ByteSource& source, uint64_t offset_bytes, uint64_t size_bytes) {
  std::string text(size_bytes, '\0');
  const Status read = source.Read(offset_bytes, std::as_writable_bytes(std::span(text)));
  EXPECT_TRUE(read) << read.error().message;
  return text;
}

TEST(ByteSourceTest, FileAndMemoryGiveTheSameBytes) {
  TempDir dir;
  const std::string content = RandomBytes(300'000, 1);
  const auto file = OpenFileSource(dir.Write("f", content)).value();
  const auto memory = MakeMemorySource("f", std::as_bytes(std::span(content)));
  ASSERT_EQ(file->size_bytes(), content.size());
  constexpr uint64_t kSeed = 7;
  Random random(kSeed);
  for (int round = 0; round < 500; ++round) {
    const uint64_t offset = random.Below(content.size());
    const uint64_t size = random.Below(std::min<uint64_t>(content.size() - offset, 150'000) + 1);
    const std::string expected = content.substr(offset, size);
    ASSERT_TRUE(ReadText(*file, offset, size) == expected) << "seed " << kSeed << " round " << round;
    ASSERT_TRUE(ReadText(*memory, offset, size) == expected);
  }
}

TEST(ByteSourceTest, ReadsBeyondTheEndAreRefused) {
  TempDir dir;
  const std::string content = "0123456789";
  const auto file = OpenFileSource(dir.Write("f", content)).value();
  const auto memory = MakeMemorySource("m", std::as_bytes(std::span(content)));
  std::array<std::byte, 4> four;
  for (ByteSource* source : {file.get(), memory.get()}) {
    for (const uint64_t offset : {uint64_t{7}, uint64_t{10}, uint64_t{11}, uint64_t{1} << 63, UINT64_MAX}) {
      const Status read = source->Read(offset, four);
      ASSERT_FALSE(read);
      EXPECT_EQ(read.error().code, ErrorCode::kBadModel);
      EXPECT_EQ(read.error().message, fmt::format("{}: file ends at offset 10, expected 4 bytes at offset {}",
                                                  source->name(), offset));
    }
    EXPECT_TRUE(source->Read(6, four));
    EXPECT_TRUE(source->Read(10, {}));
  }
}

TEST(ByteSourceTest, AFileThatShrinksIsAnError) {
  TempDir dir;
  const std::string path = dir.Write("f", RandomBytes(200'000, 2));
  const auto source = OpenFileSource(path).value();
  ReadText(*source, 0, 16);
  ASSERT_EQ(truncate(path.c_str(), 100'000), 0);
  std::array<std::byte, 16> some;
  const Status read = source->Read(150'000, some);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code, ErrorCode::kBadModel);
  EXPECT_NE(read.error().message.find("file ends"), std::string::npos);
}

TEST(ByteSourceTest, A15OnlyRegularFiles) {
  TempDir dir;
  const auto expect = [](const std::string& path, ErrorCode code, const char* part) {
    const auto opened = OpenFileSource(path);
    ASSERT_FALSE(opened) << path;
    EXPECT_EQ(opened.error().code, code) << opened.error().message;
    EXPECT_TRUE(opened.error().message.starts_with(path + ": ")) << opened.error().message;
    EXPECT_NE(opened.error().message.find(part), std::string::npos) << opened.error().message;
  };
  ASSERT_EQ(mkfifo(dir.File("fifo").c_str(), 0600), 0);
  ASSERT_EQ(symlink("loop", dir.File("loop").c_str()), 0);
  ASSERT_EQ(symlink("nowhere", dir.File("dangling").c_str()), 0);
  expect(dir.File("fifo"), ErrorCode::kBadModel, "is a FIFO");
  expect(dir.path(), ErrorCode::kBadModel, "is a directory");
  expect("/dev/zero", ErrorCode::kBadModel, "is a device");
  expect(dir.File("loop"), ErrorCode::kBadModel, "leads in a circle");
  expect(dir.File("dangling"), ErrorCode::kIo, std::strerror(ENOENT));
  expect(dir.File("absent"), ErrorCode::kIo, std::strerror(ENOENT));
  expect("", ErrorCode::kIo, std::strerror(ENOENT));
}

TEST(ByteSourceTest, A15NoPermission) {
  TempDir dir;
  const std::string path = dir.Write("secret", "x");
  ASSERT_EQ(chmod(path.c_str(), 0), 0);
  ASSERT_EQ(chmod(dir.path().c_str(), 0755), 0);
  const uid_t user = geteuid();
  constexpr uid_t kNobody = 65534;
  ASSERT_EQ(user == 0 ? seteuid(kNobody) : 0, 0);  // root may read everything
  const auto opened = OpenFileSource(path);
  ASSERT_EQ(user == 0 ? seteuid(user) : 0, 0);
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code, ErrorCode::kIo);
  EXPECT_NE(opened.error().message.find(std::strerror(EACCES)), std::string::npos) << opened.error().message;
}

TEST(ByteSourceTest, SymbolicLinksToFilesAreFollowed) {
  TempDir dir;
  dir.Write("blob", "content");
  ASSERT_EQ(symlink("blob", dir.File("link").c_str()), 0);
  EXPECT_EQ(ReadText(*OpenFileSource(dir.File("link")).value(), 0, 7), "content");
}

TEST(ReadFullyTest, GoesOnAfterInterruptionsAndShortReads) {
  const std::string content = RandomBytes(1000, 3);
  int calls = 0;
  const auto grudging = [&](int, void* to, size_t size, off_t offset) -> ssize_t {
    ++calls;
    if (calls % 3 != 0) {
      errno = calls % 3 == 1 ? EINTR : EAGAIN;
      return -1;
    }
    const size_t part = std::min<size_t>(size, 7);
    std::memcpy(to, content.data() + offset, part);
    return static_cast<ssize_t>(part);
  };
  std::string read(900, '\0');
  ASSERT_TRUE(ReadFully(-1, "f", 50, std::as_writable_bytes(std::span(read)), grudging));
  EXPECT_EQ(read, content.substr(50, 900));
}

TEST(ReadFullyTest, NamesFileOffsetAndReason) {
  std::array<std::byte, 8> some;
  const auto broken = [](int, void*, size_t, off_t) -> ssize_t {
    errno = EIO;
    return -1;
  };
  const Status failed = ReadFully(-1, "f", 4096, some, broken);
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, ErrorCode::kIo);
  EXPECT_EQ(failed.error().message, fmt::format("f: read of 8 bytes at offset 4096: {}", std::strerror(EIO)));
}

}  // namespace
}  // namespace frugal
