#include "src/format/json_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "src/format/json_stream.h"
#include "src/base/temp_dir_for_test.h"

namespace frugal {
namespace {

using nlohmann::json;

void ExpectRefused(const std::string& text, const std::string& part) {
  const Result<json> parsed = ParseJson(text, "c.json");
  ASSERT_FALSE(parsed) << "expected: " << part;
  EXPECT_EQ(parsed.error().code, ErrorCode::kBadModel);
  EXPECT_TRUE(parsed.error().message.starts_with("c.json: ")) << parsed.error().message;
  EXPECT_NE(parsed.error().message.find(part), std::string::npos)
      << parsed.error().message << "\nexpected: " << part;
  EXPECT_LT(parsed.error().message.size(), 600u);
}

TEST(JsonFileTest, BuildsTheSameTreeAsTheLibrary) {
  for (const char* text :
       {"{}", "[]", "null", "true", "-5", "7", "1.5e3", "\"a\\u00e4\\ud83d\\ude00\"", "[1,[2,[3,[]]],{}]",
        R"({"a":{"b":[1,2,{"c":null}],"d":"x"},"e":[[],[{}]],"f":18446744073709551615,"g":-1})",
        " { \"x\" : [ 1 , 2 ] } \n"}) {
    const Result<json> parsed = ParseJson(text, "c.json");
    ASSERT_TRUE(parsed) << parsed.error().message;
    EXPECT_EQ(*parsed, json::parse(text)) << text;
  }
}

TEST(JsonFileTest, TextsLongerThanTheWindow) {
  json expected;
  for (int i = 0; i < 5000; ++i)
    expected[std::to_string(i)] = {std::string(i % 50, 'x'), i, i / 3.0, nullptr};
  EXPECT_EQ(ParseJson(expected.dump(), "c.json").value(), expected);
}

TEST(JsonFileTest, B1DuplicateKeysAreRefused) {
  ExpectRefused(R"({"a":1,"b":2,"a":3})", "offset 15: key 'a' is there twice");
  ExpectRefused(R"([{"x":{"a":1,"\u0061":3}}])", "key 'a' is there twice");
  EXPECT_TRUE(ParseJson(R"({"a":{"a":1},"b":[{"a":1},{"a":2}]})", "c.json"));
}

TEST(JsonFileTest, B1DepthIsLimited) {
  EXPECT_TRUE(ParseJson(std::string(64, '[') + std::string(64, ']'), "c.json"));
  ExpectRefused(std::string(65, '[') + std::string(65, ']'), "offset 64: nested deeper than 64");
  ExpectRefused(std::string(1'000'000, '['), "nested deeper than 64");
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  ExpectRefused(objects, "nested deeper than 64");
}

TEST(JsonFileTest, B1NumbersAndTexts) {
  ExpectRefused("{\"a\":1e999}", "not valid JSON: ");
  ExpectRefused("[NaN]", "not valid JSON: ");
  ExpectRefused("[01]", "not valid JSON: ");
  ExpectRefused("[\"\\ud800\"]", "not valid JSON: ");
  ExpectRefused("[\"\xff\"]", "not valid JSON: ");
  ExpectRefused("[\"a\nb\"]", "not valid JSON: ");
  ExpectRefused(std::string("[1]\0", 4), "offset 3: not valid JSON: a NUL");
  ExpectRefused(std::string("[1\0]", 4), "offset 2: not valid JSON: a NUL");
  ExpectRefused("", "not valid JSON: ");
  ExpectRefused("{", "not valid JSON: ");
  ExpectRefused("{\"a\":1,}", "offset 7: not valid JSON: ");
  ExpectRefused("[1] [2]", "offset 4: not valid JSON: ");
  ExpectRefused(fmt::format("[\"{}", std::string(100'000, 'x')),
                "not valid JSON: ");  // and the message stays short
  EXPECT_EQ(ParseJson("[-1]", "c.json").value()[0].get<int>(), -1);
}

TEST(JsonFileTest, B1AByteOrderMarkIsAccepted) {
  EXPECT_EQ(ParseJson("\xef\xbb\xbf{\"a\":1}", "c.json").value()["a"], 1);
  ExpectRefused("\xef\xbb{}", "not valid JSON: ");
}

TEST(JsonFileTest, TokensAndValuesAreLimited) {
  const std::string longest(JsonStream::kMaxTokenBytes - 1, 'x');
  EXPECT_TRUE(ParseJson(fmt::format("[\"{}\"]", longest), "c.json"));
  ExpectRefused(fmt::format("[\"{}xx\"]", longest), "more than 8.0 MiB");
  ExpectRefused(fmt::format("[{:{}}]", "", JsonStream::kMaxTokenBytes + 1), "more than 8.0 MiB");
  std::string many = "[";
  for (uint64_t i = 0; i < kMaxJsonValues; ++i) many += "0,";
  ExpectRefused(many + "0]", fmt::format("more than {} values", kMaxJsonValues));
}

TEST(JsonFileTest, A16OtherFilesAreNamed) {
  ExpectRefused("version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer");
  ExpectRefused("<html></html>", "an HTML or XML page");
  ExpectRefused("PK\x03\x04", "a ZIP archive");
}

TEST(JsonFileTest, ReadsFilesAndRefusesWhatIsNone) {
  TempDir dir;
  EXPECT_EQ(ReadJsonFile(dir.Write("c.json", "{\"a\":[1]}")).value()["a"][0], 1);
  const auto expect = [](const std::string& path, ErrorCode code) {
    const Result<json> read = ReadJsonFile(path);
    ASSERT_FALSE(read) << path;
    EXPECT_EQ(read.error().code, code) << read.error().message;
    EXPECT_TRUE(read.error().message.starts_with(path + ": ")) << read.error().message;
  };
  ASSERT_EQ(mkfifo(dir.File("fifo").c_str(), 0600), 0);
  expect(dir.File("absent"), ErrorCode::kIo);
  expect(dir.File("fifo"), ErrorCode::kBadModel);
  expect(dir.path(), ErrorCode::kBadModel);
  expect(dir.Write("bad.json", "{"), ErrorCode::kBadModel);
  const std::string large = dir.Write("large.json", "");
  ASSERT_EQ(truncate(large.c_str(), static_cast<off_t>(kMaxJsonFileBytes + 1)), 0);
  expect(large, ErrorCode::kBadModel);
}

TEST(ReadTextFileTest, TakesAtMostTheLimit) {
  TempDir dir;
  const std::string path = dir.Write("t", "12345");
  EXPECT_EQ(ReadTextFile(path, 5).value(), "12345");
  const Result<std::string> refused = ReadTextFile(path, 4);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message, path + ": has 5 bytes, expected at most 4");
  EXPECT_EQ(ReadTextFile(dir.Write("e", ""), 5).value(), "");
}

}  // namespace
}  // namespace frugal
