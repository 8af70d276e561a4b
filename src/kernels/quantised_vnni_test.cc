// The code for AVX-512 VNNI on processors that lack it: compiled for AVX2 with the one instruction that is VNNI's own,
// vpdpbusd, written out as Intel's manual defines it. The instruction itself is tested by kernels_test.cc, where there
// is one.
#include <gtest/gtest.h>

// The order is Highway's.
// clang-format off
#include "src/kernels/highway_targets.h"
#include <hwy/highway.h>
// clang-format on

#if HWY_ARCH_X86

#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>
#include <vector>

#include "src/base/random.h"
#include "src/kernels/block_formats.h"
#include "src/kernels/block_products.h"
#include "src/kernels/quantised_kernels.h"
#include "src/kernels/quantised_tiles.h"
#include "src/kernels/row_streams.h"
#include "src/kernels/scalar.h"
#include "src/kernels/simd-inl.h"
#include "src/tensor/half.h"

HWY_PUSH_ATTRIBUTES("avx2,fma,f16c")
namespace frugal::vnni_for_test {

HWY_INLINE __m256i DotOfBytes(__m256i sums, __m256i unsigned_bytes, __m256i signed_bytes) {
  int32_t to[8];
  uint8_t a[32];
  int8_t b[32];
  std::memcpy(to, &sums, sizeof(to));
  std::memcpy(a, &unsigned_bytes, sizeof(a));
  std::memcpy(b, &signed_bytes, sizeof(b));
  for (size_t i = 0; i < 32; ++i) to[i / 4] += a[i] * b[i];
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(to));
}

#define FRUGAL_DPBUSD DotOfBytes
#include "src/kernels/quantised_x86-inl.h"
#include "src/kernels/quantised_rows-inl.h"
#include "src/kernels/block_dots_x86-inl.h"
#include "src/kernels/block_dots_rows-inl.h"
#undef FRUGAL_DPBUSD

}  // namespace frugal::vnni_for_test
HWY_POP_ATTRIBUTES

namespace frugal {
namespace {

// Every byte of the blocks is drawn, so that they hold the -128 that no quantiser writes; a fifth of the inputs is at an end.
TEST(QuantisedVnniTest, GivesTheBitsOfTheSpecification) {
  if ((hwy::SupportedTargets() & HWY_AVX2) == 0) GTEST_SKIP() << "this processor has no AVX2";
  constexpr uint64_t kSeed = 20241125;
  constexpr size_t kRows = 11;
  Random random(kSeed);
  for (DType dtype : {DType::kQ8_0, DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kIQ4_NL, DType::kQ2_K, DType::kQ4_K, DType::kQ6_K}) {
    for (size_t columns : {32, 64, 288, 2048}) {  // 2048: longer than what is asked for ahead
      if (columns % TraitsOf(dtype).block_elements != 0) continue;
      const size_t row_bytes = RowBytes(dtype, columns).value();
      std::vector<std::byte> weights(kRows * row_bytes);
      for (std::byte& byte : weights) byte = static_cast<std::byte>(random.Below(256));
      for (size_t b = 0; b < weights.size(); b += TraitsOf(dtype).block_bytes) {
        for (uint8_t offset : ScaleOffsets(dtype)) {
          const uint16_t scale = FloatToHalf(static_cast<float>(random.Uniform() - 0.5));
          std::memcpy(weights.data() + b + offset, &scale, sizeof(scale));
        }
      }
      const RowSet rows{weights.data(), row_bytes, nullptr};
      for (size_t num_tokens : {1, 2, 4, 7}) {
        std::vector<int8_t> q(num_tokens * columns);
        for (int8_t& value : q) {
          value = static_cast<int8_t>(random.Below(5) == 0 ? (random.Below(2) == 0 ? -127 : 127)
                                                           : static_cast<int>(random.Below(255)) - 127);
        }
        std::vector<float> scales(q.size() / kQuantisedBlock);
        for (float& scale : scales) scale = static_cast<float>(random.Uniform());
        const QuantisedInput x{q.data(), scales.data()};
        std::vector<float> expected(num_tokens * kRows);
        std::vector<float> got(expected.size());
        scalar::DotRowsQuantised(dtype, rows, 0, kRows, columns, x, num_tokens, expected.data(), kRows);
        const auto dot_rows = HasBlockFormat(dtype) ? vnni_for_test::DotBlocksQuantised : vnni_for_test::DotRowsQuantised;
        dot_rows(dtype, rows, 0, kRows, columns, x, num_tokens, got.data(), kRows);
        ASSERT_EQ(std::memcmp(got.data(), expected.data(), got.size() * sizeof(float)), 0)
            << DTypeName(dtype) << ", " << columns << " columns, " << num_tokens << " tokens, seed " << kSeed;
      }
    }
  }
}

}  // namespace
}  // namespace frugal

#endif  // HWY_ARCH_X86
