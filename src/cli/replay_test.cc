#include "src/cli/replay.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "src/cli/line_chart.h"

namespace frugal {
namespace {

AccessTrace SmallTrace() {
  std::vector<std::vector<std::vector<uint32_t>>> tokens;
  for (uint32_t token = 0; token < 40; ++token) tokens.push_back({{0, 1, token % 10}, {2, 3 + token % 7}});
  for (auto& token : tokens) {
    std::sort(token[0].begin(), token[0].end());
    token[0].erase(std::unique(token[0].begin(), token[0].end()), token[0].end());
  }
  return AccessTrace::FromSets({42, 2, 10}, tokens);
}

Replay SmallReplay() {
  ReplayOptions options;
  options.slots_shares = {0.25, 0.5};
  options.warm_up_tokens = 10;
  options.half_lives = {4, 32};
  return ReplayTrace(SmallTrace(), options, [](double, std::string_view) {});
}

TEST(ReplayTest, HasARowForEachSizeAndAColumnForEachPolicy) {
  const Replay replay = SmallReplay();
  ASSERT_EQ(replay.series.size(), 6u);
  for (const ReplaySeries& series : replay.series) {
    ASSERT_EQ(series.results.size(), 2u);
    EXPECT_EQ(series.results[0].num_tokens, 30u);
    EXPECT_GE(series.results[0].num_misses, replay.series.back().results[0].num_misses) << series.name;
  }
  const std::string text = FormatReplay(replay);
  EXPECT_NE(text.find("| slots | k of the window | window | LRU | decay 4 | decay 32 | pinned | Belady |"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("| 25% |"), std::string::npos) << text;
  const nlohmann::ordered_json json = ReplayToJson(replay);
  EXPECT_EQ(json["policies"].size(), 6u);
  EXPECT_EQ(json["policies"][0]["misses_per_token"].size(), 2u);
}

TEST(ReplayTest, DrawsATitleAxesAndALegend) {
  const std::string svg = ReplaySvg(SmallReplay());
  EXPECT_TRUE(svg.starts_with("<svg xmlns=")) << svg;
  EXPECT_TRUE(svg.ends_with("</svg>\n"));
  for (const char* part :
       {"Misses by eviction policy", "slots, of the FFN", "misses, of the demanded", ">LRU<", ">Belady<"}) {
    EXPECT_NE(svg.find(part), std::string::npos) << part;
  }
}

TEST(LineChartTest, EscapesTextsAndLeavesOutWhatIsNoNumber) {
  LineChart chart;
  chart.title = "a < b & \"c\"";
  chart.series = {{"<x>", {{1.0, 2.0}, {2.0, std::numeric_limits<double>::quiet_NaN()}}}};
  const std::string svg = LineChartSvg(chart);
  EXPECT_NE(svg.find("a &lt; b &amp; &quot;c&quot;"), std::string::npos);
  EXPECT_NE(svg.find("&lt;x&gt;"), std::string::npos);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
}

TEST(LineChartTest, DrawsNothingWithoutFailing) { EXPECT_TRUE(LineChartSvg({}).ends_with("</svg>\n")); }

}  // namespace
}  // namespace frugal
