// Every instruction set that this processor has and this build compiled gives the bits of the scalar
// specification.
#include "src/kernels/kernels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "src/base/random.h"
#include "src/kernels/kernels_for_test.h"
#include "src/kernels/scalar.h"
#include "src/kernels/training_kernels.h"
#include "src/tensor/half.h"

namespace frugal {
namespace {

INSTANTIATE_TEST_SUITE_P(Targets, KernelsTest, testing::ValuesIn(TargetsToTest()),
                         [](const auto& targets) { return NameOf(targets.param); });

void CompareDotRows(Random& random, DType dtype, const Weights& weights, size_t begin, size_t end,
                    size_t columns, size_t num_tokens, Values values) {
  const size_t x_stride = columns + 1;
  const size_t out_stride = end + 3;
  const std::vector<float> x = DrawMany(random, num_tokens * x_stride, values);
  std::vector<float> expected(num_tokens * out_stride, 7.0f);
  std::vector<float> got = expected;
  scalar::DotRows(dtype, weights.rows, begin, end, columns, x.data(), x_stride, num_tokens, expected.data(),
                  out_stride);
  DotRows(dtype, weights.rows, begin, end, columns, x.data(), x_stride, num_tokens, got.data(), out_stride);
  ExpectSameBits(got, expected,
                 std::string(DTypeName(dtype)) + " " + std::to_string(columns) + " columns, " +
                     std::to_string(num_tokens) + " tokens, rows " + std::to_string(begin) + ".." +
                     std::to_string(end));
}

TEST_P(KernelsTest, DotRowsOfEverySize) {
  for (DType dtype : kWeightTypes) {
    const size_t step = TraitsOf(dtype).block_elements;
    for (size_t columns = step; columns <= 300; columns += step) {
      for (Values values : kValues) {
        const Weights weights(random_, dtype, 7, columns, values);
        for (size_t num_tokens : {1, 2, 5}) {
          CompareDotRows(random_, dtype, weights, 0, 7, columns, num_tokens, values);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST_P(KernelsTest, DotRowsOfEveryBatchAndRange) {
  for (DType dtype : kWeightTypes) {
    for (size_t columns :
         {64, 45, 512, 1056, 1051}) {  // above and below the columns of a block, with and without a rest
      if (columns % TraitsOf(dtype).block_elements != 0) continue;
      const Weights weights(random_, dtype, 20, columns, Values::kOrdinary);
      for (size_t num_tokens = 0; num_tokens <= 37; num_tokens += num_tokens < 10 ? 1 : 9) {
        for (size_t end = 0; end <= 11; ++end) {
          CompareDotRows(random_, dtype, weights, 0, end, columns, num_tokens, Values::kOrdinary);
          CompareDotRows(random_, dtype, weights, 3, 3 + end, columns, num_tokens, Values::kOrdinary);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST_P(KernelsTest, DotRowsGathersByIndex) {
  const std::vector<uint32_t> index = {19, 0, 7, 7, 3, 12, 1};
  for (DType dtype : kWeightTypes) {
    for (size_t columns : {32, 544, 768}) {
      if (columns % TraitsOf(dtype).block_elements != 0) continue;
      Weights weights(random_, dtype, 20, columns, Values::kOrdinary);
      weights.rows.index = index.data();
      for (size_t num_tokens : {1, 4, 9}) {
        CompareDotRows(random_, dtype, weights, 0, index.size(), columns, num_tokens, Values::kOrdinary);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(KernelsTest, AddScaledRowsSkipsZerosAndKeepsOrder) {
  const std::vector<uint32_t> index = {19, 0, 7, 7, 3, 12, 1, 4, 4, 2, 11, 18, 13, 5, 6, 8, 9, 10, 14, 15};
  for (DType dtype : kWeightTypes) {
    const size_t step = TraitsOf(dtype).block_elements;
    for (size_t columns = step; columns <= std::max<size_t>(150, step == 32 ? 320 : 3 * step); columns += step) {
      for (Values values : kValues) {
        Weights weights(random_, dtype, 20, columns, values);
        if (columns % 2 == 0) weights.rows.index = index.data();
        for (size_t num_rows : {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 20}) {
          std::vector<float> a = DrawMany(random_, 20, values);
          for (size_t i = 0; i < a.size(); ++i) {
            if (random_.Below(4) == 0) a[i] = random_.Below(2) == 0 ? 0.0f : -0.0f;
          }
          const size_t cut = IsQuantised(dtype) ? kQuantisedBlock : 1;
          const size_t begin = random_.Below(columns / cut) * cut;
          const size_t end = begin + random_.Below((columns - begin) / cut + 1) * cut;
          std::vector<float> expected = DrawMany(random_, columns, values);
          std::vector<float> got = expected;
          scalar::AddScaledRows(dtype, weights.rows, num_rows, a.data(), begin, end, expected.data());
          AddScaledRows(dtype, weights.rows, num_rows, a.data(), begin, end, got.data());
          ExpectSameBits(got, expected, std::string(DTypeName(dtype)) + " " + std::to_string(columns));
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

// In the midst of so many rows that they are looked at together.
TEST_P(KernelsTest, AddScaledRowsAddsWhatANaNScales) {
  const std::vector<float> row(64, 1.0f);
  const RowSet rows{reinterpret_cast<const std::byte*>(row.data()), 0, nullptr};
  for (size_t at : {0, 5, 31, 33, 63, 69}) {
    std::vector<float> a(70), out(64);
    a[at] = kNaN;
    AddScaledRows(DType::kF32, rows, a.size(), a.data(), 0, 64, out.data());
    for (float value : out) ASSERT_TRUE(std::isnan(value)) << "row " << at;
  }
}

TEST_P(KernelsTest, AddScaledRowsDoesNotTouchSkippedRows) {
  const std::vector<float> row(64, kNaN);
  const RowSet rows{reinterpret_cast<const std::byte*>(row.data()), 0, nullptr};
  const std::vector<float> a = {0.0f, -0.0f, 0.0f};
  std::vector<float> out(64, 1.0f);
  AddScaledRows(DType::kF32, rows, a.size(), a.data(), 0, 64, out.data());
  ExpectSameBits(out, std::vector<float>(64, 1.0f), "skipped");
}

// Quantised inputs of floats of every kind.
struct Inputs {
  std::vector<int8_t> q;
  std::vector<float> scales;
  QuantisedInput view;

  Inputs(const std::vector<float>& x) : q(x.size()), scales(x.size() / 32) {
    scalar::QuantiseInput(x.data(), x.size(), q.data(), scales.data());
    view = {q.data(), scales.data()};
  }
};

TEST_P(KernelsTest, QuantisedInputsOfEverySize) {
  for (size_t size = 0; size <= 640; size += 32) {
    for (Values values : kValues) {
      for (float factor : {1.0f, 0x1.0p-120f, 0x1.0p100f}) {
        std::vector<float> x = DrawMany(random_, size, values);
        for (float& value : x) value *= factor;
        for (size_t i = 0; i < size; i += 7) x[i] = std::round(x[i] * 8) / 8;  // ties
        const Inputs expected(x);
        Inputs got(x);
        std::fill(got.q.begin(), got.q.end(), int8_t{99});
        std::fill(got.scales.begin(), got.scales.end(), 99.0f);
        QuantiseInput(x.data(), size, got.q.data(), got.scales.data());
        ExpectSameBits(got.scales, expected.scales, "scales");
        ASSERT_EQ(got.q, expected.q) << size;
      }
    }
  }
}

TEST_P(KernelsTest, QuantisedDotRowsOfEverySizeBatchAndRange) {
  const std::vector<uint32_t> index = {19, 0, 7, 7, 3, 12, 1, 4, 4, 2, 11, 18, 13, 5, 6, 8, 9, 10, 14, 15};
  for (DType dtype : kWeightTypes) {
    for (size_t columns : {32, 64, 96, 256, 288, 1024, 1056, 2560}) {
      if (!IsQuantised(dtype) || columns % TraitsOf(dtype).block_elements != 0) continue;
      for (Values values : kValues) {
        Weights weights(random_, dtype, 20, columns, values);
        if (columns % 64 == 0) weights.rows.index = index.data();
        for (size_t num_tokens : {0, 1, 2, 3, 4, 5, 8, 13}) {
          const Inputs x(DrawMany(random_, num_tokens * columns, values));
          const size_t begin = random_.Below(20);
          const size_t end = begin + random_.Below(20 - begin + 1);
          const size_t out_stride = end + 3;
          std::vector<float> expected(num_tokens * out_stride, 7.0f);
          std::vector<float> got = expected;
          scalar::DotRowsQuantised(dtype, weights.rows, begin, end, columns, x.view, num_tokens, expected.data(), out_stride);
          DotRowsQuantised(dtype, weights.rows, begin, end, columns, x.view, num_tokens, got.data(), out_stride);
          ExpectSameBits(got, expected, std::string(DTypeName(dtype)) + " " + std::to_string(columns));
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

// Tiles of gathered rows of one token, and what is left of them, with rows shorter and longer than how far memory is asked ahead.
TEST_P(KernelsTest, GatheredRowsOfEveryNumberWithOneToken) {
  std::vector<uint32_t> index(45);
  for (size_t i = 0; i < index.size(); ++i) index[i] = static_cast<uint32_t>(i * 7 % 20);
  for (DType dtype : kWeightTypes) {
    for (size_t columns : {1, 45, 64, 256, 1056, 1536}) {
      if (columns % TraitsOf(dtype).block_elements != 0) continue;
      Weights weights(random_, dtype, 20, columns, Values::kOrdinary);
      weights.rows.index = index.data();
      for (size_t end = 1; end <= index.size(); ++end) {
        const size_t begin = end % 3 == 0 ? random_.Below(end) : 0;
        CompareDotRows(random_, dtype, weights, begin, end, columns, 1, Values::kOrdinary);
        if (HasFatalFailure()) return;
        if (!IsQuantised(dtype)) continue;
        const Inputs x(DrawMany(random_, columns, Values::kOrdinary));
        std::vector<float> expected(end, 7.0f);
        std::vector<float> got = expected;
        scalar::DotRowsQuantised(dtype, weights.rows, begin, end, columns, x.view, 1, expected.data(), 0);
        DotRowsQuantised(dtype, weights.rows, begin, end, columns, x.view, 1, got.data(), 0);
        ExpectSameBits(got, expected, std::string(DTypeName(dtype)) + " " + std::to_string(columns));
        if (HasFatalFailure()) return;
      }
    }
  }
}

// The largest sums: weights of -128 (which no quantiser writes, but a file may hold) and inputs of -127 and 127.
TEST_P(KernelsTest, QuantisedDotRowsOfTheExtremes) {
  constexpr size_t kColumns = 128;
  std::vector<std::byte> row(kColumns / 32 * 34);
  for (int weight : {-128, -127, 127, 0}) {
    for (int input : {-127, 127, 1}) {
      for (size_t b = 0; b < row.size(); b += 34) {
        const uint16_t one = FloatToHalf(1.0f);
        std::memset(row.data() + b, weight, 34);
        std::memcpy(row.data() + b, &one, sizeof(one));
      }
      const std::vector<int8_t> q(kColumns, static_cast<int8_t>(input));
      const std::vector<float> scales(kColumns / 32, 1.0f);
      float got = 0;
      DotRowsQuantised(DType::kQ8_0, {row.data(), 0, nullptr}, 0, 1, kColumns, {q.data(), scales.data()}, 1, &got, 1);
      EXPECT_EQ(got, static_cast<float>(weight * input * static_cast<int>(kColumns)));
    }
  }
}

// Sums of 16 bits must not be too large whatever the quants are.
TEST_P(KernelsTest, QuantisedDotRowsOfEveryByteAtTheExtremes) {
  for (DType dtype : kWeightTypes) {
    if (!IsQuantised(dtype)) continue;
    const size_t columns = 512;
    std::vector<std::byte> row(RowBytes(dtype, columns).value());
    for (int byte = 0; byte < 256; ++byte) {
      std::memset(row.data(), byte, row.size());
      for (size_t b = 0; b < row.size(); b += TraitsOf(dtype).block_bytes) {
        const uint16_t half = FloatToHalf(0.25f);
        for (uint8_t offset : ScaleOffsets(dtype)) std::memcpy(row.data() + b + offset, &half, sizeof(half));
      }
      for (int input : {-127, 127}) {
        const std::vector<int8_t> q(columns, static_cast<int8_t>(input));
        const std::vector<float> scales(columns / 32, 0.5f);
        const QuantisedInput x{q.data(), scales.data()};
        std::vector<float> got(1), expected(1);
        DotRowsQuantised(dtype, {row.data(), 0, nullptr}, 0, 1, columns, x, 1, got.data(), 1);
        scalar::DotRowsQuantised(dtype, {row.data(), 0, nullptr}, 0, 1, columns, x, 1, expected.data(), 1);
        ExpectSameBits(got, expected, std::string(DTypeName(dtype)));
      }
    }
  }
}

TEST_P(KernelsTest, ElementwiseOfEverySize) {
  for (size_t size = 1; size <= 300; ++size) {
    for (Values values : kValues) {
      const std::vector<float> x = DrawMany(random_, size, values);
      const std::vector<float> y = DrawMany(random_, size, values);
      const std::vector<float> z = DrawMany(random_, size, values);
      const auto compare = [&](auto simd, auto specification, const char* name) {
        std::vector<float> got = x;
        std::vector<float> expected = x;
        simd(got);
        specification(expected);
        ExpectSameBits(got, expected, name + (" of size " + std::to_string(size)));
      };
      compare([&](auto& v) { LayerNorm(v.data(), y.data(), z.data(), 1e-5f, size, v.data()); },
              [&](auto& v) { scalar::LayerNorm(v.data(), y.data(), z.data(), 1e-5f, size, v.data()); },
              "LayerNorm");
      compare([&](auto& v) { Softmax(v.data(), size); }, [&](auto& v) { scalar::Softmax(v.data(), size); },
              "Softmax");
      compare([&](auto& v) { AddBiasRelu(v.data(), y.data(), size); },
              [&](auto& v) { scalar::AddBiasRelu(v.data(), y.data(), size); }, "AddBiasRelu");
      compare([&](auto& v) { AddBiasRelu(v.data(), nullptr, size); },
              [&](auto& v) { scalar::AddBiasRelu(v.data(), nullptr, size); }, "AddBiasRelu without bias");
      compare([&](auto& v) { Add(v.data(), y.data(), size); },
              [&](auto& v) { scalar::Add(v.data(), y.data(), size); }, "Add");
      compare([&](auto& v) { Scale(v.data(), y[0], size); },
              [&](auto& v) { scalar::Scale(v.data(), y[0], size); }, "Scale");
      compare([&](auto& v) { Exp(v.data(), size); }, [&](auto& v) { scalar::Exp(v.data(), size); }, "Exp");
      compare([&](auto& v) { Sigmoid(v.data(), size); }, [&](auto& v) { scalar::Sigmoid(v.data(), size); },
              "Sigmoid");
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(KernelsTest, ConversionsOfEveryBitPatternAndSize) {
  for (DType dtype : {DType::kF16, DType::kBF16}) {
    std::vector<uint16_t> halves(65536);
    for (size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<uint16_t>(i);
    std::vector<float> got(halves.size());
    ConvertToFloat(dtype, reinterpret_cast<const std::byte*>(halves.data()), halves.size(), got.data());
    for (size_t i = 0; i < halves.size(); ++i) {
      const float expected = dtype == DType::kF16 ? HalfToFloat(halves[i]) : Bf16ToFloat(halves[i]);
      if (std::isnan(expected) && std::isnan(got[i])) continue;
      ASSERT_EQ(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(expected)) << i;
    }
  }
  for (DType dtype : kWeightTypes) {
    const size_t step = TraitsOf(dtype).block_elements;
    for (size_t size = step; size <= 320; size += step) {
      const Weights weights(random_, dtype, 1, size, Values::kSpecial);
      std::vector<float> got(size);
      std::vector<float> expected(size);
      ConvertToFloat(dtype, weights.rows.base, size, got.data());
      scalar::ConvertToFloat(dtype, weights.rows.base, size, expected.data());
      ExpectSameBits(got, expected, std::string(DTypeName(dtype)));
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(KernelsTest, RoundingToSmallTypes) {
  for (DType dtype : kWeightTypes) {
    if (!IsWritableWeightType(dtype)) continue;
    const size_t step = TraitsOf(dtype).block_elements;
    for (size_t size = step; size <= 640; size += step) {
      std::vector<float> from = DrawMany(random_, size, kValues[size / step % 3]);
      for (float& value : from) {
        if (random_.Below(4) == 0) value = std::bit_cast<float>(static_cast<uint32_t>(random_.Next()));
        if (std::isnan(value)) value = kNaN;
      }
      std::vector<std::byte> got(RowBytes(dtype, size).value());
      std::vector<std::byte> expected(got.size());
      ConvertFromFloat(dtype, from.data(), size, got.data());
      scalar::ConvertFromFloat(dtype, from.data(), size, expected.data());
      ASSERT_EQ(std::memcmp(got.data(), expected.data(), got.size()), 0) << DTypeName(dtype) << " " << size;
    }
  }
}

TEST_P(KernelsTest, AllFiniteFindsOneBadElementAnywhere) {
  for (size_t size = 1; size <= 70; ++size) {
    std::vector<float> x = DrawMany(random_, size, Values::kOrdinary);
    x[size / 2] = -3.4e38f;
    EXPECT_TRUE(AllFinite(x.data(), size));
    for (size_t i = 0; i < size; ++i) {
      for (float bad : {kNaN, kInfinity, -kInfinity}) {
        const float kept = std::exchange(x[i], bad);
        EXPECT_FALSE(AllFinite(x.data(), size)) << size << " " << i;
        x[i] = kept;
      }
    }
  }
}

TEST_P(KernelsTest, MatrixProducts) {
  const size_t sizes[][3] = {{1, 1, 1},   {6, 16, 256}, {7, 17, 257}, {13, 40, 3},
                             {5, 3, 600}, {12, 33, 64}, {25, 70, 31}};
  for (const auto& [m, n, k] : sizes) {
    for (Values values : kValues) {
      const std::vector<float> a = DrawMany(random_, m * k, values);
      const std::vector<float> b = DrawMany(random_, n * k, values);
      std::vector<float> got = DrawMany(random_, m * n, values);
      std::vector<float> expected = got;
      MatMulTransposedF32(a.data(), b.data(), got.data(), m, n, k);
      scalar::MatMulTransposedF32(a.data(), b.data(), expected.data(), m, n, k);
      ExpectSameBits(got, expected, "MatMulTransposedF32");
      MatMulNN(a.data(), b.data(), got.data(), m, n, k);
      scalar::MatMulNN(a.data(), b.data(), expected.data(), m, n, k);
      ExpectSameBits(got, expected, "MatMulNN");
      MatMulF32(a.data(), b.data(), got.data(), m, n, k);
      const RowSet rows{reinterpret_cast<const std::byte*>(b.data()), k * sizeof(float), nullptr};
      scalar::DotRows(DType::kF32, rows, 0, n, k, a.data(), k, m, expected.data(), n);
      ExpectSameBits(got, expected, "MatMulF32");
      if (HasFatalFailure()) return;
    }
  }
}

TEST(KernelsDispatchTest, NamesWhatItTook) { EXPECT_GT(std::strlen(InstructionSetName()), 0u); }

TEST(KernelsDispatchTest, EveryInstructionSetIsTestedHere) {
  const std::vector<int64_t> tested = TargetsToTest();
  std::string missing;
  const auto require = [&](int64_t targets) {
    if (std::find(tested.begin(), tested.end(), targets) == tested.end()) missing += " " + NameOf(targets);
  };
  for (int64_t rest = HWY_TARGETS; rest != 0; rest &= rest - 1) require(rest & -rest);
#if HWY_TARGETS & HWY_AVX3
  require(HWY_AVX3 | HWY_AVX3_DL);
#endif
  if (!missing.empty()) GTEST_SKIP() << "compiled, but this processor lacks them:" << missing;
}

}  // namespace
}  // namespace frugal
