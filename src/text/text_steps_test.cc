#include "src/text/text_steps.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace frugal {
namespace {

using Words = std::vector<std::string>;
using Behavior = SplitBehavior;
using When = PrependStep::When;

Words Split(const std::vector<TextStep>& steps, std::string_view text, PiecePlace place = PiecePlace::kBegin) {
  const auto compiled = TextSteps::Create(steps);
  EXPECT_TRUE(compiled.has_value()) << compiled.error().message;
  Expression::Scratch scratch(text.size());
  Words words;
  EXPECT_TRUE(compiled->Split(text, place, scratch, [&](std::string_view word) { words.emplace_back(word); }).has_value());
  return words;
}

std::string Transformed(const std::vector<TextStep>& steps, std::string text) {
  const auto compiled = TextSteps::Create(steps);
  EXPECT_TRUE(compiled.has_value()) << compiled.error().message;
  Expression::Scratch scratch(text.size());
  EXPECT_TRUE(compiled->Transform(text, scratch).has_value());
  return text;
}

SplitStep Dashes(Behavior behavior, bool invert = false) {
  return {{"-", TextPattern::Kind::kLiteral}, behavior, invert};
}

// The examples of `tokenizers`' documentation of SplitDelimiterBehavior, and runs at both ends.
TEST(TextStepsTest, MatchesGoWhereTheBehaviorSays) {
  constexpr char kText[] = "the-final--countdown";
  EXPECT_EQ(Split({Dashes(Behavior::kRemoved)}, kText), (Words{"the", "final", "countdown"}));
  EXPECT_EQ(Split({Dashes(Behavior::kIsolated)}, kText), (Words{"the", "-", "final", "-", "-", "countdown"}));
  EXPECT_EQ(Split({Dashes(Behavior::kMergedWithPrevious)}, kText), (Words{"the-", "final-", "-", "countdown"}));
  EXPECT_EQ(Split({Dashes(Behavior::kMergedWithNext)}, kText), (Words{"the", "-final", "-", "-countdown"}));
  EXPECT_EQ(Split({Dashes(Behavior::kContiguous)}, kText), (Words{"the", "-", "final", "--", "countdown"}));
  EXPECT_EQ(Split({Dashes(Behavior::kMergedWithPrevious)}, "--a--"), (Words{"-", "-", "a-", "-"}));
  EXPECT_EQ(Split({Dashes(Behavior::kMergedWithNext)}, "--a--"), (Words{"-", "-a", "-", "-"}));
  EXPECT_EQ(Split({Dashes(Behavior::kRemoved, /*invert*/ true)}, kText), (Words{"-", "-", "-"}));
}

TEST(TextStepsTest, APrefixGoesToTheBeginningOrToEachPiece) {
  const auto with = [](When when) { return std::vector<TextStep>{Dashes(Behavior::kRemoved), PrependStep{"_", when}}; };
  EXPECT_EQ(Split(with(When::kAlways), "a-_b"), (Words{"_a", "__b"}));
  EXPECT_EQ(Split(with(When::kUnlessThere), "a-_b"), (Words{"_a", "_b"}));
  EXPECT_EQ(Split(with(When::kUnlessThereAtBegin), "a-b"), (Words{"_a", "b"}));
  EXPECT_EQ(Split(with(When::kUnlessThereAtBegin), "a-b", PiecePlace::kLater), (Words{"a", "b"}));
  EXPECT_EQ(Split(with(When::kUnlessThereAtBegin), "-b"), (Words{"b"}));  // the text begins with what was removed
}

TEST(TextStepsTest, StepsRunInOrder) {
  EXPECT_EQ(Transformed({StripStep{}, LowercaseStep{}, ReplaceStep{{" +", TextPattern::Kind::kExpression}, "_"}}, "\u00A0A  B\n"),
            "a_b");
  EXPECT_EQ(Transformed({StripStep{true, false}}, " a "), "a ");
  EXPECT_EQ(Transformed({PrependStep{"_"}}, ""), "");
  EXPECT_EQ(Transformed({UnicodeStep{UnicodeForm::kNfkc}, SpellStep{}}, "\uFB01 "), "fi\u0120");
  EXPECT_EQ(Split({}, ""), Words{});
  EXPECT_EQ(Split({}, "a b"), (Words{"a b"}));
}

// Spelled bytes are letters of their own to what comes behind: 0xB9 is spelled as a digit.
TEST(TextStepsTest, BytesAreSpelledWhereTheStepIs) {
  const SplitStep digits{{R"(\p{N})", TextPattern::Kind::kExpression}, Behavior::kIsolated, false};
  EXPECT_EQ(Split({SpellStep{}, digits}, "\u00F9"), (Words{"\u00C3", "\u00B9"}));
  EXPECT_EQ(Split({digits, SpellStep{}}, "\u00F9"), (Words{"\u00C3\u00B9"}));
}

}  // namespace
}  // namespace frugal
