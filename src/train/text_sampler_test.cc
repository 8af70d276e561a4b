#include "src/train/text_sampler.h"

#include <gtest/gtest.h>

#include "src/base/temp_dir_for_test.h"
#include "src/model/model_file.h"
#include "src/train/tiny_model_for_test.h"

namespace frugal {
namespace {

TEST(TextSamplerTest, ASequenceDoesNotDependOnHowManyRunTogether) {
  TempDir directory;
  const std::string path = directory.File("tiny.gguf");
  WriteTinyModel(TinyModel(), path);
  const auto model = ModelFile::Open(path);
  ASSERT_TRUE(model) << model.error().message;
  const auto weights = Weights::Open(*model, WeightPlan(), WeightsOptions());
  ASSERT_TRUE(weights) << weights.error().message;
  const auto pool = ThreadPool::Create(2);
  ASSERT_TRUE(pool) << pool.error().message;
  const auto sample = [&](uint32_t batch) {
    const auto text = SampleText(**weights, **pool, 20, 30, batch, 7, nullptr, [](double) {});
    EXPECT_TRUE(text) << text.error().message;
    return text ? *text : TokenSequences();
  };
  const TokenSequences expected = sample(1);
  ASSERT_EQ(expected.size(), 20u);
  EXPECT_NE(expected[0], expected[1]);
  for (uint32_t batch : {3, 20}) EXPECT_EQ(sample(batch), expected) << "batches of " << batch;
}

}  // namespace
}  // namespace frugal
