// What the tests of the kernels share: values to multiply, one run for each instruction set that this processor has and this build
// compiled, comparison bit by bit.
#pragma once

#include <gtest/gtest.h>

// The order is Highway's.
// clang-format off
#include "src/kernels/highway_targets.h"
#include <hwy/highway.h>
// clang-format on

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "src/base/random.h"
#include "src/kernels/block_formats.h"
#include "src/kernels/kernels.h"
#include "src/kernels/quantised_kernels.h"
#include "src/kernels/scalar.h"
#include "src/tensor/half.h"

namespace frugal {


inline constexpr uint64_t kSeed = 20240611;
inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
inline constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

enum class Values { kOrdinary, kTiny, kSpecial };

inline float Draw(Random& random, Values values) {
  const float uniform = static_cast<float>(random.Uniform() * 2 - 1);
  switch (values) {
    case Values::kOrdinary:
      return uniform;
    case Values::kTiny:  // denormals and zeros of both signs: products that underflow
      return random.Below(3) == 0 ? std::copysign(0.0f, uniform) : uniform * 0x1.0p-127f;
    case Values::kSpecial:
      switch (random.Below(40)) {
        case 0:
          return kNaN;
        case 1:
          return uniform < 0 ? -kInfinity : kInfinity;
        case 2:
          return std::copysign(0.0f, uniform);
        case 3:
          return uniform * 3e38f;
        default:
          return uniform * 100;
      }
  }
  return 0;
}

inline std::vector<float> DrawMany(Random& random, size_t size, Values values) {
  std::vector<float> result(size);
  for (float& value : result) value = Draw(random, values);
  return result;
}

// The same bits, or NaN in both.
inline void ExpectSameBits(const std::vector<float>& got, const std::vector<float>& expected,
                    const std::string& what) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    if (std::isnan(expected[i]) && std::isnan(got[i])) continue;
    ASSERT_EQ(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(expected[i]))
        << what << " at " << i << ": " << got[i] << " instead of " << expected[i] << ", seed " << kSeed;
  }
}

// Bits of Highway's targets: each that is compiled and that this processor has. AVX-512 VNNI is not one that Highway compiles;
// dot_rows_quantised.cc takes it beside AVX3 where the processor is of the class AVX3_DL.
inline std::vector<int64_t> TargetsToTest() {
  std::vector<int64_t> result;
  for (int64_t rest = HWY_SUPPORTED_TARGETS & HWY_TARGETS; rest != 0; rest &= rest - 1) result.push_back(rest & -rest);
#if HWY_TARGETS & HWY_AVX3
  const int64_t vnni = HWY_AVX3 | HWY_AVX3_DL;
  if ((HWY_SUPPORTED_TARGETS & vnni) == vnni) result.push_back(vnni);
#endif
  return result;
}

inline std::string NameOf(int64_t targets) {
  return targets == (HWY_AVX3 | HWY_AVX3_DL) ? "AVX3_VNNI" : hwy::TargetName(targets);
}

// 0: what the processor has. Where one target is compiled there is nothing to choose, and Highway's library is not needed.
inline void ChooseTargets([[maybe_unused]] int64_t targets) {
#if (HWY_TARGETS & (HWY_TARGETS - 1)) != 0
  hwy::SetSupportedTargetsForTest(targets);
#endif
  AllowVnniForTest(targets == 0 || (targets & HWY_AVX3_DL) != 0);
}

// One run for each instruction set.
class KernelsTest : public testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override {
    ChooseTargets(GetParam());
    const int64_t taken = GetParam() & HWY_TARGETS;
    const bool runs_scalar_code = taken == HWY_SCALAR || taken == HWY_EMU128;
    const std::string expected = runs_scalar_code ? "scalar" : hwy::TargetName(taken);
    ASSERT_EQ(InstructionSetName(), expected);  // or the comparison would be of one set with itself
  }
  void TearDown() override { ChooseTargets(0); }
  Random random_{kSeed};
};

// Rows of random weights, with a stride that leaves them aligned to 2 bytes only.
struct Weights {
  std::vector<std::byte> bytes;
  RowSet rows;

  Weights(Random& random, DType dtype, size_t num_rows, size_t columns, Values values) {
    const size_t row_bytes = RowBytes(dtype, columns).value();
    rows.stride_bytes = row_bytes + 2;
    bytes.resize(num_rows * rows.stride_bytes + 2);
    rows.base = bytes.data() + 2;
    for (size_t i = 0; i < num_rows; ++i) {
      std::byte* row = bytes.data() + 2 + i * rows.stride_bytes;
      if (!IsQuantised(dtype)) {
        scalar::ConvertFromFloat(dtype, DrawMany(random, columns, values).data(), columns, row);
        continue;
      }
      for (size_t b = 0; b < row_bytes; ++b) row[b] = static_cast<std::byte>(random.Below(256));
      for (size_t b = 0; b < row_bytes; b += TraitsOf(dtype).block_bytes) {
        for (uint8_t offset : ScaleOffsets(dtype)) {
          const uint16_t scale = FloatToHalf(Draw(random, values) / 64);
          std::memcpy(row + b + offset, &scale, sizeof(scale));
        }
      }
    }
  }
};

inline constexpr Values kValues[] = {Values::kOrdinary, Values::kTiny, Values::kSpecial};

}  // namespace frugal
