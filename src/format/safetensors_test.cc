#include "src/format/safetensors.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "src/base/bytes.h"
#include "src/base/random.h"
#include "src/base/temp_dir_for_test.h"

namespace frugal {
namespace {

std::string File(const std::string& header, uint64_t data_bytes) {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + header +
         std::string(data_bytes, 'w');
}

std::string Entry(const std::string& name, const std::string& dtype, const std::string& shape, uint64_t begin,
                  uint64_t end) {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":[{},{}]}})", name, dtype, shape, begin,
                     end);
}

const std::string& TinyHeader() {
  static const std::string header = "{" + Entry("b", "F16", "[3,2]", 8, 20) + "," +
                                    Entry("a", "F32", "[2]", 0, 8) + R"(,"__metadata__":{"format":"pt"}})";
  return header;
}
constexpr uint64_t kTinyDataBytes = 20;

Result<std::vector<TensorInfo>> ReadBytes(const std::string& bytes) {
  return ReadSafetensorsHeader(*MakeMemorySource("m.safetensors", std::as_bytes(std::span(bytes))));
}

void ExpectRefused(const std::string& bytes, const std::string& part) {
  const auto read = ReadBytes(bytes);
  ASSERT_FALSE(read) << "expected: " << part;
  EXPECT_EQ(read.error().code, ErrorCode::kBadModel) << read.error().message;
  EXPECT_TRUE(read.error().message.starts_with("m.safetensors: ")) << read.error().message;
  EXPECT_NE(read.error().message.find(part), std::string::npos)
      << read.error().message << "\nexpected: " << part;
  EXPECT_LT(read.error().message.size(), 700u);
}

TEST(SafetensorsTest, ReadsTensorsInTheOrderOfTheirData) {
  const auto read = ReadBytes(File(TinyHeader(), kTinyDataBytes));
  ASSERT_TRUE(read) << read.error().message;
  ASSERT_EQ(read->size(), 2u);
  const uint64_t data = 8 + TinyHeader().size();
  EXPECT_EQ((*read)[0].name, "a");
  EXPECT_EQ((*read)[0].extent, (Extent{data, 8}));
  EXPECT_EQ((*read)[1].name, "b");
  EXPECT_EQ((*read)[1].dtype, DType::kF16);
  EXPECT_EQ((*read)[1].shape, (std::vector<uint64_t>{3, 2}));
  EXPECT_EQ((*read)[1].extent, (Extent{data + 8, 12}));
}

TEST(SafetensorsTest, ReadsScalarsAllDTypesAndPaddedHeaders) {
  const std::string header = "{" + Entry("a", "F32", "[]", 0, 4) + "," + Entry("b", "BF16", "[1]", 4, 6) +
                             "," + Entry("c", "I8", "[1,1]", 6, 7) + "," + Entry("d", "I32", "[1]", 7, 11) +
                             "," + Entry("e", "I64", "[1]", 11, 19) + "}      ";
  const auto read = ReadBytes(File(header, 19));
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->size(), 5u);
  EXPECT_TRUE(ReadBytes(File("{}", 0)));
}

TEST(SafetensorsTest, A1TooShortOrNoSafetensors) {
  ExpectRefused("", "is empty");
  for (size_t size = 1; size <= 64; ++size) {
    SCOPED_TRACE(size);
    ExpectRefused(std::string(size, 'x'), size < 8 ? "file ends at offset" : "header length at offset 0");
    ExpectRefused(std::string(size, '\0'), size < 8 ? "file ends at offset" : "expected a JSON object");
  }
}

TEST(SafetensorsTest, A2TruncatedAnywhere) {
  const std::string whole = File(TinyHeader(), kTinyDataBytes);
  for (size_t size = 0; size < whole.size(); ++size) {
    SCOPED_TRACE(size);
    ExpectRefused(whole.substr(0, size), "");
  }
  ExpectRefused(whole.substr(0, whole.size() - 1), "tensor 'b'");
  ExpectRefused(whole.substr(0, whole.size() - 13), "tensor 'a'");
}

TEST(SafetensorsTest, A3HeaderLength) {
  for (const uint64_t length :
       {uint64_t{0}, uint64_t{1}, uint64_t{2}, uint64_t{10}, TinyHeader().size() - 1, TinyHeader().size() + 1,
        TinyHeader().size() + kTinyDataBytes + 1, uint64_t{99'999'999}, kMaxSafetensorsHeaderBytes + 1,
        uint64_t{1} << 63, UINT64_MAX - 7, UINT64_MAX}) {
    SCOPED_TRACE(length);
    std::string bytes = File(TinyHeader(), kTinyDataBytes);
    bytes.replace(0, 8, reinterpret_cast<const char*>(&length), 8);
    const bool named = length > TinyHeader().size() + kTinyDataBytes;
    ExpectRefused(bytes, named ? fmt::format("header length at offset 0: is {}", length) : "JSON");
  }
}

struct BadHeader {
  std::string header;
  std::string part;
};

TEST(SafetensorsTest, A5A7SizesShapesAndDTypes) {
  const std::string max = "18446744073709551615";
  for (const BadHeader& each : std::vector<BadHeader>{
           {Entry("a", "F32", "[2]", 0, 4), "hold 4 bytes, expected 8 for [2] of F32"},
           {Entry("a", "F16", "[2]", 0, 8), "hold 8 bytes, expected 4 for [2] of F16"},
           {Entry("a", "F32", "[0]", 0, 0), "its shape holds 0"},
           {Entry("a", "F32", "[2,0]", 0, 0), "its shape holds 0"},
           {Entry("a", "F32", "[-2]", 0, 8), "its shape holds -2"},
           {Entry("a", "F32", "[2.0]", 0, 8), "its shape holds 2.0"},
           {Entry("a", "F32", "[\"2\"]", 0, 8), "its shape holds the string '2'"},
           {Entry("a", "F32", "[[2]]", 0, 8), "its shape holds an array"},
           {Entry("a", "F32", "2", 0, 8), "its shape holds 2, expected an array"},
           {Entry("a", "F32", "[1,1,1,1,1,1,1,1,2]", 0, 8), "more than 8 dimensions"},
           {Entry("a", "F32", "[" + max + "]", 0, 8), "overflows"},
           {Entry("a", "F32", "[" + max + "," + max + "]", 0, 8), "overflows"},
           {Entry("a", "F32", "[4294967296,4294967296]", 0, 0), "overflows"},
           {Entry("a", "U8", "[8]", 0, 8), "tensor 'a': is of dtype 'U8'"},
           {Entry("a", "BOOL", "[8]", 0, 8), "is of dtype 'BOOL'"},
           {Entry("a", "f32", "[2]", 0, 8), "is of dtype 'f32'"},
           {Entry("a", "Q8_0", "[2]", 0, 8), "is of dtype 'Q8_0'"},
           {R"("a":{"dtype":5,"shape":[2],"data_offsets":[0,8]})", "its dtype is 5"},
           {R"("a":{"dtype":null,"shape":[2],"data_offsets":[0,8]})", "its dtype is null"},
           {R"("a":{"shape":[2],"data_offsets":[0,8]})", "has no dtype"},
           {R"("a":{"dtype":"F32","data_offsets":[0,8]})", "has no shape"},
           {R"("a":{"dtype":"F32","shape":[2]})", "has no data_offsets"},
           {R"("a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]})",
            "has the field 'dtype' twice"},
           {R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"shape":[2]})",
            "has the field 'shape' twice"},
           {R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1})", "has a field 'x'"},
           {R"("a":[])", "tensor 'a': is an array, expected an object"},
           {R"("a":1)", "tensor 'a': is 1, expected an object"},
           {R"("a":{"dtype":{},"shape":[2],"data_offsets":[0,8]})", "its dtype is an object"}}) {
    SCOPED_TRACE(each.header);
    ExpectRefused(File("{" + each.header + "}", 8), each.part);
  }
}

TEST(SafetensorsTest, A6Offsets) {
  const std::string a = Entry("a", "F32", "[2]", 0, 8) + ",";
  for (const BadHeader& each : std::vector<BadHeader>{
           {a + Entry("b", "F32", "[2]", 4, 12), "tensor 'b': its data at offset"},
           {a + Entry("b", "F32", "[2]", 4, 12), "overlap"},
           {a + Entry("b", "F32", "[2]", 0, 8), "overlap"},
           {a + Entry("b", "F32", "[1]", 12, 16), "leave a hole"},
           {Entry("a", "F32", "[2]", 8, 16), "leave a hole"},
           {Entry("a", "F32", "[2]", 0, 8), "8 bytes follow the last tensor"},
           {a + Entry("b", "F32", "[4]", 8, 24), "reach beyond the end of the file"},
           {a + Entry("b", "F32", "[2]", 16, 8), "with begin <= end"},
           {a + Entry("b", "I8", "[18446744073709551606]", 8, UINT64_MAX - 1), "overflow 64 bits"},
           {a + R"("b":{"dtype":"F32","shape":[2],"data_offsets":[8]})", "data_offsets are [8]"},
           {a + R"("b":{"dtype":"F32","shape":[2],"data_offsets":[]})", "data_offsets are []"},
           {a + R"("b":{"dtype":"F32","shape":[2],"data_offsets":[8,16,24]})", "more than 2"},
           {a + R"("b":{"dtype":"F32","shape":[2],"data_offsets":[-8,16]})", "data_offsets hold -8"},
           {a + R"("b":{"dtype":"F32","shape":[2],"data_offsets":[8,1e3]})", "data_offsets hold 1e3"},
           {a + R"("b":{"dtype":"F32","shape":[2],"data_offsets":[8,99999999999999999999]})",
            "data_offsets hold"},
           {a + R"("b":{"dtype":"F32","shape":[2],"data_offsets":16})", "data_offsets hold 16"}}) {
    SCOPED_TRACE(each.header);
    ExpectRefused(File("{" + each.header + "}", 16), each.part);
  }
}

TEST(SafetensorsTest, A8NamesAndKeys) {
  const std::string a = Entry("a", "F32", "[2]", 0, 8);
  for (const BadHeader& each : std::vector<BadHeader>{
           {"{" + a + "," + Entry("a", "F32", "[2]", 8, 16) + "}", "tensor 'a': is there twice"},
           {"{" + a + "," + Entry("\\u0061", "F32", "[2]", 8, 16) + "}", "tensor 'a': is there twice"},
           {"{" + Entry("", "F32", "[4]", 0, 16) + "}", "is empty"},
           {"{" + Entry("\\u0000", "F32", "[4]", 0, 16) + "}", "holds a NUL"},
           {"{" + Entry("\\u001b[2J", "F32", "[4]", 0, 16) + "}", "holds a control character"},
           {"{" + Entry("\xff", "F32", "[4]", 0, 16) + "}", "not valid JSON"},
           {"{" + Entry(std::string(1025, 'n'), "F32", "[4]", 0, 16) + "}", "has 1025 bytes"},
           {"{" + Entry(std::string(1 << 20, 'n'), "F32", "[4]", 0, 16) + "}", "has 1048576 bytes"},
           {"{\"__metadata__\":{},\"__metadata__\":{}," + Entry("a", "F32", "[4]", 0, 16) + "}",
            "'__metadata__' is there twice"},
           {"{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}," + Entry("a", "F32", "[4]", 0, 16) + "}",
            "the key 'k' twice"},
           {"{\"__metadata__\":{\"k\":1}," + Entry("a", "F32", "[4]", 0, 16) + "}",
            "holds 1, expected strings only"},
           {"{\"__metadata__\":{\"k\":{}}," + Entry("a", "F32", "[4]", 0, 16) + "}",
            "holds an object, expected strings"},
           {"{\"__metadata__\":{\"k\":null}," + Entry("a", "F32", "[4]", 0, 16) + "}",
            "holds null, expected strings"},
           {"{\"__metadata__\":[]," + Entry("a", "F32", "[4]", 0, 16) + "}", "'__metadata__' is an array"},
           {"{\"__metadata__\":\"x\"," + Entry("a", "F32", "[4]", 0, 16) + "}",
            "'__metadata__' is the string 'x'"}}) {
    SCOPED_TRACE(each.header.substr(0, 200));
    ExpectRefused(File(each.header, 16), each.part);
  }
  EXPECT_TRUE(
      ReadBytes(File("{" + Entry("../a/b", "F32", "[4]", 0, 16) + "}", 16)));  // a name is never a path
}

TEST(SafetensorsTest, TheHeaderMustBeOneObject) {
  for (const char* header : {"{", "{}{}", "{} x", "{\"a\"}", "{\"a\":}", "{,}", "{'a':1}"}) {
    SCOPED_TRACE(header);
    ExpectRefused(File(header, 0),
                  std::string(header).size() < 2 ? "expected a JSON object" : "not valid JSON");
  }
  ExpectRefused(File("[]", 0), "beginning with '{'");
  ExpectRefused(File(" {}", 0), "beginning with '{'");  // the format forbids blanks in front
  std::string deep = "{";
  for (int i = 0; i < 100'000; ++i) deep += "\"a\":{";
  ExpectRefused(File(deep, 0), "has a field 'a'");
}

TEST(SafetensorsTest, A16OtherFilesAreNamed) {
  ExpectRefused("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "a Git LFS pointer");
  ExpectRefused("<!DOCTYPE html><html></html>", "an HTML or XML page");
  ExpectRefused(std::string("PK\x03\x04\x00\x00\x08\x08\x00\x00", 10), "a ZIP archive");
  ExpectRefused("\x80\x02\x8a\x0al\xfc\x9c\x46\xf9 j\xa8P\x19.", "a Python pickle");
  ExpectRefused(std::string("GGUF\x03\0\0\0\0\0\0\0", 12), "a GGUF file");
}

TEST(SafetensorsTest, RandomDamageNeverEscapesTheFile) {
  const std::string whole = File(TinyHeader(), kTinyDataBytes);
  constexpr uint64_t kSeed = 99;
  Random random(kSeed);
  for (int round = 0; round < 20'000; ++round) {
    std::string bytes = whole;
    for (uint64_t flips = 1 + random.Below(3); flips > 0; --flips) {
      bytes[random.Below(bytes.size())] = static_cast<char>(random.Next());
    }
    const auto read = ReadBytes(bytes);
    if (!read) {
      ASSERT_EQ(read.error().code, ErrorCode::kBadModel) << "seed " << kSeed << " round " << round;
      continue;
    }
    for (const TensorInfo& tensor : *read) ASSERT_LE(tensor.extent.end_bytes(), bytes.size());
  }
}

// Two shards with a, b in the first and c in the second.
class ShardsTest : public testing::Test {
 protected:
  void SetUp() override {
    dir_.Write(kFirst,
               File("{" + Entry("a", "F32", "[1]", 0, 4) + "," + Entry("b", "F32", "[1]", 4, 8) + "}", 8));
    dir_.Write(kSecond, File("{" + Entry("c", "F32", "[2]", 0, 8) + "}", 8));
    WriteIndex(R"({"metadata":{"total_size":16},"weight_map":{"a":"FIRST","b":"FIRST","c":"SECOND"}})");
  }
  void WriteIndex(std::string text) {
    for (const auto& [word, name] : {std::pair("FIRST", kFirst), std::pair("SECOND", kSecond)}) {
      for (size_t at = text.find(word); at != std::string::npos; at = text.find(word)) {
        text.replace(at, std::string_view(word).size(), name);
      }
    }
    dir_.Write("model.safetensors.index.json", text);
  }
  void ExpectDirectoryRefused(const std::string& part) {
    const auto opened = SafetensorsDirectory::Open(dir_.path());
    ASSERT_FALSE(opened) << "expected: " << part;
    EXPECT_EQ(opened.error().code, ErrorCode::kBadModel) << opened.error().message;
    EXPECT_TRUE(opened.error().message.starts_with(dir_.path())) << opened.error().message;
    EXPECT_NE(opened.error().message.find(part), std::string::npos)
        << opened.error().message << "\nexpected: " << part;
  }

  static constexpr const char* kFirst = "model-00001-of-00002.safetensors";
  static constexpr const char* kSecond = "model-00002-of-00002.safetensors";
  TempDir dir_;
};

TEST_F(ShardsTest, OpensAllShards) {
  const auto opened = SafetensorsDirectory::Open(dir_.path());
  ASSERT_TRUE(opened) << opened.error().message;
  EXPECT_EQ((*opened)->tensors().size(), 3u);
  ASSERT_EQ((*opened)->file_paths().size(), 2u);
  EXPECT_EQ((*opened)->file_paths()[1], dir_.File(kSecond));
  EXPECT_EQ((*opened)->Find("b")->file_index, 0u);
  EXPECT_EQ((*opened)->Find("c")->file_index, 1u);
  EXPECT_EQ((*opened)->Find("d"), nullptr);
}

TEST_F(ShardsTest, ShardsMayBeSymbolicLinks) {
  ASSERT_EQ(rename(dir_.File(kFirst).c_str(), dir_.File("blob").c_str()), 0);
  ASSERT_EQ(symlink("blob", dir_.File(kFirst).c_str()), 0);
  EXPECT_TRUE(SafetensorsDirectory::Open(dir_.path()));
}

TEST_F(ShardsTest, ASingleFileComesFirst) {
  dir_.Write("model.safetensors", File(TinyHeader(), kTinyDataBytes));
  const auto opened = SafetensorsDirectory::Open(dir_.path());
  ASSERT_TRUE(opened) << opened.error().message;
  EXPECT_EQ((*opened)->file_paths(), (std::vector<std::string>{dir_.path() + "/model.safetensors"}));
  EXPECT_EQ((*opened)->tensors().size(), 2u);
}

TEST_F(ShardsTest, A12MissingDuplicatedOrForeignShards) {
  WriteIndex(R"({"weight_map":{"a":"FIRST","b":"FIRST"}})");
  EXPECT_TRUE(SafetensorsDirectory::Open(
      dir_.path()));  // a file that the index does not know is none of our business
  WriteIndex(R"({"weight_map":{"a":"FIRST","c":"SECOND"}})");
  ExpectDirectoryRefused("tensor 'b' is not in the weight_map");
  WriteIndex(R"({"weight_map":{"a":"FIRST","b":"FIRST","c":"SECOND","d":"SECOND"}})");
  ExpectDirectoryRefused("tensor 'd' is absent");
  WriteIndex(R"({"weight_map":{"a":"FIRST","b":"SECOND","c":"SECOND"}})");
  ExpectDirectoryRefused("tensor 'b' is here, but");
  WriteIndex(R"({"weight_map":{"a":"FIRST","b":"FIRST","c":"SECOND"}})");
  dir_.Write(kSecond, File("{" + Entry("a", "F32", "[2]", 0, 8) + "}", 8));  // a twice
  ExpectDirectoryRefused("tensor 'a' is here, but");
  dir_.Write(kSecond, "version https://git-lfs.github.com/spec/v1\n");
  ExpectDirectoryRefused(std::string(kSecond) + ": is a Git LFS pointer");
  ASSERT_EQ(unlink(dir_.File(kSecond).c_str()), 0);
  ExpectDirectoryRefused(std::string(kSecond) + ": is missing");
  ExpectDirectoryRefused("places tensor 'c' there");
  ASSERT_EQ(symlink("nothing", dir_.File(kSecond).c_str()), 0);
  ExpectDirectoryRefused(std::string(kSecond) + ": is missing");
  ASSERT_EQ(unlink(dir_.File(kSecond).c_str()), 0);
  ASSERT_EQ(symlink(kSecond, dir_.File(kSecond).c_str()), 0);
  ExpectDirectoryRefused(std::string(kSecond) + ": is a symbolic link that leads in a circle");
}

TEST_F(ShardsTest, A12TheWeightMapStaysInTheDirectory) {
  for (const char* name :
       {"../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", ".", "", "a\\u0000b", "\\u001b"}) {
    SCOPED_TRACE(name);
    WriteIndex(fmt::format(R"({{"weight_map":{{"a":"{}"}}}})", name));
    ExpectDirectoryRefused("expected the name of a file in the same directory");
  }
  WriteIndex(fmt::format(R"({{"weight_map":{{"a":"{}"}}}})", std::string(256, 'x')));
  ExpectDirectoryRefused("longer than 255 bytes");
}

TEST_F(ShardsTest, A12NumbersOfShards) {
  for (const BadHeader& each :
       std::vector<BadHeader>{{R"({"weight_map":{"a":"m-00003-of-00002.safetensors"}})", "is shard 3 of 2"},
                              {R"({"weight_map":{"a":"m-00000-of-00000.safetensors"}})", "is shard 0 of 0"},
                              {R"({"weight_map":{"a":"m-1-of-2.safetensors","b":"m-2-of-3.safetensors"}})",
                               "expected one set"}}) {
    WriteIndex(each.header);
    ExpectDirectoryRefused(each.part);
  }
  // Counting from 0 is in use, and so are widths that differ.
  ASSERT_EQ(rename(dir_.File(kFirst).c_str(), dir_.File("m-00000-of-000002.safetensors").c_str()), 0);
  WriteIndex(R"({"weight_map":{"a":"m-00000-of-000002.safetensors",)"
             R"("b":"m-00000-of-000002.safetensors","c":"SECOND"}})");
  EXPECT_TRUE(SafetensorsDirectory::Open(dir_.path()));
}

TEST_F(ShardsTest, A12IndexesOfTheWrongForm) {
  for (const BadHeader& each :
       std::vector<BadHeader>{{"{}", "expected an object 'weight_map'"},
                              {"[]", "expected an object 'weight_map'"},
                              {R"({"weight_map":[]})", "expected an object 'weight_map'"},
                              {R"({"weight_map":{}})", "weight_map: is empty"},
                              {R"({"weight_map":{"a":1}})", "tensor 'a' has a number"},
                              {R"({"weight_map":{"":"FIRST"}})", "the tensor name '' is empty"},
                              {R"({"weight_map":{"a":"FIRST","a":"SECOND"}})", "key 'a' is there twice"},
                              {R"({"weight_map":{)", "not valid JSON"},
                              {"<html>", "an HTML or XML page"}}) {
    SCOPED_TRACE(each.header);
    WriteIndex(each.header);
    ExpectDirectoryRefused(each.part);
  }
}

TEST(SafetensorsDirectoryTest, A15WhatIsNoModelDirectory) {
  TempDir dir;
  const auto expect = [](const std::string& path, ErrorCode code, const std::string& part) {
    const auto opened = SafetensorsDirectory::Open(path);
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().code, code);
    EXPECT_NE(opened.error().message.find(part), std::string::npos) << opened.error().message;
  };
  expect(dir.path(), ErrorCode::kBadModel, "holds neither model.safetensors nor");
  expect(dir.File("absent"), ErrorCode::kIo, "cannot be opened");
  expect(dir.Write("file", ""), ErrorCode::kBadModel, "expected a directory");
  ASSERT_EQ(symlink("model.safetensors", dir.File("model.safetensors").c_str()), 0);
  expect(dir.path(), ErrorCode::kBadModel, "model.safetensors: is a symbolic link that leads in a circle");
}

TEST(SafetensorsDirectoryTest, OpensOneFile) {
  TempDir dir;
  const std::string path = dir.Write("any.safetensors", File(TinyHeader(), kTinyDataBytes));
  const auto opened = SafetensorsDirectory::OpenFile(path);
  ASSERT_TRUE(opened) << opened.error().message;
  EXPECT_EQ((*opened)->file_paths(), (std::vector<std::string>{path}));
  EXPECT_EQ((*opened)->Find("a")->extent.size_bytes, 8u);
}

}  // namespace
}  // namespace frugal
