#include "src/train/row_store.h"

#include <gtest/gtest.h>

#include <cstring>

#include "src/base/temp_dir_for_test.h"

namespace frugal {
namespace {

std::vector<std::byte> Row(uint64_t size, int value) {
  return std::vector<std::byte>(size, static_cast<std::byte>(value));
}

TEST(RowStoreTest, GivesBackWhatWasWrittenInMemoryAndSpilled) {
  TempDir directory;
  for (const Placement placement : {Placement::kMemory, Placement::kSpilled}) {
    RowStore store = RowStore::Create(10, 24, placement, directory.File("out")).value();
    for (int i = 9; i >= 0; --i) ASSERT_TRUE(store.Write(static_cast<uint64_t>(i), Row(24, i)));
    std::vector<std::byte> rows(3 * 24);
    ASSERT_TRUE(store.Read(4, rows));
    for (int i = 0; i < 3; ++i) EXPECT_EQ(std::memcmp(rows.data() + i * 24, Row(24, 4 + i).data(), 24), 0);
  }
}

TEST(RowStoreTest, ASpilledStoreLeavesNoNameBehind) {
  TempDir directory;
  const RowStore store = RowStore::Create(4, 8, Placement::kSpilled, directory.File("out")).value();
  EXPECT_TRUE(directory.empty());
}

TEST(RowStoreTest, ADirectoryThatIsNotThereIsAnErrorThatNamesIt) {
  const auto store = RowStore::Create(4, 8, Placement::kSpilled, "/nonexistent/out");
  ASSERT_FALSE(store);
  EXPECT_EQ(store.error().code, ErrorCode::kIo);
  EXPECT_NE(store.error().message.find("/nonexistent/out"), std::string::npos) << store.error().message;
}

}  // namespace
}  // namespace frugal
