#include "src/cli/training_text.h"

#include <gtest/gtest.h>

#include <fstream>

#include "src/base/temp_dir_for_test.h"

namespace frugal {
namespace {

// An id for each byte behind a 2.
Result<std::vector<int32_t>> EncodeBytes(const std::string& text) {
  std::vector<int32_t> ids = {2};
  for (const char c : text) {
    if (c == '!') return Error{ErrorCode::kUsage, "an exclamation"};
    ids.push_back(c);
  }
  return ids;
}

class TrainingText : public testing::Test {
 protected:
  Result<std::vector<std::vector<int32_t>>> Read(const std::string& text) {
    std::ofstream(directory_ + "/text") << text;
    return ReadTrainingText(directory_ + "/text", EncodeBytes, options_);
  }

  const TempDir temporary_;
  const std::string directory_ = temporary_.path();
  TrainingTextOptions options_;
};

TEST_F(TrainingText, StoriesBeginSequences) {
  options_.separator = "***";
  const auto sequences = Read("ab\n***\ncd\n***\n \n***\ne");
  ASSERT_TRUE(sequences) << sequences.error().message;
  const std::vector<std::vector<int32_t>> expected = {
      {2, 'a', 'b', '\n'}, {2, 'c', 'd', '\n'}, {2, 'e', '\n'}};
  EXPECT_EQ(*sequences, expected);
}

TEST_F(TrainingText, LongPassagesAreCut) {
  options_.sequence_tokens = 3;
  const auto sequences = Read("abcd");
  ASSERT_TRUE(sequences) << sequences.error().message;
  const std::vector<std::vector<int32_t>> expected = {{2, 'a', 'b'}, {'c', 'd', '\n'}};
  EXPECT_EQ(*sequences, expected);
}

TEST_F(TrainingText, OfALongTextWhatIsKeptIsSpreadOverAllOfIt) {
  options_.passage_bytes = 1;
  options_.max_tokens = 60;
  std::string text;
  for (int i = 0; i < 1000; ++i) text += fmt::format("{:04}\n", i);
  const auto sequences = Read(text);
  ASSERT_TRUE(sequences) << sequences.error().message;
  ASSERT_GE(sequences->size(), 5u);
  ASSERT_LE(sequences->size(), 10u);
  // Passage i of the text has the number i; what is kept has one distance.
  const auto number = [](const std::vector<int32_t>& ids) {
    return (ids[1] - '0') * 1000 + (ids[2] - '0') * 100 + (ids[3] - '0') * 10 + (ids[4] - '0');
  };
  const int distance = number((*sequences)[1]) - number((*sequences)[0]);
  for (size_t i = 0; i < sequences->size(); ++i) {
    EXPECT_EQ(number((*sequences)[i]), static_cast<int>(i) * distance);
  }
  EXPECT_GT(number(sequences->back()) + distance, 999);
}

TEST_F(TrainingText, ErrorsNameTheLines) {
  options_.separator = "***";
  const auto sequences = Read("ab\n***\ncd\nef!\n");
  ASSERT_FALSE(sequences);
  EXPECT_NE(sequences.error().message.find("/text: lines from 3: an exclamation"), std::string::npos)
      << sequences.error().message;
}

TEST_F(TrainingText, AnEmptyTextIsAUsageError) {
  for (const char* text : {"", "\n \n"}) {
    const auto sequences = Read(text);
    ASSERT_FALSE(sequences);
    EXPECT_EQ(sequences.error().code, ErrorCode::kUsage);
  }
  EXPECT_FALSE(ReadTrainingText(directory_ + "/absent", EncodeBytes, options_));
}

}  // namespace
}  // namespace frugal
