#include "src/text/unicode.h"

#include <gtest/gtest.h>

#include <string>

namespace frugal {
namespace {

TEST(UnicodeTest, NormalFormsAreThoseOfUax15) {
  EXPECT_EQ(Normalized("e\u0301", UnicodeForm::kNfc), "\u00E9");
  EXPECT_EQ(Normalized("\u00E9", UnicodeForm::kNfd), "e\u0301");
  EXPECT_EQ(Normalized("\uFB01\u00B2", UnicodeForm::kNfc), "\uFB01\u00B2");
  EXPECT_EQ(Normalized("\uFB01\u00B2", UnicodeForm::kNfkc), "fi2");
  EXPECT_EQ(Normalized("\u1E9B\u0323", UnicodeForm::kNfkd), "s\u0323\u0307");
  EXPECT_EQ(Normalized("\u1E9B\u0323", UnicodeForm::kNfkc), "\u1E69");
  EXPECT_EQ(Normalized("\u1100\u1161\u11A8", UnicodeForm::kNfc), "\uAC01");
  EXPECT_EQ(Normalized("\uAC01", UnicodeForm::kNfd), "\u1100\u1161\u11A8");
  EXPECT_EQ(Normalized("\u0958", UnicodeForm::kNfc), "\u0915\u093C");  // excluded from composition
  EXPECT_EQ(Normalized("a\u0315\u0300", UnicodeForm::kNfc), "\u00E0\u0315");
  EXPECT_EQ(Normalized("plain", UnicodeForm::kNfkd), "plain");
  EXPECT_EQ(Normalized("\U0010FFFF\u0378", UnicodeForm::kNfkc), "\U0010FFFF\u0378");
  EXPECT_EQ(Normalized("\uFDFA", UnicodeForm::kNfkc).size(), 33u);
}

// B3: sorting by exchanging neighbours would take hours.
TEST(UnicodeTest, B3MarksAloneTakeNearLinearTime) {
  std::string marks;
  for (int i = 0; i < 500'000; ++i) marks += "\u0315\u0300";
  EXPECT_EQ(Normalized(marks, UnicodeForm::kNfc).size(), marks.size());
}

TEST(UnicodeTest, LowercasesEachCharacterAlone) {
  EXPECT_EQ(Lowercased("AbC\u00C9\u03A3"), "abc\u00E9\u03C3");
  EXPECT_EQ(Lowercased("\u0130"), "i\u0307");
}

}  // namespace
}  // namespace frugal
