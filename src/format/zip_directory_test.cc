#include "src/format/zip_directory.h"

#include <gtest/gtest.h>

#include <cstring>

#include "src/base/random.h"
#include "src/format/pytorch_bytes_for_test.h"

namespace frugal {
namespace {

Result<std::vector<ZipEntry>> ReadBytes(const std::string& bytes) {
  return ReadZipDirectory(*MakeMemorySource("m.bin", std::as_bytes(std::span(bytes))));
}

void ExpectRefused(const std::string& bytes, const std::string& part) {
  const auto read = ReadBytes(bytes);
  ASSERT_FALSE(read) << "expected: " << part;
  EXPECT_EQ(read.error().code, ErrorCode::kBadModel) << read.error().message;
  EXPECT_TRUE(read.error().message.starts_with("m.bin: ")) << read.error().message;
  EXPECT_NE(read.error().message.find(part), std::string::npos) << read.error().message << "\nexpected: " << part;
}

ZipForTest Tiny() {
  ZipForTest zip;
  zip.Add({"m/data.pkl", "pickle"});
  zip.Add({"m/data/0", "weights!", 0, 8});
  zip.Add({"m/data/1", "more", 0, 0, true});
  zip.Add({"m/data/2", "and more", 0, 8, true});
  return zip;
}

template <typename T>
std::string With(std::string bytes, uint64_t offset_bytes, T value) {
  std::memcpy(bytes.data() + offset_bytes, &value, sizeof(value));
  return bytes;
}

TEST(ZipDirectoryTest, FindsStoredEntriesNarrowAndWide) {
  const ZipForTest zip = Tiny();
  for (const std::string& bytes : {zip.Finish(), zip.FinishWide()}) {
    const auto read = ReadBytes(bytes);
    ASSERT_TRUE(read) << read.error().message;
    ASSERT_EQ(read->size(), 4u);
    const std::vector<std::pair<std::string, std::string>> expected = {
        {"m/data.pkl", "pickle"}, {"m/data/0", "weights!"}, {"m/data/1", "more"}, {"m/data/2", "and more"}};
    for (size_t i = 0; i < 4; ++i) {
      EXPECT_EQ((*read)[i].name, expected[i].first);
      EXPECT_EQ(bytes.substr((*read)[i].extent.offset_bytes, (*read)[i].extent.size_bytes), expected[i].second);
    }
  }
}

TEST(ZipDirectoryTest, RefusesWhatIsNotStored) {
  ZipForTest bomb;
  bomb.Add({"m/data.pkl", std::string(100, '\0'), 8});
  ExpectRefused(bomb.Finish(), "ZIP entry 'm/data.pkl': offset 140: is compressed (method 8)");
  ZipForTest encrypted;
  encrypted.Add({"m/data.pkl", "x", 0, 1});
  ExpectRefused(encrypted.Finish(), "is encrypted");
  const ZipForTest zip = Tiny();
  const uint64_t directory = zip.bytes.size();
  ExpectRefused(With<uint32_t>(zip.Finish(), directory + 24, 1u << 30), "has 1073741824 bytes, stored as 6");
  // A small file that claims entries of gigabytes.
  std::string claims = With<uint32_t>(zip.Finish(), directory + 24, 1u << 30);
  claims = With<uint32_t>(claims, directory + 20, 1u << 30);
  ExpectRefused(claims, "its 1073741824 bytes at offset 40 reach into the directory");
}

TEST(ZipDirectoryTest, RefusesLocalHeadersThatContradict) {
  const ZipForTest zip = Tiny();
  const std::string bytes = zip.Finish();
  const uint64_t directory = zip.bytes.size();
  ExpectRefused(With<uint32_t>(bytes, 0, 0), "expected its local header");
  ExpectRefused(With<char>(bytes, 30, 'x'), "has another name in its local header");
  ExpectRefused(With<uint16_t>(bytes, 26, 9), "has another name in its local header");
  ExpectRefused(With<uint16_t>(bytes, 6, 2048), "other flags or another method");
  ExpectRefused(With<uint16_t>(bytes, 8, 8), "other flags or another method");
  ExpectRefused(With<uint32_t>(bytes, 18, 7), "its local header says 6 bytes, the directory 6");
  ExpectRefused(With<uint32_t>(bytes, 22, 7), "its local header says 7 bytes, the directory 6");
  ExpectRefused(With<uint32_t>(bytes, 22, UINT32_MAX), "expected a ZIP64 field");
  ExpectRefused(With<uint32_t>(bytes, directory + 42, 1u << 31), "expected a local header in front of");
  ExpectRefused(With<uint16_t>(bytes, directory + 34, 1), "lies in another part");
}

TEST(ZipDirectoryTest, RefusesOverlapsHolesAndStrangers) {
  ZipForTest overlap = Tiny();
  // The second entry's header lies within the first one's data.
  ZipForTest inner;
  inner.Add({"b", "x"});
  ZipForTest outer;
  outer.Add({"a", inner.bytes});
  std::string directory = inner.directory;
  const auto inside = static_cast<uint32_t>(outer.bytes.size() - inner.bytes.size());
  std::memcpy(directory.data() + 42, &inside, sizeof(inside));
  outer.directory += directory;
  outer.offsets.push_back(0);
  ExpectRefused(outer.Finish(), "ZIP entry 'b': offset 31: overlaps the entry before it");

  ZipForTest twice;
  twice.Add({"a", "x"});
  twice.Add({"a", "y"});
  ExpectRefused(twice.Finish(), "is there twice");
  ZipForTest hole;
  hole.Add({"a", "x"});
  hole.bytes += std::string(25, 'h');
  ExpectRefused(hole.Finish(), "25 bytes up to the directory belong to no entry");
  hole.Add({"b", "x"});
  ExpectRefused(hole.Finish(), "the 25 bytes in front of it belong to no entry");
  ExpectRefused(Tiny().Finish() + "x", "the file is truncated or has bytes behind it");
  ZipForTest bad_name;
  bad_name.Add({"a\x1b", "x"});
  ExpectRefused(bad_name.Finish(), "holds a control character");
}

TEST(ZipDirectoryTest, RefusesEndRecordsThatLie) {
  const ZipForTest zip = Tiny();
  const std::string bytes = zip.Finish();
  const uint64_t end = bytes.size() - 22;
  ExpectRefused(With<uint16_t>(bytes, end + 4, 1), "one part of several");
  ExpectRefused(With<uint16_t>(bytes, end + 8, 9), "two different numbers of entries");
  ExpectRefused(With<uint16_t>(With<uint16_t>(bytes, end + 8, 3), end + 10, 3), "the directory of 3 entries ends here");
  ExpectRefused(With<uint16_t>(With<uint16_t>(bytes, end + 8, 5), end + 10, 5), "the directory ends within a header");
  ExpectRefused(With<uint32_t>(bytes, end + 12, 1), "expected it to end at");
  ExpectRefused(With<uint32_t>(bytes, end + 16, UINT32_MAX), "expected a ZIP64 locator");
  const std::string wide = zip.FinishWide();
  ExpectRefused(With<uint64_t>(wide, wide.size() - 22 - 12, 5), "the ZIP64 locator points to offset 5");
  ExpectRefused(With<uint64_t>(wide, wide.size() - 22 - 20 - 24, 1ull << 40), "the ZIP64 end record contradicts");
  std::string many = With<uint64_t>(wide, wide.size() - 22 - 20 - 24, 1ull << 40);
  many = With<uint64_t>(many, wide.size() - 22 - 20 - 32, 1ull << 40);
  ExpectRefused(many, "1099511627776 entries, expected at most");
  ExpectRefused(With<uint16_t>(wide, wide.size() - 22 + 8, 7), "two different numbers of entries");
}

TEST(ZipDirectoryTest, SurvivesAnyTruncationAndAnyFlippedByte) {
  for (const std::string& bytes : {Tiny().Finish(), Tiny().FinishWide()}) {
    for (size_t size = 0; size < bytes.size(); ++size) EXPECT_FALSE(ReadBytes(bytes.substr(0, size))) << size;
    Random random(3);
    for (size_t i = 0; i < bytes.size(); ++i) {
      for (int repeat = 0; repeat < 8; ++repeat) {
        std::string changed = bytes;
        changed[i] = static_cast<char>(random.Below(256));
        const auto read = ReadBytes(changed);
        EXPECT_TRUE(read.has_value() || read.error().code == ErrorCode::kBadModel);
      }
    }
  }
}

}  // namespace
}  // namespace frugal
