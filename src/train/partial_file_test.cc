#include "src/train/partial_file.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "src/base/temp_dir_for_test.h"

namespace frugal {
namespace {

std::vector<std::byte> Payload(const char* text) {
  std::vector<std::byte> bytes(std::strlen(text));
  std::memcpy(bytes.data(), text, bytes.size());
  return bytes;
}

class PartialFileTest : public testing::Test {
 protected:
  // A file with the records "one" and "second".
  void WriteTwo() {
    PartialFile file = PartialFile::Open(path_, 7).value();
    ASSERT_TRUE(file.Append(Payload("one")));
    ASSERT_TRUE(file.Append(Payload("second")));
  }

  TempDir directory_;
  const std::string path_ = directory_.File("x.partial");
};

TEST_F(PartialFileTest, GivesBackRecordsOfTheSameFingerprint) {
  WriteTwo();
  PartialFile file = PartialFile::Open(path_, 7).value();
  ASSERT_EQ(file.num_records(), 2u);
  EXPECT_EQ(file.Read(0).value(), Payload("one"));
  EXPECT_EQ(file.Read(1).value(), Payload("second"));
  ASSERT_TRUE(file.Append(Payload("third")));
  EXPECT_EQ(file.Read(2).value(), Payload("third"));
  ASSERT_TRUE(file.Remove());
  EXPECT_TRUE(directory_.empty());
}

TEST_F(PartialFileTest, DropsRecordsOfAnotherFingerprint) {
  WriteTwo();
  EXPECT_EQ(PartialFile::Open(path_, 8).value().num_records(), 0u);
  EXPECT_EQ(PartialFile::Open(path_, 7).value().num_records(), 0u);
}

TEST_F(PartialFileTest, CutAnywhereItKeepsTheRecordsBeforeTheCut) {
  WriteTwo();
  const std::string whole = ReadAllForTest(path_);
  const size_t head = 16, record_head = 24;
  const size_t first_end = head + record_head + 3;
  for (size_t size = 0; size < whole.size(); ++size) {
    directory_.Write("x.partial", whole.substr(0, size));
    PartialFile file = PartialFile::Open(path_, 7).value();
    ASSERT_EQ(file.num_records(), size >= first_end ? 1u : 0u) << size;
    ASSERT_TRUE(file.Append(Payload("after")));
    ASSERT_EQ(file.Read(file.num_records() - 1).value(), Payload("after"));
  }
}

TEST_F(PartialFileTest, AFlippedBitNeverGivesAnotherRecord) {
  WriteTwo();
  const std::string whole = ReadAllForTest(path_);
  for (size_t at = 0; at < whole.size(); ++at) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x10);
    directory_.Write("x.partial", damaged);
    PartialFile file = PartialFile::Open(path_, 7).value();
    ASSERT_LT(file.num_records(), 2u) << at;
    if (file.num_records() == 1) {
      ASSERT_EQ(file.Read(0).value(), Payload("one"));
    }
  }
}

TEST_F(PartialFileTest, ASecondRunIsRefused) {
  const PartialFile first = PartialFile::Open(path_, 7).value();
  const auto second = PartialFile::Open(path_, 7);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kFailed);
}

TEST_F(PartialFileTest, WhatIsNoRegularFileIsRefused) {
  std::filesystem::create_directory(path_);
  EXPECT_FALSE(PartialFile::Open(path_, 7));
}

}  // namespace
}  // namespace frugal
