#include <gtest/gtest.h>

#include <cstdlib>

#include "src/base/bytes.h"
#include "src/cli/common.h"

namespace frugal {
namespace {

// Parses as main does, with one verb.
Result<EngineOptions> Parse(const std::vector<std::string>& arguments) {
  CLI::App app;
  CLI::App& sub = *app.add_subcommand("verb");
  EngineFlags flags;
  AddEngineFlags(sub, flags);
  AddEnvironmentTwins(app);
  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
  reversed.push_back("verb");
  try {
    app.parse(reversed);
  } catch (const CLI::ParseError& error) {
    return MakeError(ErrorCode::kUsage, "{}", error.what());
  }
  return ResolveEngineFlags(flags);
}

class ScopedEnvironment {
 public:
  ScopedEnvironment(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~ScopedEnvironment() { unsetenv(name_); }

 private:
  const char* name_;
};

TEST(EngineFlags, DefaultsAreThoseOfTheOptions) {
  const Result<EngineOptions> options = Parse({"m.gguf"});
  ASSERT_TRUE(options) << options.error().message;
  const EngineOptions expected;
  EXPECT_EQ(options->model_path, "m.gguf");
  EXPECT_EQ(options->mode, RunMode::kFlash);
  EXPECT_EQ(options->kv_type, DType::kF16);
  EXPECT_EQ(options->policy, expected.policy);
  EXPECT_EQ(options->max_batch, expected.max_batch);
  EXPECT_EQ(options->popular_share, expected.popular_share);
  EXPECT_FALSE(options->window_tokens.has_value());
  EXPECT_FALSE(options->slots_share.has_value());
  EXPECT_TRUE(options->predictor && options->window && options->bundling && options->overlap &&
              options->early);
  EXPECT_GT(options->ram_bytes, 0u);
  EXPECT_GE(options->num_threads, 1);
}

TEST(EngineFlags, SparsifyIsAskedForByItsFlagOrItsFile) {
  EXPECT_FALSE(Parse({"m.gguf"})->sparsify);
  const Result<EngineOptions> asked = Parse({"m.gguf", "--sparsify"});
  ASSERT_TRUE(asked) << asked.error().message;
  EXPECT_TRUE(asked->sparsify);
  EXPECT_EQ(asked->sparsify_path, "");
  const Result<EngineOptions> named = Parse({"m.gguf", "--sparsify-file", "t.gguf"});
  ASSERT_TRUE(named) << named.error().message;
  EXPECT_TRUE(named->sparsify);
  EXPECT_EQ(named->sparsify_path, "t.gguf");
  const Result<EngineOptions> bad = Parse({"m.gguf", "--sparsify", "--no-predictor"});
  ASSERT_FALSE(bad);
  EXPECT_EQ(bad.error().code, ErrorCode::kUsage);
}

TEST(EngineFlags, ASelectorThatContradictsOtherFlagsIsRefused) {
  const Result<EngineOptions> options = Parse({"m.gguf", "--selector", "sketch"});
  ASSERT_TRUE(options) << options.error().message;
  EXPECT_EQ(options->selector, SelectorKind::kSketch);
  EXPECT_TRUE(Parse({"m.gguf", "--selector", "gate", "--no-predictor"}));
  const std::vector<std::vector<std::string>> refused = {{"m.gguf", "--selector", "guess"},
                                                         {"m.gguf", "--selector", "sketch", "--no-predictor"},
                                                         {"m.gguf", "--selector", "predictor", "--mode", "hybrid"},
                                                         {"m.gguf", "--selector", "sketch", "--predictor-file", "p"}};
  for (const std::vector<std::string>& arguments : refused) {
    const Result<EngineOptions> bad = Parse(arguments);
    ASSERT_FALSE(bad);
    EXPECT_EQ(bad.error().code, ErrorCode::kUsage);
    EXPECT_NE(bad.error().message.find("--selector"), std::string::npos) << bad.error().message;
  }
}

TEST(EngineFlags, EveryFlagArrives) {
  const Result<EngineOptions> options = Parse({"-m",
                                               "m.gguf",
                                               "--ram",
                                               "20M",
                                               "-c",
                                               "128",
                                               "-t",
                                               "3",
                                               "--kv",
                                               "f32",
                                               "--mode",
                                               "hybrid",
                                               "--predictor-file",
                                               "p",
                                               "--no-bundling",
                                               "--window",
                                               "5",
                                               "--slots",
                                               "60%",
                                               "--policy",
                                               "lru",
                                               "--pin-popular",
                                               "10%",
                                               "--io",
                                               "pread",
                                               "--verify",
                                               "always",
                                               "--batch",
                                               "7",
                                               "--seed",
                                               "9"});
  ASSERT_TRUE(options) << options.error().message;
  EXPECT_EQ(options->ram_bytes, 20 * kMiB);
  EXPECT_EQ(options->context, 128u);
  EXPECT_EQ(options->num_threads, 3);
  EXPECT_EQ(options->kv_type, DType::kF32);
  EXPECT_EQ(options->mode, RunMode::kHybrid);
  EXPECT_EQ(options->predictor_path, "p");
  EXPECT_FALSE(options->bundling);
  EXPECT_EQ(options->window_tokens, 5u);
  EXPECT_DOUBLE_EQ(options->slots_share.value(), 0.6);
  EXPECT_EQ(options->policy, PolicyKind::kLru);
  EXPECT_DOUBLE_EQ(options->popular_share, 0.1);
  EXPECT_EQ(options->io, IoBackend::kPread);
  EXPECT_EQ(options->verify, VerifyMode::kAlways);
  EXPECT_EQ(options->max_batch, 7u);
  EXPECT_EQ(options->seed, 9u);
}

TEST(EngineFlags, EarlyPredictionNeedsOverlap) {
  const Result<EngineOptions> options = Parse({"m.gguf", "--no-overlap"});
  ASSERT_TRUE(options);
  EXPECT_FALSE(options->overlap);
  EXPECT_FALSE(options->early);
}

TEST(EngineFlags, EnvironmentSpeaksWhereNoFlagDoes) {
  const ScopedEnvironment ram("FRUGAL_RAM", "30M");
  const ScopedEnvironment context("FRUGAL_CTX_SIZE", "64");
  const ScopedEnvironment window("FRUGAL_WINDOW", "3");
  const ScopedEnvironment no_early("FRUGAL_NO_EARLY", "1");
  const Result<EngineOptions> options = Parse({"m.gguf", "--ram", "40M"});
  ASSERT_TRUE(options) << options.error().message;
  EXPECT_EQ(options->ram_bytes, 40 * kMiB);
  EXPECT_EQ(options->context, 64u);
  EXPECT_EQ(options->window_tokens, 3u);
  EXPECT_FALSE(options->early);
}

TEST(EngineFlags, EnvironmentNamesTheModel) {
  const ScopedEnvironment model("FRUGAL_MODEL", "e.gguf");
  const Result<EngineOptions> options = Parse({});
  ASSERT_TRUE(options) << options.error().message;
  EXPECT_EQ(options->model_path, "e.gguf");
}

TEST(EngineFlags, RefusesWhatMakesNoSense) {
  const std::vector<std::vector<std::string>> bad = {
      {},
      {"m.gguf", "--ram", "lots"},
      {"m.gguf", "--ram", "0"},
      {"m.gguf", "--mode", "fast"},
      {"m.gguf", "--kv", "q8_0"},
      {"m.gguf", "--resident", "q4_0"},
      {"m.gguf", "--policy", "mru"},
      {"m.gguf", "--io", "mmap"},
      {"m.gguf", "--verify", "maybe"},
      {"m.gguf", "--slots", "150%"},
      {"m.gguf", "--pin-popular", "-1%"},
      {"m.gguf", "-t", "0"},
      {"m.gguf", "-t", "-3"},
      {"m.gguf", "-c", "-1"},
      {"m.gguf", "--batch", "0"},
      {"m.gguf", "--window", "-2"},
      {"m.gguf", "--window", "4", "--no-window"},
      {"m.gguf", "--predictor-file", "p", "--no-predictor"},
      {"m.gguf", "--unknown"},
  };
  for (const std::vector<std::string>& arguments : bad) {
    const Result<EngineOptions> options = Parse(arguments);
    ASSERT_FALSE(options) << fmt::format("{}", fmt::join(arguments, " "));
    EXPECT_EQ(options.error().code, ErrorCode::kUsage) << options.error().message;
  }
}

TEST(EngineFlags, AWrongChoiceListsTheRightOnes) {
  const Result<EngineOptions> options = Parse({"m.gguf", "--mode", "fast"});
  ASSERT_FALSE(options);
  EXPECT_EQ(options.error().message, "--mode: 'fast' is not one of auto, resident, naive, hybrid, flash");
}

TEST(ParseShare, TakesPercentAndFractions) {
  EXPECT_DOUBLE_EQ(ParseShare("--slots", "50%").value(), 0.5);
  EXPECT_DOUBLE_EQ(ParseShare("--slots", "0.25").value(), 0.25);
  EXPECT_DOUBLE_EQ(ParseShare("--slots", "12.5%").value(), 0.125);
  EXPECT_DOUBLE_EQ(ParseShare("--slots", "1").value(), 1.0);
  for (const char* text : {"", "%", "50", "101%", "-1%", "nan", "half", "0.5x", "5%%"}) {
    const Result<double> share = ParseShare("--slots", text);
    ASSERT_FALSE(share) << text;
    EXPECT_EQ(share.error().code, ErrorCode::kUsage);
    EXPECT_NE(share.error().message.find("--slots"), std::string::npos);
  }
}

TEST(ParseIds, TakesNumbersAndCommas) {
  EXPECT_EQ(ParseIds("2,17,5").value(), (std::vector<int32_t>{2, 17, 5}));
  EXPECT_EQ(ParseIds(" 2 , 17\n").value(), (std::vector<int32_t>{2, 17}));
  EXPECT_EQ(ParseIds("0").value(), (std::vector<int32_t>{0}));
  for (const char* text : {"", ",", "1,", ",1", "1,,2", "-1", "1 2", "x", "2147483648", "1.5"}) {
    EXPECT_FALSE(ParseIds(text)) << text;
  }
  EXPECT_NE(ParseIds("4,5,six").error().message.find("item 3 ('six')"), std::string::npos);
}

}  // namespace
}  // namespace frugal
