#include "src/format/hashed_gguf_writer.h"

#include <gtest/gtest.h>

#include <numeric>
#include <string>
#include <vector>

#include "src/base/random.h"
#include "src/format/byte_source.h"
#include "src/format/hashed_gguf_reader.h"
#include "src/base/temp_dir_for_test.h"

namespace frugal {
namespace {

std::vector<std::byte> RandomBytes(size_t size, Random& random) {
  std::vector<std::byte> bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.Next());
  return bytes;
}

std::vector<uint64_t> ReadHashes(const std::string& path, std::string_view tensor) {
  auto source = OpenFileSource(path);
  EXPECT_TRUE(source.has_value());
  auto again = OpenFileSource(path);
  auto reader = GgufReader::Open(*std::move(source));
  EXPECT_TRUE(reader.has_value()) << reader.error().message;
  const TensorInfo* info = reader->FindTensor(tensor);
  EXPECT_NE(info, nullptr) << tensor;
  std::vector<uint64_t> hashes(info->extent.size_bytes / 8);
  EXPECT_TRUE(
      (*again)->Read(info->extent.offset_bytes, std::as_writable_bytes(std::span(hashes))).has_value());
  return hashes;
}

uint64_t HashOf(const std::vector<uint64_t>& hashes) {
  return HashBytes(std::as_bytes(std::span<const uint64_t>(hashes)));
}

// Whatever the pieces are in which tensors arrive, the hashes are those of packed_format.h.
TEST(HashedGgufWriterTest, HashesDoNotDependOnThePieces) {
  const uint64_t seed = 20240611;
  SCOPED_TRACE(seed);
  Random random(seed);
  const std::vector<std::byte> plain = RandomBytes(3 * kHashChunkBytes + 5, random);
  const std::vector<std::byte> bundles = RandomBytes(7 * 1024, random);
  const TempDir directory;
  for (const size_t most : {size_t{1000}, size_t{kHashChunkBytes}, size_t{1} << 20}) {
    const std::string path = directory.File("a.gguf");
    auto writer = HashedGgufWriter::Open(path, Overwrite::kYes);
    ASSERT_TRUE(writer.has_value()) << writer.error().message;
    (*writer)->keys().AddString("general.architecture", "test");
    const size_t a = (*writer)->AddTensor("a", DType::kI8, std::array{uint64_t{plain.size()}});
    const size_t b = (*writer)->AddBundles(0, 7, 1024);
    ASSERT_TRUE((*writer)->BeginData().has_value());
    for (const auto& [index, bytes] : {std::pair{b, &bundles}, std::pair{a, &plain}}) {
      for (size_t at = 0; at < bytes->size();) {
        const size_t size = std::min<size_t>(1 + random.Below(most), bytes->size() - at);
        ASSERT_TRUE((*writer)->Append(index, std::span(*bytes).subspan(at, size)).has_value());
        at += size;
      }
    }
    const Status finished = (*writer)->Finish();
    ASSERT_TRUE(finished.has_value()) << finished.error().message;

    std::vector<uint64_t> chunk_hashes;
    AppendChunkHashes(plain, chunk_hashes);
    std::vector<uint64_t> row_hashes;
    for (size_t i = 0; i < 7; ++i)
      row_hashes.push_back(HashBytes(std::span(bundles).subspan(i * 1024, 1024)));
    EXPECT_EQ(ReadHashes(path, kTensorHashesName), chunk_hashes);
    EXPECT_EQ(ReadHashes(path, BundleHashesName(0)), row_hashes);
    auto source = OpenFileSource(path);
    auto reader = GgufReader::Open(*OpenFileSource(path));
    std::vector<std::byte> header(reader->data_offset_bytes());
    ASSERT_TRUE((*source)->Read(0, header).has_value());
    const std::vector<uint64_t> expected = {HashOf(row_hashes), HashOf(chunk_hashes), HashBytes(header)};
    EXPECT_EQ(ReadHashes(path, kHashOfHashesName), expected);
    EXPECT_EQ((*writer)->content_hash(), HashOf(expected));
    EXPECT_EQ(reader->tensors().back().name, kHashOfHashesName);
  }
}

TEST(HashedGgufWriterTest, IsReadBeforeItsEndAndValuesOfKeysAreReplaced) {
  const TempDir directory;
  const std::string path = directory.File("a.gguf");
  auto writer = HashedGgufWriter::Open(path, Overwrite::kNo);
  ASSERT_TRUE(writer.has_value()) << writer.error().message;
  GgufWriter& keys = (*writer)->keys();
  keys.AddString("first", "of another length");
  keys.AddFloat64("real", 0);
  keys.AddUint64("count", 0);
  keys.AddBool("last", true);
  const size_t a = (*writer)->AddTensor("a", DType::kI8, std::array{uint64_t{10}});
  ASSERT_TRUE((*writer)->BeginData());
  ASSERT_TRUE((*writer)->Append(a, std::vector<std::byte>(10, std::byte{7})));
  ASSERT_TRUE((*writer)->WriteHashes());
  const uint64_t hash_before = (*writer)->content_hash();
  EXPECT_FALSE(OpenFileSource(path)) << "not under its name yet";
  {
    const auto early = HashedGgufReader::Open(keys.temporary_path());
    ASSERT_TRUE(early) << early.error().message;
    EXPECT_EQ((*early)->content_hash(), hash_before);
    EXPECT_EQ((*early)->gguf().GetFloat("real").value(), 0.0);
  }
  ASSERT_TRUE(keys.ReplaceFloat64("real", 0.1));
  ASSERT_TRUE(keys.ReplaceUint64("count", 1 + (uint64_t{1} << 40)));
  ASSERT_TRUE((*writer)->Finish());
  const auto reader = HashedGgufReader::Open(path);  // which checks the header's hash
  ASSERT_TRUE(reader) << reader.error().message;
  EXPECT_EQ((*reader)->content_hash(), (*writer)->content_hash());
  EXPECT_NE((*reader)->content_hash(), hash_before);
  EXPECT_EQ((*reader)->gguf().GetFloat("real").value(), 0.1);
  EXPECT_EQ((*reader)->gguf().GetUint("count").value(), 1 + (uint64_t{1} << 40));
  EXPECT_EQ((*reader)->gguf().GetString("first").value(), "of another length");
  EXPECT_TRUE((*reader)->gguf().GetBool("last").value());
  EXPECT_EQ((*reader)->ReadAll(*(*reader)->Find("a")).value(), std::vector<std::byte>(10, std::byte{7}));
}

TEST(HashedGgufWriterTest, LeavesNothingWithoutFinish) {
  const TempDir directory;
  const std::string path = directory.File("a.gguf");
  {
    auto writer = HashedGgufWriter::Open(path, Overwrite::kNo);
    ASSERT_TRUE(writer.has_value());
    (*writer)->AddTensor("a", DType::kI8, std::array{uint64_t{10}});
    ASSERT_TRUE((*writer)->BeginData().has_value());
  }
  EXPECT_FALSE(OpenFileSource(path).has_value());
  EXPECT_FALSE(OpenFileSource(path + ".tmp").has_value());
}

}  // namespace
}  // namespace frugal
