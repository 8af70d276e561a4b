#include "src/select/gate_sketch.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "src/base/bytes.h"
#include "src/base/random.h"
#include "src/kernels/kernels.h"
#include "src/kernels/layer_kernels.h"

namespace frugal {
namespace {

constexpr uint32_t kHidden = 96, kFfn = 203, kTokens = 70;  // no multiple of a tile's sizes
constexpr float kThreshold = 0.2f;

float Normal(Random& random) {
  return static_cast<float>(std::sqrt(-2 * std::log(1 - random.Uniform())) * std::cos(6.283185307179586 * random.Uniform()));
}

std::vector<float> NormalFloats(Random& random, size_t size) {
  std::vector<float> values(size);
  for (float& value : values) value = Normal(random);
  return values;
}

// One layer of random rows, stored as `type`, and inputs.
struct Layer {
  explicit Layer(DType stored) : type(stored), row_bytes(*RowBytes(stored, kHidden)), rows(kFfn * row_bytes) {
    Random random(20240611);
    weights = NormalFloats(random, kFfn * kHidden);
    for (uint32_t i = 0; i < kFfn; ++i) ConvertFromFloat(type, weights.data() + i * kHidden, kHidden, rows.data() + i * row_bytes);
    x = NormalFloats(random, kTokens * kHidden);
    bias = NormalFloats(random, kFfn);
  }
  // The forward pass's gates of float rows.
  bool IsActive(uint32_t token, uint32_t neuron) const {
    float gate = 0;
    const RowSet row{rows.data() + neuron * row_bytes, row_bytes, nullptr};
    DotRows(type, row, 0, 1, kHidden, x.data() + token * kHidden, kHidden, 1, &gate, 1);
    gate += bias[neuron];
    ThresholdRelu(&gate, kThreshold, 1);
    return gate != 0.0f;
  }

  DType type;
  size_t row_bytes;
  std::vector<float> weights, x, bias;
  std::vector<std::byte> rows;
};

std::unique_ptr<GateSketch> Sketch(const Layer& layer, SketchPrecision precision, int num_threads = 1) {
  GateSketchOptions options;
  options.hidden_size = kHidden;
  options.ffn_size = kFfn;
  options.max_tokens = kTokens;
  options.num_threads = num_threads;
  options.threshold = kThreshold;
  options.precision = precision;
  options.row_types = {layer.type};
  Result<std::unique_ptr<GateSketch>> sketch = GateSketch::Create(options, {layer.bias});
  if (!sketch) {
    ADD_FAILURE() << sketch.error().message;
    return nullptr;
  }
  for (uint32_t i = 0; i < kFfn; ++i) (*sketch)->Encode(0, i, layer.rows.data() + i * layer.row_bytes, static_cast<int>(i) % num_threads);
  return std::move(sketch).value();
}

// The bitmaps of all tokens, asked for in batches.
std::vector<uint64_t> Select(GateSketch& sketch, const Layer& layer, uint32_t batch, int num_threads = 1) {
  const auto pool = ThreadPool::Create(num_threads);
  const uint32_t words = Selector::WordsPerToken(kFfn);
  std::vector<uint64_t> active(kTokens * words, ~uint64_t{0});
  for (uint32_t t = 0; t < kTokens; t += batch) {
    const uint32_t count = std::min(batch, kTokens - t);
    const auto of_batch = std::span(active).subspan(size_t{t} * words, size_t{count} * words);
    sketch.Select(0, layer.x.data() + size_t{t} * kHidden, count, of_batch, **pool, [](uint32_t) {});
  }
  return active;
}

bool IsChosen(const std::vector<uint64_t>& active, uint32_t token, uint32_t neuron) {
  return (active[size_t{token} * Selector::WordsPerToken(kFfn) + neuron / 64] >> (neuron % 64)) & 1;
}

TEST(GateSketchTest, TellsWhatIsKnownBetweenTheTiles) {
  const Layer layer(DType::kF32);
  const auto sketch = Sketch(layer, SketchPrecision::kExact);
  ASSERT_NE(sketch, nullptr);
  const auto pool = ThreadPool::Create(1).value();
  const uint32_t words = Selector::WordsPerToken(kFfn);
  const std::vector<uint64_t> chosen = Select(*sketch, layer, kTokens);
  std::vector<uint64_t> active(kTokens * words, ~uint64_t{0});
  uint32_t last = 0, most_before_the_end = 0;
  sketch->Select(0, layer.x.data(), kTokens, active, *pool, [&](uint32_t num_known) {
    ASSERT_GE(num_known, last);
    last = num_known;
    if (num_known < kFfn) most_before_the_end = num_known;
    for (uint32_t t = 0; t < kTokens; ++t) {
      for (uint32_t word = 0; word < (num_known + 63) / 64; ++word) ASSERT_EQ(active[t * words + word], chosen[t * words + word]);
    }
  });
  EXPECT_GT(most_before_the_end, 0u);
}

TEST(GateSketchTest, AnExactCopyChoosesWhatTheGateSays) {
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
    const Layer layer(type);
    const auto sketch = Sketch(layer, SketchPrecision::kExact);
    ASSERT_NE(sketch, nullptr);
    const std::vector<uint64_t> active = Select(*sketch, layer, kTokens);
    for (uint32_t t = 0; t < kTokens; ++t) {
      for (uint32_t i = 0; i < kFfn; ++i) {
        ASSERT_EQ(IsChosen(active, t, i), layer.IsActive(t, i)) << DTypeName(type) << " " << t << " " << i;
      }
      ASSERT_EQ(active[(t + 1) * Selector::WordsPerToken(kFfn) - 1] >> (kFfn % 64), 0u) << "bits behind the last neuron";
    }
  }
}

TEST(GateSketchTest, FourBitsFindNearlyAllActiveNeuronsAndFewOthers) {
  const Layer layer(DType::kF16);
  const auto sketch = Sketch(layer, SketchPrecision::kFourBits);
  ASSERT_NE(sketch, nullptr);
  const std::vector<uint64_t> chosen = Select(*sketch, layer, 1);
  double num_active = 0, num_found = 0, num_chosen = 0;
  for (uint32_t t = 0; t < kTokens; ++t) {
    for (uint32_t i = 0; i < kFfn; ++i) {
      num_active += layer.IsActive(t, i) ? 1 : 0;
      num_chosen += IsChosen(chosen, t, i) ? 1 : 0;
      num_found += layer.IsActive(t, i) && IsChosen(chosen, t, i) ? 1 : 0;
    }
  }
  EXPECT_GT(num_found / num_active, 0.98);
  EXPECT_LT(num_found / num_active, 1.0) << "a guess that misses nothing in so many is no guess";
  EXPECT_GT(num_found / num_chosen, 0.9);
}

TEST(GateSketchTest, TheSameChoiceForAnyBatchAndThreads) {
  for (const DType type : {DType::kF16, DType::kQ4_0}) {
    const Layer layer(type);
    const auto one = Sketch(layer, SketchPrecision::kFourBits), three = Sketch(layer, SketchPrecision::kFourBits, 3);
    ASSERT_TRUE(one != nullptr && three != nullptr);
    const std::vector<uint64_t> expected = Select(*one, layer, 1);
    for (const uint32_t batch : {2u, 7u, 8u, 49u, kTokens}) {
      EXPECT_EQ(Select(*one, layer, batch), expected) << batch;
      EXPECT_EQ(Select(*three, layer, batch, 3), expected) << batch;
    }
  }
}

TEST(GateSketchTest, RowsThatTakeNoMoreAreCopiedAsTheyAre) {
  constexpr auto kFourBits = SketchPrecision::kFourBits;
  EXPECT_EQ(GateSketch::TypeOf(DType::kF16, 256, kFourBits), DType::kQ4_0);
  EXPECT_EQ(GateSketch::TypeOf(DType::kQ8_0, 256, kFourBits), DType::kQ4_0);
  EXPECT_EQ(GateSketch::TypeOf(DType::kQ4_0, 256, kFourBits), DType::kQ4_0);
  EXPECT_EQ(GateSketch::TypeOf(DType::kQ2_K, 256, kFourBits), DType::kQ2_K);
  EXPECT_EQ(GateSketch::TypeOf(DType::kQ8_0, 256, SketchPrecision::kExact), DType::kQ8_0);
  EXPECT_EQ(GateSketch::TypeOf(DType::kF16, 40, kFourBits), DType::kF16) << "no whole blocks";
  GateSketchOptions options;
  options.hidden_size = 256;
  options.ffn_size = 64;
  options.row_types = {DType::kQ4_0, DType::kQ4_0};
  EXPECT_TRUE(GateSketch::IsExact(options));
  options.row_types = {DType::kQ4_0, DType::kF16};
  EXPECT_FALSE(GateSketch::IsExact(options));
  const uint64_t four_bits = GateSketch::MemoryBytes(options);
  options.precision = SketchPrecision::kExact;
  const uint64_t more = RoundUp(64 * (144 + 512), 4096) - RoundUp(64 * (144 + 144), 4096);
  EXPECT_EQ(GateSketch::MemoryBytes(options) - four_bits, more) << "the rows of the second layer, in whole pages";
}

TEST(GateSketchTest, ANeuronThatIsNotFiniteIsAlwaysChosen) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Layer layer(DType::kF32);
    std::memcpy(layer.rows.data() + 5 * layer.row_bytes + 4, &bad, sizeof(bad));
    layer.x[3 * kHidden + 7] = bad;
    const auto sketch = Sketch(layer, SketchPrecision::kFourBits);
    ASSERT_NE(sketch, nullptr);
    const std::vector<uint64_t> active = Select(*sketch, layer, kTokens);
    for (uint32_t t = 0; t < kTokens; ++t) EXPECT_TRUE(IsChosen(active, t, 5)) << t;
    for (uint32_t i = 0; i < kFfn; ++i) EXPECT_TRUE(IsChosen(active, 3, i)) << i;
  }
}

}  // namespace
}  // namespace frugal
