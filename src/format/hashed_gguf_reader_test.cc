#include "src/format/hashed_gguf_reader.h"

#include <gtest/gtest.h>

#include <array>
#include <fstream>

#include "src/base/temp_dir_for_test.h"
#include "src/format/hashed_gguf_writer.h"

namespace frugal {
namespace {

constexpr uint64_t kBundles = 5, kStride = 1024;

std::vector<std::byte> Pattern(size_t size_bytes, uint32_t seed) {
  std::vector<std::byte> bytes(size_bytes);
  for (size_t i = 0; i < size_bytes; ++i) bytes[i] = static_cast<std::byte>((i * 7 + seed + i / 251) & 0xff);
  return bytes;
}

// A tensor of more than two chunks, and bundles of two layers.
class HashedGgufReaderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto writer = HashedGgufWriter::Open(path_, Overwrite::kNo);
    ASSERT_TRUE(writer) << writer.error().message;
    (*writer)->keys().AddString("a.key", "value");
    (*writer)->AddTensor("plain", DType::kI32, std::array<uint64_t, 1>{plain_.size() / 4});
    (*writer)->AddBundles(0, kBundles, kStride);
    (*writer)->AddBundles(1, kBundles, kStride);
    ASSERT_TRUE((*writer)->BeginData());
    ASSERT_TRUE((*writer)->Append(0, plain_));
    ASSERT_TRUE((*writer)->Append(1, bundles_));
    ASSERT_TRUE((*writer)->Append(2, bundles_));
    ASSERT_TRUE((*writer)->Finish());
    content_hash_ = (*writer)->content_hash();
  }

  std::unique_ptr<HashedGgufReader> Open() {
    auto reader = HashedGgufReader::Open(path_);
    EXPECT_TRUE(reader) << reader.error().message;
    return reader ? *std::move(reader) : nullptr;
  }
  void Flip(uint64_t offset_bytes) {
    std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(offset_bytes));
    const char byte = static_cast<char>(file.get() ^ 1);
    file.seekp(static_cast<std::streamoff>(offset_bytes));
    file.put(byte);
  }
  void ExpectRefusal(const std::string& part) {
    const auto reader = HashedGgufReader::Open(path_);
    ASSERT_FALSE(reader) << part;
    EXPECT_EQ(reader.error().code, ErrorCode::kBadModel);
    EXPECT_NE(reader.error().message.find(part), std::string::npos) << reader.error().message;
  }

  const TempDir directory_;
  const std::string path_ = directory_.File("file.gguf");
  const std::vector<std::byte> plain_ = Pattern(2 * kHashChunkBytes + 400, 1),
                               bundles_ = Pattern(kBundles * kStride, 2);
  uint64_t content_hash_ = 0;
};

TEST_F(HashedGgufReaderTest, GivesWhatWasWritten) {
  const auto reader = Open();
  ASSERT_NE(reader, nullptr);
  EXPECT_EQ(reader->content_hash(), content_hash_);
  ASSERT_EQ(reader->tensors().size(), 3u);
  EXPECT_EQ(reader->Find("nothing"), nullptr);
  const HashedGgufReader::Tensor* plain = reader->Find("plain");
  ASSERT_NE(plain, nullptr);
  const auto all = reader->ReadAll(*plain);
  ASSERT_TRUE(all) << all.error().message;
  EXPECT_EQ(*all, plain_);
  std::vector<std::byte> end(kHashChunkBytes + 400);
  ASSERT_TRUE(reader->Read(*plain, kHashChunkBytes, end));
  EXPECT_TRUE(std::equal(end.begin(), end.end(), plain_.begin() + kHashChunkBytes));
  const HashedGgufReader::Tensor* bundles = reader->Find("blk.1.ffn_bundle.weight");
  ASSERT_NE(bundles, nullptr);
  EXPECT_TRUE(bundles->is_bundle);
  EXPECT_EQ(bundles->unit_bytes, kStride);
  std::vector<std::byte> two(2 * kStride);
  ASSERT_TRUE(reader->Read(*bundles, 3 * kStride, two));
  EXPECT_TRUE(std::equal(two.begin(), two.end(), bundles_.begin() + 3 * kStride));
  EXPECT_EQ(reader->bytes_read(), plain_.size() + end.size() + two.size());
}

TEST_F(HashedGgufReaderTest, FindsAFlippedBitOfData) {
  uint64_t offset_bytes = 0;
  {
    const auto reader = Open();
    ASSERT_NE(reader, nullptr);
    offset_bytes = reader->Find("blk.0.ffn_bundle.weight")->info->extent.offset_bytes + 2 * kStride;
  }
  Flip(offset_bytes + 100);
  const auto reader = Open();
  ASSERT_NE(reader, nullptr);
  const HashedGgufReader::Tensor& bundles = *reader->Find("blk.0.ffn_bundle.weight");
  std::vector<std::byte> two(2 * kStride);
  EXPECT_TRUE(reader->Read(bundles, 0, two));
  const Status status = reader->Read(bundles, kStride, two);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kBadModel);
  EXPECT_NE(status.error().message.find(
                fmt::format("blk.0.ffn_bundle.weight: the bytes at offset {} do not match", offset_bytes)),
            std::string::npos)
      << status.error().message;
}

TEST_F(HashedGgufReaderTest, RefusesDamagedHashes) {
  const auto reader = Open();
  ASSERT_NE(reader, nullptr);
  const GgufReader& gguf = reader->gguf();
  for (const auto& [name, part] :
       {std::pair{"blk.1.ffn_bundle.xxh3", "blk.1.ffn_bundle.xxh3: the hashes do not match"},
        std::pair{kTensorHashesName, "frugal.tensor_hashes: the hashes do not match"},
        std::pair{kHashOfHashesName, "blk.0.ffn_bundle.xxh3: the hashes do not match"}}) {
    const uint64_t offset_bytes = gguf.FindTensor(name)->extent.offset_bytes;
    Flip(offset_bytes);
    ExpectRefusal(part);
    Flip(offset_bytes);
  }
  const uint64_t value = gguf.Find("a.key")->offset_bytes;
  Flip(value + 8);  // behind the length of the text
  ExpectRefusal("the header at offset 0 does not match its hash");
  Flip(value + 8);
  EXPECT_NE(Open(), nullptr);
}

TEST(HashedGgufReaderRefusalTest, AGgufWithoutHashesIsRefused) {
  const TempDir directory;
  const std::string path = directory.File("plain.gguf");
  auto writer = GgufWriter::Open(path, Overwrite::kNo);
  ASSERT_TRUE(writer);
  const std::array<float, 4> values = {1, 2, 3, 4};
  const size_t tensor = (*writer)->AddTensor("x", DType::kF32, std::array<uint64_t, 1>{4});
  ASSERT_TRUE((*writer)->BeginData());
  ASSERT_TRUE((*writer)->WriteTensorPart(tensor, 0, std::as_bytes(std::span(values))));
  ASSERT_TRUE((*writer)->Finish());
  const auto reader = HashedGgufReader::Open(path);
  ASSERT_FALSE(reader);
  EXPECT_EQ(reader.error().code, ErrorCode::kBadModel);
  EXPECT_NE(reader.error().message.find(kHashChunkKey), std::string::npos) << reader.error().message;
}

}  // namespace
}  // namespace frugal
