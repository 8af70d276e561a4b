#include "src/engine/streaming_choice.h"

#include <gtest/gtest.h>

namespace frugal {
namespace {

Expectation Reading(double read_seconds, double token_seconds, double streamed_bytes) {
  Expectation expectation;
  expectation.read_seconds = read_seconds;
  expectation.token_seconds = token_seconds;
  expectation.streamed_bytes = streamed_bytes;
  return expectation;
}

TEST(StreamingChoiceTest, StreamingPaysBelowTheLeastGain) {
  const Expectation flash = Reading(1.0, 1.0, 0);
  EXPECT_TRUE(StreamingPays(flash, Reading(1.29, 1.29, 1e9), 1.3));
  EXPECT_FALSE(StreamingPays(flash, Reading(1.31, 1.31, 1e9), 1.3));
}

TEST(StreamingChoiceTest, OfTwoExactModesTheFasterIsTaken) {
  const Expectation flash = Reading(1.0, 1.0, 0);
  EXPECT_TRUE(StreamingPays(flash, Reading(0.99, 0.99, 1e9), LeastGainOfSelecting(true)));
  EXPECT_FALSE(StreamingPays(flash, Reading(1.01, 1.01, 1e9), LeastGainOfSelecting(true)));
}

TEST(StreamingChoiceTest, StreamingDoesNotPayWhereComputingAllNeuronsTakesLonger) {
  EXPECT_FALSE(StreamingPays(Reading(0.1, 0.2, 0), Reading(0.1, 0.4, 1e9), 1.3));
}

TEST(StreamingChoiceTest, ThereIsNoChoiceWhereNothingIsStreamedOrMeasured) {
  EXPECT_FALSE(StreamingPays(Reading(1.0, 1.0, 0), Reading(0, 0.5, 0), 1.3));
  EXPECT_FALSE(StreamingPays(Expectation(), Expectation(), 1.3));
}

TEST(StreamingChoiceTest, TheDescriptionNamesBothTimesAndTheWayOut) {
  const std::string text = DescribeChoice({true, 0.5, 0.6, 1.3, ""});
  EXPECT_NE(text.find("500 ms"), std::string::npos) << text;
  EXPECT_NE(text.find("for 600"), std::string::npos) << text;
  EXPECT_NE(text.find("1.3 times"), std::string::npos) << text;
  EXPECT_NE(text.find("--mode flash"), std::string::npos) << text;
  const std::string exact = DescribeChoice({true, 0.5, 0.4, 1.0, "assumed: much"});
  EXPECT_EQ(exact.find("times"), std::string::npos) << exact;
  EXPECT_NE(exact.find("(assumed: much)"), std::string::npos) << exact;
}

}  // namespace
}  // namespace frugal
