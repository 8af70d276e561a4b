#include "src/text/expression.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "src/text/oniguruma.h"

namespace frugal {
namespace {

using Kind = TextPattern::Kind;

// Parts of `text`, matches in brackets.
std::string Parts(const std::string& pattern, std::string_view text, Kind kind = Kind::kExpression) {
  const auto expression = Expression::Compile({pattern, kind});
  if (!expression) return expression.error().message;
  Expression::Scratch scratch(text.size());
  std::string parts;
  const Status status = expression->ForEachPart(text, scratch, [&](size_t begin, size_t end, bool is_match) -> Status {
    const std::string part(text.substr(begin, end - begin));
    parts += is_match ? "[" + part + "]" : part;
    return {};
  });
  return status ? parts : status.error().message;
}

TEST(ExpressionTest, FindsAllMatchesAndWhatLiesBetween) {
  EXPECT_EQ(Parts("b+", "abbcb"), "a[bb]c[b]");
  EXPECT_EQ(Parts(".", "a.b.", Kind::kLiteral), "a[.]b[.]");
  EXPECT_EQ(Parts("x", "abc"), "abc");
  EXPECT_EQ(Parts("x", ""), "");
}

TEST(ExpressionTest, EmptyMatchesCutAndGoOn) {
  EXPECT_EQ(Parts("b*", "abc"), "[]a[b]c[]");
  EXPECT_EQ(Parts("(?=b)", "ab"), "a[]b");
  EXPECT_EQ(Parts("(?=\u00E9)", "\u00E9\u00E9"), "[]\u00E9[]\u00E9");
}

// What PCRE2 means otherwise than Oniguruma.
TEST(ExpressionTest, MeansWhatOnigurumaMeans) {
  EXPECT_EQ(Parts(R"(\s)", "a\u180Eb\u2003c"), "a\u180Eb[\u2003]c");  // U+180E is a space to PCRE2 only
  EXPECT_EQ(Parts(R"([^\s\d]+)", "ab 1\u0663c"), "[ab] 1\u0663[c]");
  EXPECT_EQ(Parts(R"(\w+)", "a\u0301\u203Fb-c"), "[a\u0301\u203Fb]-[c]");
  EXPECT_EQ(Parts(R"(\W)", "a-b"), "a[-]b");
  EXPECT_EQ(Parts(R"(\ba)", "a \u0301a a"), "[a] \u0301a [a]");
  EXPECT_EQ(Parts(R"(\h+)", "xfF0g \t"), "x[fF0]g \t");
  EXPECT_EQ(Parts(R"(\v)", "\n\v"), "\n[\v]");
  EXPECT_EQ(Parts("^a$", "a\na"), "[a]\n[a]");
  EXPECT_EQ(Parts("(?m:a.b)", "a\nb"), "[a\nb]");
  EXPECT_EQ(Parts("a.b", "a\nb"), "a\nb");
  EXPECT_EQ(Parts(R"([^(\s|[.,])]+)", "ab.c(d) e"), "[ab].[c]([d]) [e]");
  EXPECT_EQ(Parts("a{,2}b", "aaab"), "a[aab]");
  EXPECT_EQ(Parts(R"(\p{Han}+)", "一、一"), "[一]、[一]");  // the comma is of Han's extensions only
  EXPECT_EQ(Parts(R"(\p{^Lu})", "aA"), "[a]A");
  EXPECT_EQ(Parts(R"(\u00e9)", "e\u00E9"), "e[\u00E9]");
  EXPECT_EQ(Parts(R"(\x{1F7D}[\x{1F7D}\x41])", "\u1F7D\u1F7DA"), "[\u1F7D\u1F7D]A");
  EXPECT_EQ(Parts("(?i:'S)", "'s'S"), "['s]['S]");
}

TEST(ExpressionTest, RefusesWhatItWouldMisread) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"[a&&b]", "an intersection of classes at byte 2 is not supported"},
      {"[a[^b]]", "a negated class in a class at byte 2"},
      {"[[:alpha:]]", "a POSIX class at byte 1"},
      {"a{1,3}+", "a quantifier of an interval at byte 1"},
      {"a{x}", "a brace that is no interval"},
      {"a{2", "{ without }"},
      {"(?x:a)", "a flag of a group"},
      {R"(\K)", "\\K at byte 0"},
      {R"([\W])", "\\W in a class"},
      {R"(\pL)", "a property without braces"},
      {R"(\p{L)", "a property without end"},
      {R"(\p{a:b})", "a property of this name"},
      {R"(\u12)", "\\u without four digits"},
      {R"(\x{41)", "\\x{ without }"},
      {"\\", "a backslash at the end"},
      {"[a", "a class does not end"},
      {"(a", "missing closing parenthesis"},
      {R"(\p{Nonsense})", "unknown property"},
      {"a\xff", "not UTF-8 at byte 1"},
      {"", "a pattern is empty"},
      {std::string(kMaxPatternBytes + 1, 'a'), "at most 16384 are supported"},
  };
  for (const auto& [pattern, error] : cases) {
    const auto expression = Expression::Compile({pattern, Kind::kExpression});
    ASSERT_FALSE(expression.has_value()) << pattern;
    EXPECT_EQ(expression.error().code, ErrorCode::kBadModel);
    EXPECT_NE(expression.error().message.find(error), std::string::npos) << expression.error().message;
  }
}

// B5: an expression of a bad file ends with an error, not with the heat death.
TEST(ExpressionTest, B5AnExponentialExpressionIsGivenUp) {
  EXPECT_NE(Parts("(a+)+[bd]", std::string(40, 'a') + "c").find("PCRE2 error"), std::string::npos);
}

}  // namespace
}  // namespace frugal
