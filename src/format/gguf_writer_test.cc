#include "src/format/gguf_writer.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "src/format/byte_source.h"
#include "src/base/temp_dir_for_test.h"

namespace frugal {
namespace {

std::span<const std::byte> Bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

constexpr std::array<uint64_t, 2> kMatrix = {3, 64};
constexpr std::array<uint64_t, 1> kVector = {5};

// One key of each kind, a Q8_0 matrix (204 bytes) and an F32 vector (20 bytes).
void AddEverything(GgufWriter& writer) {
  writer.AddString("general.architecture", "opt");
  writer.AddUint32("u32", 7);
  writer.AddUint64("u64", uint64_t{1} << 40);
  writer.AddFloat32("f32", 0.25f);
  writer.AddFloat64("f64", 0.1);
  writer.AddBool("bool", true);
  const std::vector<std::string> texts = {"a", "", "c\n"};
  const std::vector<std::string_view> views = {"x", "yy"};
  writer.AddStringArray("texts", texts);
  writer.AddStringArray("views", std::span<const std::string_view>(views));
  writer.AddInt32Array("ints", std::array{-1, 2});
  writer.AddFloat32Array("floats", std::array{1.5f});
  EXPECT_EQ(writer.AddTensor("matrix", DType::kQ8_0, kMatrix), 0u);
  EXPECT_EQ(writer.AddTensor("vector", DType::kF32, kVector), 1u);
}

Status WriteEverything(GgufWriter& writer) {
  AddEverything(writer);
  FRUGAL_TRY(writer.BeginData());
  FRUGAL_TRY(writer.WriteTensorPart(1, 0, Bytes(std::string(20, 'v'))));
  FRUGAL_TRY(writer.WriteTensorPart(0, 100, Bytes(std::string(104, '2'))));
  FRUGAL_TRY(writer.WriteTensorPart(0, 0, Bytes(std::string(100, '1'))));
  return writer.Finish();
}

TEST(GgufWriterTest, WhatIsWrittenIsRead) {
  for (const uint32_t alignment : {32u, 4096u}) {
    TempDir dir;
    const std::string path = dir.File("m.gguf");
    auto writer = GgufWriter::Open(path, Overwrite::kNo, alignment).value();
    const Status written = WriteEverything(*writer);
    ASSERT_TRUE(written) << written.error().message;
    const std::string bytes = ReadAllForTest(path);
    EXPECT_EQ(bytes.size(), writer->file_bytes());
    EXPECT_EQ(bytes.size() % alignment, 0u);

    const auto reader = GgufReader::Open(OpenFileSource(path).value());
    ASSERT_TRUE(reader) << reader.error().message;
    EXPECT_EQ(reader->version(), 3u);
    EXPECT_EQ(reader->alignment_bytes(), alignment);
    EXPECT_EQ(reader->GetString("general.architecture").value(), "opt");
    EXPECT_EQ(reader->GetUint("u32").value(), 7u);
    EXPECT_EQ(reader->GetUint("u64").value(), uint64_t{1} << 40);
    EXPECT_EQ(reader->GetFloat("f32").value(), 0.25);
    EXPECT_EQ(reader->GetFloat("f64").value(), 0.1);
    EXPECT_TRUE(reader->GetBool("bool").value());
    EXPECT_EQ(reader->ArrayCount("floats").value(), 1u);
    std::vector<std::string> texts;
    for (const char* key : {"texts", "views"}) {
      ASSERT_TRUE(reader->ForEachString(key, [&](uint64_t, std::string_view text) -> Status {
        texts.emplace_back(text);
        return {};
      }));
    }
    EXPECT_EQ(texts, (std::vector<std::string>{"a", "", "c\n", "x", "yy"}));
    ASSERT_TRUE(reader->ForEachInt("ints", [](uint64_t index, int64_t value) -> Status {
      EXPECT_EQ(value, index == 0 ? -1 : 2);
      return {};
    }));

    const TensorInfo* matrix = reader->FindTensor("matrix");
    const TensorInfo* vector = reader->FindTensor("vector");
    ASSERT_TRUE(matrix != nullptr && vector != nullptr);
    EXPECT_EQ(matrix->shape, (std::vector<uint64_t>{3, 64}));
    EXPECT_EQ(matrix->dtype, DType::kQ8_0);
    EXPECT_EQ(matrix->extent, (Extent{writer->tensor_offset_bytes(0), 204}));
    EXPECT_EQ(vector->extent, (Extent{writer->tensor_offset_bytes(1), 20}));
    EXPECT_EQ(matrix->extent.offset_bytes % alignment, 0u);
    EXPECT_EQ(vector->extent.offset_bytes % alignment, 0u);
    EXPECT_EQ(bytes.substr(matrix->extent.offset_bytes, 204), std::string(100, '1') + std::string(104, '2'));
    EXPECT_EQ(bytes.substr(vector->extent.offset_bytes, 20), std::string(20, 'v'));
    EXPECT_EQ(bytes.substr(vector->extent.end_bytes()),
              std::string(bytes.size() - vector->extent.end_bytes(), '\0'));
  }
}

TEST(GgufWriterTest, KeysAloneMakeAFile) {
  TempDir dir;
  auto writer = GgufWriter::Open(dir.File("m.gguf"), Overwrite::kNo).value();
  ASSERT_TRUE(writer->BeginData());
  ASSERT_TRUE(writer->Finish());
  const auto reader = GgufReader::Open(OpenFileSource(dir.File("m.gguf")).value());
  ASSERT_TRUE(reader) << reader.error().message;
  EXPECT_TRUE(reader->tensors().empty());
  EXPECT_EQ(ReadAllForTest(dir.File("m.gguf")).size(), 4096u);
}

TEST(GgufWriterTest, WhatNoReaderWouldTakeIsRefused) {
  const auto expect = [](const std::string& part, const auto& add) {
    TempDir dir;
    auto writer = GgufWriter::Open(dir.File("m.gguf"), Overwrite::kNo).value();
    add(*writer);
    const Status began = writer->BeginData();
    ASSERT_FALSE(began) << part;
    EXPECT_EQ(began.error().code, ErrorCode::kFailed);
    EXPECT_NE(began.error().message.find(part), std::string::npos) << began.error().message;
    writer.reset();
    EXPECT_TRUE(dir.empty());
  };
  expect("key 'a' was added twice", [](GgufWriter& writer) {
    writer.AddBool("a", true);
    writer.AddUint32("a", 1);
  });
  expect("'general.alignment' was added twice",
         [](GgufWriter& writer) { writer.AddUint32("general.alignment", 32); });
  expect("is too long", [](GgufWriter& writer) { writer.AddBool(std::string(70'000, 'k'), true); });
  expect("is empty", [](GgufWriter& writer) { writer.AddBool("", true); });
  expect("a string of 1048577 bytes",
         [](GgufWriter& writer) { writer.AddString("a", std::string((1 << 20) + 1, 'x')); });
  expect("was added twice", [](GgufWriter& writer) {
    writer.AddTensor("t", DType::kF32, kVector);
    writer.AddTensor("t", DType::kF32, kVector);
  });
  const auto shape = [](std::vector<uint64_t> dims, DType dtype) {
    return [dims, dtype](GgufWriter& writer) { writer.AddTensor("t", dtype, dims); };
  };
  for (const auto& dims : std::vector<std::vector<uint64_t>>{
           {}, {0}, {4, 0}, {1, 1, 1, 1, 1}, {UINT64_MAX}, {uint64_t{1} << 32, uint64_t{1} << 32}}) {
    expect("has a shape that no GGUF file can hold", shape(dims, DType::kF32));
  }
  expect("has a shape that no GGUF file can hold", shape({33}, DType::kQ8_0));
  expect("larger than 2^62 bytes", [](GgufWriter& writer) {
    writer.AddTensor("t", DType::kI8, std::array{uint64_t{1} << 61});
    writer.AddTensor("u", DType::kI8, std::array{uint64_t{1} << 62});
  });
  expect("has a name that is too long",
         [](GgufWriter& writer) { writer.AddTensor(std::string(2000, 'n'), DType::kF32, kVector); });
}

TEST(GgufWriterTest, BadAlignmentIsUsage) {
  TempDir dir;
  for (const uint32_t alignment : {0u, 4u, 33u, 1u << 21}) {
    const auto opened = GgufWriter::Open(dir.File("m.gguf"), Overwrite::kNo, alignment);
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().code, ErrorCode::kUsage);
  }
  EXPECT_TRUE(dir.empty());
}

TEST(GgufWriterTest, UnwrittenTensorsDoNotFinish) {
  TempDir dir;
  auto writer = GgufWriter::Open(dir.File("m.gguf"), Overwrite::kNo).value();
  writer->AddTensor("t", DType::kF32, kVector);
  ASSERT_TRUE(writer->BeginData());
  ASSERT_TRUE(writer->WriteTensorPart(0, 4, Bytes("0123456789abcdef")));
  const Status finished = writer->Finish();
  ASSERT_FALSE(finished);
  EXPECT_NE(finished.error().message.find("tensor 't': 16 of 20 bytes were written"), std::string::npos)
      << finished.error().message;
  ASSERT_TRUE(writer->WriteTensorPart(0, 0, Bytes("0123")));
  EXPECT_TRUE(writer->Finish());
}

// The hook is a plain function, so that what it counts lies here.
int operations_left = 0;
int FailOnce(const char*) { return operations_left-- == 0 ? ENOSPC : 0; }

TEST(GgufWriterTest, D9EveryOperationMayFail) {
  int n = 0;
  for (;; ++n) {
    SCOPED_TRACE(n);
    TempDir dir;
    const std::string path = dir.File("m.gguf");
    auto writer = GgufWriter::Open(path, Overwrite::kNo).value();
    operations_left = n;
    writer->set_fault_hook_for_test(FailOnce);
    const Status written = WriteEverything(*writer);
    writer.reset();
    if (written) break;
    EXPECT_EQ(written.error().code, ErrorCode::kIo);
    EXPECT_TRUE(written.error().message.starts_with(path + ": ")) << written.error().message;
    EXPECT_NE(written.error().message.find(std::strerror(ENOSPC)), std::string::npos)
        << written.error().message;
    EXPECT_TRUE(dir.empty());
  }
  EXPECT_EQ(n, 10);  // statvfs, fallocate, 4 writes, fsync, close, rename, the directory's fsync
}

TEST(GgufWriterTest, ErrorsNameTheTensor) {
  TempDir dir;
  auto writer = GgufWriter::Open(dir.File("m.gguf"), Overwrite::kNo).value();
  AddEverything(*writer);
  ASSERT_TRUE(writer->BeginData());
  operations_left = 0;
  writer->set_fault_hook_for_test(FailOnce);
  const Status written = writer->WriteTensorPart(1, 0, Bytes("0123"));
  ASSERT_FALSE(written);
  EXPECT_NE(written.error().message.find(
                fmt::format("tensor 'vector': writing at offset {}", writer->tensor_offset_bytes(1))),
            std::string::npos)
      << written.error().message;
}

}  // namespace
}  // namespace frugal
