#include "src/format/gate_thresholds.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "src/base/temp_dir_for_test.h"

namespace frugal {
namespace {

GateThresholds Some() {
  GateThresholds thresholds;
  thresholds.model_content_hash = 0x0123456789abcdef;
  thresholds.share = 0.5f;
  thresholds.thresholds = {0.25f, 0.0f, 1e-3f};
  thresholds.source = "text:a.txt";
  thresholds.num_tokens = 6144;
  thresholds.effect = {20.5, 22.25, 2048};
  thresholds.measured_share = 0.49f;
  return thresholds;
}

class GateThresholdsTest : public ::testing::Test {
 protected:
  void Write(const GateThresholds& thresholds) const {
    const Status written = WriteGateThresholds(path_, Overwrite::kYes, thresholds);
    ASSERT_TRUE(written) << written.error().message;
  }
  void ExpectRefusal(const std::string& part) const {
    const Result<GateThresholds> read = ReadGateThresholds(path_);
    ASSERT_FALSE(read) << part;
    EXPECT_EQ(read.error().code, ErrorCode::kBadModel);
    EXPECT_NE(read.error().message.find(part), std::string::npos) << read.error().message;
    EXPECT_NE(read.error().message.find(path_), std::string::npos) << read.error().message;
  }

  const TempDir directory_;
  const std::string path_ = directory_.File("m.sparsify.gguf");
};

TEST_F(GateThresholdsTest, WhatIsWrittenIsRead) {
  Write(Some());
  const Result<GateThresholds> read = ReadGateThresholds(path_);
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->model_content_hash, Some().model_content_hash);
  EXPECT_EQ(read->share, 0.5f);
  EXPECT_EQ(read->thresholds, Some().thresholds);
  EXPECT_EQ(read->source, "text:a.txt");
  EXPECT_EQ(read->num_tokens, 6144u);
  EXPECT_EQ(read->effect.before, 20.5);
  EXPECT_EQ(read->effect.after, 22.25);
  EXPECT_EQ(read->effect.num_tokens, 2048u);
  EXPECT_EQ(read->measured_share, 0.49f);
  EXPECT_EQ(DescribeThresholds(*read),
            "50% of the neurons left out, by thresholds from 6144 tokens (text:a.txt); perplexity 20.5000 -> 22.2500 (+8.54%) on 2048 "
            "tokens, 49.0% of the neurons left out there");
  EXPECT_EQ(DefaultSparsifyPath("a/m.gguf"), "a/m.sparsify.gguf");
}

TEST_F(GateThresholdsTest, AnExistingFileIsKept) {
  Write(Some());
  const Status written = WriteGateThresholds(path_, Overwrite::kNo, Some());
  ASSERT_FALSE(written);
  EXPECT_EQ(written.error().code, ErrorCode::kUsage);
}

TEST_F(GateThresholdsTest, WhatNoSuchFileHoldsIsRefused) {
  GateThresholds bad = Some();
  bad.thresholds[1] = -0.5f;
  Write(bad);
  ExpectRefusal("frugal.sparsify.thresholds[1] is -0.5");
  bad.thresholds[1] = NAN;
  Write(bad);
  ExpectRefusal("frugal.sparsify.thresholds[1]");
  bad = Some();
  bad.share = 1.0f;
  Write(bad);
  ExpectRefusal("frugal.sparsify.share");
  bad = Some();
  bad.effect.after = -1.0;
  Write(bad);
  ExpectRefusal("frugal.sparsify.perplexity");
}

TEST_F(GateThresholdsTest, EveryFlippedBitOfAThresholdOrAKeyIsFound) {
  Write(Some());
  std::string bytes;
  {
    std::ifstream file(path_, std::ios::binary);
    bytes.assign(std::istreambuf_iterator<char>(file), {});
  }
  // The keys, up to the zeros behind them, and the thresholds.
  for (const size_t at : {size_t{40}, bytes.find("frugal.sparsify.share") + 3, size_t{4096}, size_t{4103}, size_t{4107}}) {
    std::string damaged = bytes;
    damaged[at] = static_cast<char>(damaged[at] ^ 1);
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << damaged;
    EXPECT_FALSE(ReadGateThresholds(path_)) << at;
  }
  for (const size_t size : {size_t{0}, size_t{100}, size_t{4096}, bytes.size() - 4096}) {
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << bytes.substr(0, size);
    EXPECT_FALSE(ReadGateThresholds(path_)) << size;
  }
}

}  // namespace
}  // namespace frugal
