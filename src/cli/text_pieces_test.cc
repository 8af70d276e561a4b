#include "src/cli/text_pieces.h"

#include <gtest/gtest.h>

#include <fstream>

#include "src/base/temp_dir_for_test.h"

namespace frugal {
namespace {

class TextPiecesTest : public ::testing::Test {
 protected:
  std::string Write(const std::string& name, const std::string& bytes) { return directory_.Write(name, bytes); }
  static std::vector<std::string> Stories(const std::string& path, const std::string& separator) {
    std::vector<std::string> stories;
    Result<StoryReader> reader = StoryReader::Open(path, separator);
    EXPECT_TRUE(reader) << reader.error().message;
    std::string story;
    while (reader) {
      const Result<bool> more = reader->Next(&story);
      EXPECT_TRUE(more) << more.error().message;
      if (!more || !*more) break;
      stories.push_back(story);
    }
    return stories;
  }

  const TempDir directory_;
};

TEST_F(TextPiecesTest, StoriesStandBetweenSeparatorLinesAndEndWithOneNewline) {
  const std::string path = Write("a.txt", "<s>\n\nOne\n\ntwo \n<s>\n \n<s>\nThree <s>\r\n<s>\r\nfour");
  EXPECT_EQ(Stories(path, "<s>"), (std::vector<std::string>{"One\n\ntwo\n", "Three <s>\n", "four\n"}));
}

TEST_F(TextPiecesTest, WithoutASeparatorTheTextIsOneStory) {
  const std::string path = Write("a.txt", "One\n\nTwo\n");
  EXPECT_EQ(Stories(path, "<s>"), (std::vector<std::string>{"One\n\nTwo\n"}));
  EXPECT_EQ(Stories(path, ""), (std::vector<std::string>{"One\n\nTwo\n"}));
  EXPECT_TRUE(Stories(Write("empty.txt", "\n \n"), "<s>").empty());
}

TEST_F(TextPiecesTest, LinesLongerThanTheBufferAreWhole) {
  std::string line;
  for (int i = 0; i < 40'000; ++i) line += std::to_string(i);
  EXPECT_EQ(Stories(Write("long.txt", line + "\n<s>\n" + line), "<s>"),
            (std::vector<std::string>{line + "\n", line + "\n"}));
}

TEST_F(TextPiecesTest, AnXzFileIsUnpackedAndADamagedOneIsAnError) {
  if (std::system("xz --version > /dev/null 2>&1") != 0) GTEST_SKIP() << "the program xz is not installed";
  std::string text;
  for (int i = 0; i < 20'000; ++i) text += "line " + std::to_string(i) + "\n";
  const std::string plain = Write("t.txt", text);
  ASSERT_EQ(std::system(("xz -k " + plain).c_str()), 0);
  EXPECT_EQ(Stories(plain + ".xz", ""), Stories(plain, ""));
  // Given up early: the child is ended and waited for by the destructor.
  {
    Result<TextStream> stream = TextStream::Open(plain + ".xz");
    ASSERT_TRUE(stream);
    std::string line;
    ASSERT_TRUE(stream->ReadLine(&line));
    EXPECT_EQ(line, "line 0");
  }
  Result<TextSize> damaged = MeasureText(Write("d.xz", "this is no xz file"), "");
  ASSERT_FALSE(damaged);
  EXPECT_EQ(damaged.error().code, ErrorCode::kIo);
  EXPECT_NE(damaged.error().message.find("d.xz"), std::string::npos);
}

TEST_F(TextPiecesTest, AMissingFileIsNamed) {
  const Result<TextSize> size = MeasureText(directory_.File("none.txt"), "");
  ASSERT_FALSE(size);
  EXPECT_EQ(size.error().code, ErrorCode::kIo);
  EXPECT_NE(size.error().message.find("none.txt"), std::string::npos);
}

TEST_F(TextPiecesTest, MeasureTextFindsTheLongestStory) {
  const Result<TextSize> size = MeasureText(Write("a.txt", "ab\n<s>\nabcde\n<s>\nabc\n"), "<s>");
  ASSERT_TRUE(size);
  EXPECT_EQ(size->num_stories, 3u);
  EXPECT_EQ(size->longest_story_bytes, 6u);
}

TEST_F(TextPiecesTest, PiecesGoOnAcrossStoriesAndEndAtTheTokenLimit) {
  const std::string path = Write("a.txt", "abc\n<s>\nde\n<s>\nfghij\n");
  // Each byte a token, 0 in front of each story.
  const EncodeFunction encode = [](const std::string& story) -> Result<std::vector<int32_t>> {
    std::vector<int32_t> ids = {0};
    for (const char c : story) ids.push_back(c);
    return ids;
  };
  Result<PieceReader> reader = PieceReader::FromText(path, "<s>", encode, 4, 11);
  ASSERT_TRUE(reader);
  std::vector<int32_t> piece;
  ASSERT_TRUE(*reader->Next(&piece));
  EXPECT_EQ(piece, (std::vector<int32_t>{0, 'a', 'b', 'c'}));
  ASSERT_TRUE(*reader->Next(&piece));
  EXPECT_EQ(piece, (std::vector<int32_t>{'\n', 0, 'd', 'e'}));
  ASSERT_TRUE(*reader->Next(&piece));
  EXPECT_EQ(piece, (std::vector<int32_t>{'\n', 0, 'f'}));
  EXPECT_FALSE(*reader->Next(&piece));
}

TEST_F(TextPiecesTest, AnErrorOfTheTokenizerEndsTheText) {
  const EncodeFunction encode = [](const std::string&) -> Result<std::vector<int32_t>> {
    return Error{ErrorCode::kUsage, "invalid UTF-8 at byte 3"};
  };
  Result<PieceReader> reader = PieceReader::FromText(Write("a.txt", "abc"), "", encode, 4, 0);
  ASSERT_TRUE(reader);
  std::vector<int32_t> piece;
  const Result<bool> more = reader->Next(&piece);
  ASSERT_FALSE(more);
  EXPECT_EQ(more.error().code, ErrorCode::kUsage);
}

TEST_F(TextPiecesTest, IdsAreCutIntoPieces) {
  PieceReader reader = PieceReader::FromIds({1, 2, 3, 4, 5}, 3, 0);
  std::vector<int32_t> piece;
  ASSERT_TRUE(*reader.Next(&piece));
  EXPECT_EQ(piece, (std::vector<int32_t>{1, 2, 3}));
  ASSERT_TRUE(*reader.Next(&piece));
  EXPECT_EQ(piece, (std::vector<int32_t>{4, 5}));
  EXPECT_FALSE(*reader.Next(&piece));
}

}  // namespace
}  // namespace frugal
