#include "src/cli/layout_report.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace frugal {
namespace {

LayoutCandidate Candidate(FfnLayout layout, SelectorKind selector, bool exact, double read_bytes) {
  LayoutCandidate candidate;
  candidate.layout = layout;
  candidate.selector = selector;
  candidate.exact = exact;
  candidate.fits = true;
  candidate.selecting_bytes = 4096;
  candidate.num_slots = 77;
  candidate.expectation.demand_bytes = read_bytes;
  candidate.expectation.token_seconds = read_bytes / 1e9;
  return candidate;
}

LayoutComparison Comparison(double gate_bytes, double sketch_bytes, size_t best) {
  return {{Candidate(FfnLayout::kGateAndBundle2, SelectorKind::kGate, true, gate_bytes),
           Candidate(FfnLayout::kBundle3, SelectorKind::kSketch, false, sketch_bytes)},
          best,
          "assumed, not measured"};
}

TEST(LayoutReportTest, NamesTheBetterLayoutAndWhy) {
  const std::string text = FormatLayouts(Comparison(3 << 20, 2 << 20, 1), FfnLayout::kGateAndBundle2);
  EXPECT_NE(text.find("better: bundle3: bundle3, gate sketch (2.0 MiB a token, 2.097 ms) against gate+bundle2, the gate chooses (3.0 MiB"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("it guesses"), std::string::npos) << text;
  EXPECT_NE(text.find("(assumed, not measured)"), std::string::npos) << text;
  const std::string exact = FormatLayouts(Comparison(3 << 20, 3 << 20, 0), FfnLayout::kGateAndBundle2);
  EXPECT_NE(exact.find("better: gate+bundle2 (this file's): "), std::string::npos) << exact;
  EXPECT_NE(exact.find("it misses no neuron"), std::string::npos) << exact;
}

TEST(LayoutReportTest, SaysWhatDoesNotFitAndNothingWithoutAChoice) {
  LayoutComparison comparison = Comparison(3 << 20, 2 << 20, 1);
  comparison.candidates[0].fits = false;
  const std::string text = FormatLayouts(comparison, FfnLayout::kBundle3);
  EXPECT_NE(text.find("does not fit\n"), std::string::npos) << text;
  EXPECT_NE(text.find("the other layout does not fit"), std::string::npos) << text;
  const nlohmann::ordered_json json = LayoutsToJson(comparison);
  EXPECT_EQ(json[0]["fits"], false);
  EXPECT_EQ(json[1]["better"], true);
  EXPECT_EQ(json[1]["layout"], "bundle3");
  EXPECT_EQ(FormatLayouts({}, FfnLayout::kUpDown), "");
}

}  // namespace
}  // namespace frugal
