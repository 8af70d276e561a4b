#include "src/format/gguf_reader.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "src/base/random.h"
#include "src/format/gguf_bytes_for_test.h"
#include "src/base/temp_dir_for_test.h"

namespace frugal {
namespace {

// The bytes must outlive the reader.
Result<GgufReader> OpenBytes(const std::string& bytes) {
  return GgufReader::Open(MakeMemorySource("m.gguf", std::as_bytes(std::span(bytes))));
}

// That the bytes are refused as a bad model, in a message that names the file and holds `part`.
void ExpectRefused(const std::string& bytes, const std::string& part) {
  const Result<GgufReader> opened = OpenBytes(bytes);
  ASSERT_FALSE(opened) << "expected: " << part;
  EXPECT_EQ(opened.error().code, ErrorCode::kBadModel) << opened.error().message;
  EXPECT_TRUE(opened.error().message.starts_with("m.gguf: ")) << opened.error().message;
  EXPECT_NE(opened.error().message.find(part), std::string::npos)
      << opened.error().message << "\nexpected: " << part;
}

struct BadCase {
  std::string part;  // of the message
  std::function<void(RawGguf&)> damage;
};

void ExpectAllRefused(const std::vector<BadCase>& cases) {
  for (const BadCase& each : cases) {
    SCOPED_TRACE(each.part);
    RawGguf raw = TinyGguf();
    each.damage(raw);
    ExpectRefused(raw.Bytes(), each.part);
  }
}

TEST(GgufReaderTest, ReadsKeysTensorsAndArrays) {
  const std::string bytes = TinyGguf().Bytes();
  const Result<GgufReader> opened = OpenBytes(bytes);
  ASSERT_TRUE(opened) << opened.error().message;
  const GgufReader& reader = *opened;
  EXPECT_EQ(reader.version(), 3u);
  EXPECT_EQ(reader.alignment_bytes(), 32u);
  EXPECT_EQ(reader.GetString("general.architecture").value(), "opt");
  EXPECT_EQ(reader.GetUint("opt.block_count").value(), 2u);
  EXPECT_EQ(reader.GetUint("opt.wide").value(), uint64_t{1} << 40);
  EXPECT_EQ(std::get<int64_t>(reader.Find("opt.negative")->value), -5);
  EXPECT_EQ(reader.GetFloat("opt.scale").value(), 0.5);
  EXPECT_TRUE(reader.GetBool("opt.flag").value());
  EXPECT_EQ(reader.ArrayCount("tokens").value(), 3u);

  std::vector<std::string> tokens;
  ASSERT_TRUE(reader.ForEachString("tokens", [&](uint64_t index, std::string_view text) -> Status {
    EXPECT_EQ(index, tokens.size());
    tokens.emplace_back(text);
    return {};
  }));
  EXPECT_EQ(tokens, (std::vector<std::string>{"a", "", "\xff"}));
  std::vector<int64_t> types;
  ASSERT_TRUE(reader.ForEachInt("types", [&](uint64_t, int64_t value) -> Status {
    types.push_back(value);
    return {};
  }));
  EXPECT_EQ(types, (std::vector<int64_t>{-1, 6}));
  std::vector<float> scores;
  ASSERT_TRUE(reader.ForEachFloat("scores", [&](uint64_t, float value) -> Status {
    scores.push_back(value);
    return {};
  }));
  EXPECT_EQ(scores, (std::vector<float>{1.5f, -2.0f}));

  ASSERT_EQ(reader.tensors().size(), 2u);
  const TensorInfo& first = reader.tensors()[0];
  EXPECT_EQ(first.shape, (std::vector<uint64_t>{2, 8}));
  EXPECT_EQ(first.extent, (Extent{reader.data_offset_bytes(), 64}));
  const TensorInfo* second = reader.FindTensor("blk.1.weight");
  ASSERT_NE(second, nullptr);
  EXPECT_EQ(second->dtype, DType::kQ8_0);
  EXPECT_EQ(second->extent, (Extent{reader.data_offset_bytes() + 64, 34}));
  EXPECT_EQ(reader.FindTensor("blk.2.weight"), nullptr);
  EXPECT_EQ(reader.Find("absent"), nullptr);
}

TEST(GgufReaderTest, ReadsVersion2AndPaddedEndAndNoTensors) {
  RawGguf raw = TinyGguf();
  raw.version = 2;
  EXPECT_TRUE(OpenBytes(raw.Bytes()));
  raw.data_bytes = 128;
  EXPECT_TRUE(OpenBytes(raw.Bytes()));
  raw.tensors.clear();
  EXPECT_TRUE(OpenBytes(raw.Header()));  // a vocabulary alone need not be padded
}

TEST(GgufReaderTest, AnErrorOfTheCallbackEndsTheWalk) {
  const std::string bytes = TinyGguf().Bytes();
  const GgufReader reader = OpenBytes(bytes).value();
  int calls = 0;
  const Status walked = reader.ForEachString("tokens", [&](uint64_t, std::string_view) -> Status {
    ++calls;
    return MakeError(ErrorCode::kFailed, "stop");
  });
  ASSERT_FALSE(walked);
  EXPECT_EQ(walked.error().message, "stop");
  EXPECT_EQ(calls, 1);
}

TEST(GgufReaderTest, WalksArraysOfEveryIntegerType) {
  struct Case {
    uint32_t type;
    std::string element;
    int64_t value;
  };
  const std::vector<Case> cases = {{0, BytesOf<uint8_t>(200), 200},
                                   {1, BytesOf<int8_t>(-100), -100},
                                   {2, BytesOf<uint16_t>(60000), 60000},
                                   {3, BytesOf<int16_t>(-30000), -30000},
                                   {4, BytesOf<uint32_t>(1u << 31), 1u << 31},
                                   {5, BytesOf<int32_t>(-7), -7},
                                   {10, BytesOf<uint64_t>(9), 9},
                                   {11, BytesOf<int64_t>(-9), -9}};
  for (const Case& each : cases) {
    RawGguf raw;
    raw.keys = {{"a", 9, BytesOf(each.type) + BytesOf<uint64_t>(1) + each.element}};
    const std::string bytes = raw.Bytes();
    const GgufReader reader = OpenBytes(bytes).value();
    int64_t seen = 0;
    ASSERT_TRUE(reader.ForEachInt("a", [&](uint64_t, int64_t value) -> Status {
      seen = value;
      return {};
    }));
    EXPECT_EQ(seen, each.value) << each.type;
  }
  RawGguf raw;
  raw.keys = {{"a", 9, BytesOf<uint32_t>(10) + BytesOf<uint64_t>(1) + BytesOf<uint64_t>(UINT64_MAX)}};
  const std::string bytes = raw.Bytes();
  const GgufReader reader = OpenBytes(bytes).value();
  const Status walked = reader.ForEachInt("a", [](uint64_t, int64_t) -> Status { return {}; });
  ASSERT_FALSE(walked);
  EXPECT_NE(walked.error().message.find("2^63"), std::string::npos) << walked.error().message;
}

TEST(GgufReaderTest, A1NotAGgufFile) {
  ExpectRefused("", "is empty");
  const std::string tiny = TinyGguf().Bytes();
  for (size_t size = 1; size <= 64; ++size) {
    SCOPED_TRACE(size);
    ExpectRefused(std::string(size, 'x'), "begins with 'GGUF'");
    ExpectRefused(tiny.substr(0, size), "");
  }
  ExpectAllRefused({{"'GGUX'", [](RawGguf& raw) { raw.magic = "GGUX"; }},
                    {"version at offset 4: is 1,", [](RawGguf& raw) { raw.version = 1; }},
                    {"version at offset 4: is 0,", [](RawGguf& raw) { raw.version = 0; }},
                    {"version at offset 4: is 4,", [](RawGguf& raw) { raw.version = 4; }},
                    {"big-endian", [](RawGguf& raw) { raw.version = 0x03000000; }}});
}

TEST(GgufReaderTest, A2TruncatedAnywhere) {
  const RawGguf raw = TinyGguf();
  const std::string whole = raw.Bytes();
  for (size_t size = 0; size < whole.size(); ++size) {
    SCOPED_TRACE(size);
    ExpectRefused(whole.substr(0, size), "");
  }
  EXPECT_TRUE(OpenBytes(whole));
  ExpectRefused(whole.substr(0, whole.size() - 1), "tensor 'blk.1.weight'");
  ExpectRefused(whole.substr(0, whole.size() - 35), "tensor 'blk.0.weight'");
}

TEST(GgufReaderTest, A4CountsAndLengths) {
  std::vector<BadCase> cases;
  for (const uint64_t count : {uint64_t{1} << 20, (uint64_t{1} << 20) + 1, uint64_t{1} << 32,
                               uint64_t{1} << 63, std::numeric_limits<uint64_t>::max()}) {
    cases.push_back(
        {fmt::format("counts {} tensors", count), [count](RawGguf& raw) { raw.num_tensors = count; }});
    cases.push_back({fmt::format("counts {} keys", count), [count](RawGguf& raw) { raw.num_keys = count; }});
    cases.push_back({fmt::format("an array of {} elements of type u8", count),
                     [count](RawGguf& raw) { raw.keys[6].value = BytesOf<uint32_t>(0) + BytesOf(count); }});
    cases.push_back({fmt::format("an array of {} elements of type f64", count),
                     [count](RawGguf& raw) { raw.keys[6].value = BytesOf<uint32_t>(12) + BytesOf(count); }});
    cases.push_back({fmt::format("an array of {} elements of type string", count),
                     [count](RawGguf& raw) { raw.keys[6].value = BytesOf<uint32_t>(8) + BytesOf(count); }});
  }
  for (const uint64_t length : {uint64_t{1} << 20, (uint64_t{1} << 20) + 1, uint64_t{1} << 63, UINT64_MAX}) {
    cases.push_back({"key 'general.architecture' at offset",
                     [length](RawGguf& raw) { raw.keys[0].value = BytesOf(length); }});
    cases.push_back({"key 'tokens' at offset", [length](RawGguf& raw) {
                       raw.keys[6].value = BytesOf<uint32_t>(8) + BytesOf<uint64_t>(1) + BytesOf(length);
                     }});
  }
  cases.push_back({"array of type 9",
                   [](RawGguf& raw) { raw.keys[6].value = BytesOf<uint32_t>(9) + BytesOf<uint64_t>(1); }});
  cases.push_back({"array of type 13",
                   [](RawGguf& raw) { raw.keys[6].value = BytesOf<uint32_t>(13) + BytesOf<uint64_t>(1); }});
  cases.push_back({"value type 13", [](RawGguf& raw) { raw.keys[1].type = 13; }});
  cases.push_back({"value type 4294967295", [](RawGguf& raw) { raw.keys[1].type = UINT32_MAX; }});
  cases.push_back({"a bool of 2", [](RawGguf& raw) { raw.keys[4].value = BytesOf<uint8_t>(2); }});
  ExpectAllRefused(cases);
}

TEST(GgufReaderTest, A4TheTextsOfAHeaderHaveALimit) {
  RawGguf raw;
  for (int i = 0; i < 65; ++i)
    raw.keys.push_back({fmt::format("k{}", i), 8, GgufText(std::string(1 << 20, 'x'))});
  ExpectRefused(raw.Bytes(), "take more than 64.0 MiB");
}

TEST(GgufReaderTest, A5Dims) {
  const auto with_dims = [](std::vector<uint64_t> dims, uint32_t type = 0) {
    return [dims, type](RawGguf& raw) {
      raw.tensors[0].dims = dims;
      raw.tensors[0].type = type;
    };
  };
  const uint64_t huge = uint64_t{1} << 62;
  ExpectAllRefused(
      {{"has 0 dimensions", with_dims({})},
       {"has 5 dimensions", with_dims({1, 1, 1, 1, 1})},
       {"has 4294967294 dimensions", [](RawGguf& raw) { raw.tensors[0].num_dims = UINT32_MAX - 1; }},
       {"every dimension above 0", with_dims({0, 2})},
       {"every dimension above 0", with_dims({8, 0})},
       {"overflows", with_dims({UINT64_MAX})},  // -1
       {"overflows", with_dims({huge})},
       {"overflows", with_dims({huge, huge, huge, huge})},
       {"overflows", with_dims({uint64_t{1} << 32, uint64_t{1} << 32})},
       {"overflows", with_dims({2, huge}, 24)},
       {"overflows", with_dims({uint64_t{1} << 63}, 24)},
       {"expected a multiple of 32 for Q8_0", with_dims({33}, 8)},
       {"expected a multiple of 32 for Q8_0", with_dims({16, 2}, 8)},
       {"beyond the end of the file", with_dims({uint64_t{1} << 40, 1})}});
}

TEST(GgufReaderTest, A6Offsets) {
  const auto second_at = [](uint64_t offset) {
    return [offset](RawGguf& raw) { raw.tensors[1].offset_bytes = offset; };
  };
  ExpectAllRefused({{"offset 65 is no multiple of the alignment 32", second_at(65)},
                    {"offset 32 overlaps", second_at(32)},
                    {"offset 0 overlaps", second_at(0)},
                    {"offset 96 leaves a hole", second_at(96)},
                    {"leaves a hole", second_at(uint64_t{1} << 62)},
                    {"leaves a hole", second_at(UINT64_MAX - 31)},
                    {"leaves a hole", [](RawGguf& raw) { raw.tensors[0].offset_bytes = 32; }},
                    {"leaves a hole",
                     [](RawGguf& raw) {  // unsorted
                       raw.tensors[0].offset_bytes = 64;
                       raw.tensors[1].offset_bytes = 0;
                     }},
                    {"beyond the end of the file", [](RawGguf& raw) { raw.data_bytes -= 1; }},
                    {"tensor 'blk.0.weight': its 64 bytes", [](RawGguf& raw) { raw.data_bytes = 63; }},
                    {"tensor 'blk.0.weight': its 64 bytes", [](RawGguf& raw) { raw.data_bytes = 0; }},
                    {"no multiple of the alignment 64", [](RawGguf& raw) {
                       raw.keys.push_back({"general.alignment", 4, BytesOf<uint32_t>(64)});
                       raw.alignment_bytes = 64;
                       raw.tensors[1].offset_bytes = 96;
                     }}});
}

TEST(GgufReaderTest, A7UnknownTypesAreNamed) {
  const auto with_type = [](uint32_t type) { return [type](RawGguf& raw) { raw.tensors[1].type = type; }; };
  ExpectAllRefused({{"tensor 'blk.1.weight'", with_type(16)},
                    {"type 16 (IQ2_XXS)", with_type(16)},
                    {"expected a multiple of 256 for Q4_K", with_type(12)},
                    {"type 4 (Q4_2)", with_type(4)},
                    {"type 39 (MXFP4)", with_type(39)},
                    {"type 40 (unknown)", with_type(40)},
                    {"type 4294967295 (unknown)", with_type(UINT32_MAX)}});
}

TEST(GgufReaderTest, A8Names) {
  const auto tensor_name = [](std::string name) {
    return [name](RawGguf& raw) { raw.tensors[1].name = name; };
  };
  const auto key_name = [](std::string name) { return [name](RawGguf& raw) { raw.keys[1].key = name; }; };
  ExpectAllRefused({{"tensor 'blk.0.weight': is there twice", tensor_name("blk.0.weight")},
                    {"is empty", tensor_name("")},
                    {"'a\\x00b' holds a NUL", tensor_name(std::string("a\0b", 3))},
                    {"is not valid UTF-8", tensor_name("a\xff")},
                    {"is not valid UTF-8", tensor_name("\xc0\x80")},
                    {"is not valid UTF-8", tensor_name("\xed\xa0\x80")},
                    {"'\\x1b[2J' holds a control character", tensor_name("\x1b[2J")},
                    {"a string of 1025 bytes, expected at most 1024", tensor_name(std::string(1025, 'n'))},
                    {"a string of 1048576 bytes", tensor_name(std::string(1 << 20, 'n'))},
                    {"key 'opt.scale' at offset", key_name("opt.scale")},
                    {"is there twice", key_name("opt.scale")},
                    {"is empty", key_name("")},
                    {"holds a NUL", key_name(std::string("\0", 1))},
                    {"is not valid UTF-8", key_name("\xf5\x80\x80\x80")},
                    {"a string of 65536 bytes, expected at most 65535", key_name(std::string(65536, 'k'))}});
}

TEST(GgufReaderTest, A8NamesAreNeverPaths) {
  RawGguf raw = TinyGguf();
  raw.tensors[0].name = "../../etc/passwd";
  raw.tensors[1].name = "größe/ß";
  EXPECT_TRUE(OpenBytes(raw.Bytes()));
}

TEST(GgufReaderTest, A9EveryGetterRefusesEveryOtherType) {
  const std::string bytes = TinyGguf().Bytes();
  const GgufReader reader = OpenBytes(bytes).value();
  const auto nothing_s = [](uint64_t, std::string_view) -> Status { return {}; };
  const auto nothing_i = [](uint64_t, int64_t) -> Status { return {}; };
  const auto nothing_f = [](uint64_t, float) -> Status { return {}; };
  // Of each key the getters that take it.
  const std::vector<std::pair<std::string, std::string>> keys = {{"general.architecture", "s"},
                                                                 {"opt.block_count", "u"},
                                                                 {"opt.scale", "f"},
                                                                 {"opt.flag", "b"},
                                                                 {"opt.wide", "u"},
                                                                 {"opt.negative", ""},
                                                                 {"tokens", "Sc"},
                                                                 {"types", "Ic"},
                                                                 {"scores", "Fc"},
                                                                 {"absent", ""}};
  for (const auto& [key, takers] : keys) {
    std::vector<std::pair<char, Status>> results;
    const auto add = [&](char getter, auto&& result) {
      results.emplace_back(getter, result.has_value() ? Status() : Status(result.error()));
    };
    add('s', reader.GetString(key));
    add('u', reader.GetUint(key));
    add('f', reader.GetFloat(key));
    add('b', reader.GetBool(key));
    add('c', reader.ArrayCount(key));
    add('S', reader.ForEachString(key, nothing_s));
    add('I', reader.ForEachInt(key, nothing_i));
    add('F', reader.ForEachFloat(key, nothing_f));
    for (const auto& [getter, result] : results) {
      SCOPED_TRACE(key + " " + getter);
      ASSERT_EQ(result.has_value(), takers.find(getter) != std::string::npos);
      if (result) continue;
      EXPECT_EQ(result.error().code, ErrorCode::kBadModel);
      EXPECT_TRUE(result.error().message.starts_with("m.gguf: key '" + key + "'")) << result.error().message;
    }
  }
}

TEST(GgufReaderTest, A9FloatsMustBeFinite) {
  for (const float value :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    RawGguf raw = TinyGguf();
    raw.keys[3].value = BytesOf(value);
    const std::string bytes = raw.Bytes();
    const GgufReader reader = OpenBytes(bytes).value();
    ASSERT_FALSE(reader.GetFloat("opt.scale"));
  }
}

TEST(GgufReaderTest, A10Alignment) {
  const auto aligned = [](uint32_t type, std::string value) {
    return [type, value](RawGguf& raw) { raw.keys.push_back({"general.alignment", type, value}); };
  };
  std::vector<BadCase> cases = {{"is of type string or negative", aligned(8, GgufText("32"))},
                                {"is of type i32 or negative", aligned(5, BytesOf<int32_t>(-32))}};
  for (const uint32_t value : {0u, 1u, 3u, 4u, 33u, 1u << 21, 1u << 31, UINT32_MAX}) {
    cases.push_back({fmt::format("is {}, expected a power of two", value), aligned(4, BytesOf(value))});
  }
  cases.push_back({"expected a power of two", aligned(10, BytesOf<uint64_t>(uint64_t{1} << 63))});
  ExpectAllRefused(cases);
  for (const uint32_t value : {8u, 64u, 4096u, 1u << 20}) {
    RawGguf raw;
    raw.alignment_bytes = value;
    raw.keys = {{"general.alignment", 4, BytesOf(value)}};
    raw.tensors = {{"a", {1}, 0, 0}, {"b", {1}, 0, value}};
    raw.data_bytes = value + 4;
    const Result<GgufReader> opened = OpenBytes(raw.Bytes());
    ASSERT_TRUE(opened) << opened.error().message;
    EXPECT_EQ(opened->alignment_bytes(), value);
    EXPECT_EQ(opened->data_offset_bytes(), RoundUp(raw.Header().size(), value));
  }
}

TEST(GgufReaderTest, A16OtherFilesAreNamed) {
  ExpectRefused("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "a Git LFS pointer");
  ExpectRefused("\n <!DOCTYPE html><html>", "an HTML or XML page");
  ExpectRefused("PK\x03\x04....", "a ZIP archive");
  ExpectRefused("\x80\x02}q\x01(X", "a Python pickle");
  ExpectRefused("ggjt\x03", "older than GGUF");
  ExpectRefused(BytesOf<uint64_t>(40) + "{\"a\":{}}", "safetensors");
}

TEST(GgufReaderTest, A16NothingFollowsTheLastTensor) {
  ExpectAllRefused({{"bytes follow the last tensor", [](RawGguf& raw) { raw.data_bytes = 129; }},
                    {"bytes follow the last tensor", [](RawGguf& raw) { raw.data_bytes = 100'000; }}});
}

TEST(GgufReaderTest, A15ReadsFilesAbove2TiB) {
  TempDir dir;
  RawGguf raw;
  raw.tensors = {{"huge", {uint64_t{1} << 20, uint64_t{1} << 21}, 24, 0},
                 {"last", {8}, 0, uint64_t{1} << 41}};
  const std::string path = dir.Write("huge.gguf", raw.Bytes());
  const uint64_t file_bytes = raw.Bytes().size() + (uint64_t{1} << 41) + 32;
  if (truncate(path.c_str(), static_cast<off_t>(file_bytes)) != 0)
    GTEST_SKIP() << "no sparse file of 2 TiB here";
  const Result<GgufReader> opened = GgufReader::Open(OpenFileSource(path).value());
  ASSERT_TRUE(opened) << opened.error().message;
  EXPECT_EQ(opened->FindTensor("last")->extent.end_bytes(), file_bytes);
}

// A vocabulary longer than the window of the file source, walked twice and interleaved with another array.
TEST(GgufReaderTest, WalksLargeArraysOfAFile) {
  TempDir dir;
  constexpr uint64_t kCount = 30'000;
  RawGguf raw;
  std::string tokens = BytesOf<uint32_t>(8) + BytesOf(kCount);
  std::string types = BytesOf<uint32_t>(5) + BytesOf(kCount);
  for (uint64_t i = 0; i < kCount; ++i) {
    tokens += GgufText(fmt::format("token {}", i));
    types += BytesOf(static_cast<int32_t>(i));
  }
  raw.keys = {{"tokens", 9, tokens}, {"types", 9, types}};
  const std::string path = dir.Write("vocab.gguf", raw.Bytes());
  const Result<GgufReader> opened = GgufReader::Open(OpenFileSource(path).value());
  ASSERT_TRUE(opened) << opened.error().message;
  for (int round = 0; round < 2; ++round) {
    uint64_t walked = 0;
    ASSERT_TRUE(opened->ForEachString("tokens", [&](uint64_t index, std::string_view text) -> Status {
      EXPECT_EQ(text, fmt::format("token {}", index));
      ++walked;
      if (index % 10'000 != 0) return {};
      return opened->ForEachInt("types", [](uint64_t i, int64_t value) -> Status {
        EXPECT_EQ(static_cast<uint64_t>(value), i);
        return {};
      });
    }));
    EXPECT_EQ(walked, kCount);
  }
}

// Any damage to a valid header is refused or gives a file whose tensors still lie inside it.
TEST(GgufReaderTest, RandomDamageNeverEscapesTheFile) {
  const std::string whole = TinyGguf().Bytes();
  constexpr uint64_t kSeed = 20240917;
  RecordProperty("seed", std::to_string(kSeed));
  Random random(kSeed);
  for (int round = 0; round < 20'000; ++round) {
    std::string bytes = whole;
    for (uint64_t flips = 1 + random.Below(3); flips > 0; --flips) {
      bytes[random.Below(bytes.size())] = static_cast<char>(random.Next());
    }
    const Result<GgufReader> opened = OpenBytes(bytes);
    if (!opened) {
      ASSERT_EQ(opened.error().code, ErrorCode::kBadModel) << "seed " << kSeed << " round " << round;
      continue;
    }
    for (const TensorInfo& tensor : opened->tensors()) ASSERT_LE(tensor.extent.end_bytes(), bytes.size());
  }
}

}  // namespace
}  // namespace frugal
