// What an engine records is what its selector chose, whatever the batch and the cache.
#include "src/cli/trace_file.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>

#include "src/cli/synthesis.h"
#include "src/base/temp_dir_for_test.h"
#include "src/pack/synthetic_shape.h"

namespace frugal {
namespace {

class TraceFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    SyntheticOptions options;
    options.config = OptConfig(2, 128, 512, 2);
    options.config.vocab_size = 256;
    options.config.max_context = 64;
    options.name = "small";
    options.output_path = model_path();
    const auto pool = ThreadPool::Create(2).value();
    const auto model = SyntheticModel::Create(options, *pool).value();
    tokens_ = model->tokens();
    ASSERT_TRUE(WriteSynthesis(options, *model, *pool, [](double, std::string_view) {}).has_value());
  }
  std::string model_path() const { return directory_.File("small.gguf"); }

  std::string Record(const std::string& name, uint32_t batch, uint32_t num_slots) {
    EngineOptions options;
    options.model_path = model_path();
    options.max_batch = batch;
    options.exact_batch = true;
    options.num_slots = num_slots;
    const auto engine = Engine::Open(options).value();
    EXPECT_TRUE(engine->has_predictor());
    const auto session = engine->NewSession().value();
    const auto trace = TraceFile::Start(directory_.File(name), *engine).value();
    EXPECT_TRUE(engine->Prefill(*session, std::span(tokens_).first(32)).has_value());
    EXPECT_TRUE(trace->Finish().has_value());
    EXPECT_EQ(trace->num_tokens(), 32u);
    std::ifstream file(directory_.File(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  TempDir directory_;
  std::vector<int32_t> tokens_;
};

TEST_F(TraceFileTest, IsTheSameWhateverTheBatchAndTheSlots) {
  const std::string one = Record("one.trace", 1, 1024);
  EXPECT_EQ(one, Record("two.trace", 1, 64));
  EXPECT_EQ(one, Record("three.trace", 16, 256));
  const Result<AccessTrace> trace = ReadTrace(directory_.File("one.trace"));
  ASSERT_TRUE(trace.has_value()) << trace.error().message;
  EXPECT_EQ(trace->num_tokens(), 32u);
  const double share = static_cast<double>(trace->num_uses()) / (32.0 * trace->header().num_bundles());
  EXPECT_GT(share, 0.07);
  EXPECT_LT(share, 0.14);
}

TEST_F(TraceFileTest, LeavesNothingUnderItsNameWhenItIsNotFinished) {
  EngineOptions options;
  options.model_path = model_path();
  const auto engine = Engine::Open(options).value();
  TraceFile::Start(directory_.File("never.trace"), *engine).value().reset();
  EXPECT_EQ(ReadTrace(directory_.File("never.trace")).error().code, ErrorCode::kIo);
  EXPECT_EQ(TraceFile::Start(directory_.File("no/such/place.trace"), *engine).error().code, ErrorCode::kIo);
}

TEST_F(TraceFileTest, TakesItsMemoryOutOfTheBudget) {
  EngineOptions options;
  options.model_path = model_path();
  options.ram_bytes = 64 << 20;
  ASSERT_TRUE(TraceFile::ReserveMemory(options).has_value());
  EXPECT_LT(options.ram_bytes, uint64_t{64} << 20);
  EXPECT_GT(options.ram_bytes, uint64_t{60} << 20);
  options.ram_bytes = 4096;
  EXPECT_EQ(TraceFile::ReserveMemory(options).error().code, ErrorCode::kDoesNotFit);
}

}  // namespace
}  // namespace frugal
