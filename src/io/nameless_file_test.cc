#include "src/io/nameless_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "src/base/temp_dir_for_test.h"

namespace frugal {
namespace {

TEST(NamelessFileTest, HoldsBytesAndIsNotSeen) {
  const TempDir folder;
  const Result<UniqueFd> fd = OpenNamelessFile(folder.path());
  ASSERT_TRUE(fd) << fd.error().message;
  EXPECT_TRUE(folder.empty());
  ASSERT_EQ(pwrite(fd->get(), "bytes", 5, 100), 5);
  char bytes[5];
  ASSERT_EQ(pread(fd->get(), bytes, 5, 100), 5);
  EXPECT_EQ(std::string(bytes, 5), "bytes");
}

TEST(NamelessFileTest, AFolderThatIsNotThereIsNamed) {
  const TempDir folder;
  const Result<UniqueFd> fd = OpenNamelessFile(folder.File("absent"));
  ASSERT_FALSE(fd);
  EXPECT_EQ(fd.error().code, ErrorCode::kIo);
  EXPECT_NE(fd.error().message.find("absent"), std::string::npos) << fd.error().message;
}

}  // namespace
}  // namespace frugal
