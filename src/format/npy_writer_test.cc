#include "src/format/npy_writer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <string>
#include <vector>

#include "src/base/bytes.h"
#include "src/base/temp_dir_for_test.h"

namespace frugal {
namespace {

// The parts of a .npy file, checked as NEP 1 (format 1.0) says.
struct Npy {
  std::string dictionary;
  std::vector<float> data;
};

Npy ReadNpy(const std::string& path) {
  const std::string bytes = ReadAllForTest(path);
  Npy npy;
  EXPECT_GE(bytes.size(), 128u);
  EXPECT_EQ(bytes.substr(0, 8), std::string("\x93NUMPY\x01\x00", 8));
  const size_t header_bytes =
      10u + static_cast<unsigned char>(bytes[8]) + 256u * static_cast<unsigned char>(bytes[9]);
  EXPECT_EQ(header_bytes % 64, 0u);
  EXPECT_EQ(bytes[header_bytes - 1], '\n');
  npy.dictionary = bytes.substr(10, bytes.find('}') - 9);
  EXPECT_EQ(bytes.substr(10 + npy.dictionary.size(), header_bytes - 11 - npy.dictionary.size()),
            std::string(header_bytes - 11 - npy.dictionary.size(), ' '));
  npy.data.resize((bytes.size() - header_bytes) / sizeof(float));
  if (!npy.data.empty()) {
    std::memcpy(npy.data.data(), bytes.data() + header_bytes, npy.data.size() * sizeof(float));
  }
  return npy;
}

TEST(NpyWriterTest, WritesEveryNumberOfDimensions) {
  TempDir dir;
  const std::string path = dir.File("a.npy");
  const std::vector<float> six = {0, 1, 2, 3, 4, -5.5f};
  for (const auto& [shape, text] : std::vector<std::pair<std::vector<uint64_t>, std::string>>{
           {{6}, "(6,)"}, {{2, 3}, "(2, 3)"}, {{1, 2, 3}, "(1, 2, 3)"}}) {
    ASSERT_TRUE(WriteNpyFloat32(path, six, shape));  // replaces the one before
    const Npy npy = ReadNpy(path);
    EXPECT_EQ(npy.dictionary, "{'descr': '<f4', 'fortran_order': False, 'shape': " + text + ", }");
    EXPECT_EQ(npy.data, six);
  }
  ASSERT_TRUE(WriteNpyFloat32(path, std::array{1.0f}, {}));
  EXPECT_NE(ReadNpy(path).dictionary.find("'shape': ()"), std::string::npos);
  ASSERT_TRUE(WriteNpyFloat32(path, std::array{1.0f}, std::vector<uint64_t>(60, 1)));
  EXPECT_EQ(ReadNpy(path).data.size(), 1u);
}

TEST(NpyWriterTest, RowsAreCountedAtTheEnd) {
  TempDir dir;
  const std::string path = dir.File("a.npy");
  std::vector<float> expected;
  {
    auto writer = NpyWriter::Open(path, 3).value();
    for (int i = 0; i < 1000; ++i) {
      const auto x = static_cast<float>(i);
      const std::array row = {x, -x, x / 2};
      ASSERT_TRUE(writer.AppendRow(row));
      expected.insert(expected.end(), row.begin(), row.end());
    }
    EXPECT_EQ(writer.num_rows(), 1000u);
    EXPECT_NE(access(path.c_str(), F_OK), 0);
    ASSERT_TRUE(writer.Finish());
  }
  const Npy npy = ReadNpy(path);
  EXPECT_NE(npy.dictionary.find("'shape': (1000, 3)"), std::string::npos) << npy.dictionary;
  EXPECT_EQ(npy.data, expected);
}

TEST(NpyWriterTest, WithoutFinishThereIsNoFile) {
  TempDir dir;
  {
    auto writer = NpyWriter::Open(dir.File("a.npy"), 1).value();
    ASSERT_TRUE(writer.AppendRow(std::array{1.0f}));
  }
  EXPECT_TRUE(dir.empty());
}

TEST(NpyWriterTest, NoRowsAreAValidFile) {
  TempDir dir;
  auto writer = NpyWriter::Open(dir.File("a.npy"), 4).value();
  ASSERT_TRUE(writer.Finish());
  EXPECT_NE(ReadNpy(dir.File("a.npy")).dictionary.find("(0, 4)"), std::string::npos);
}

TEST(NpyWriterTest, ErrorsNameTheFile) {
  const auto opened = NpyWriter::Open("/nonexistent/a.npy", 4);
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code, ErrorCode::kIo);
  EXPECT_NE(opened.error().message.find("/nonexistent/a.npy"), std::string::npos);
}

}  // namespace
}  // namespace frugal
