#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/kernels/dot_rows_quantised.cc"
// The order is Highway's.
// clang-format off
#include "src/kernels/highway_targets.h"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <limits>
#include <type_traits>

#include "src/base/check.h"
#include "src/kernels/block_dots.h"
#include "src/kernels/block_formats.h"
#include "src/kernels/quantised_kernels.h"
#include "src/kernels/quantised_tiles.h"
#include "src/kernels/row_streams.h"
#include "src/kernels/scalar.h"
#include "src/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace frugal::HWY_NAMESPACE {
#if !FRUGAL_SCALAR_TARGET

void QuantiseBlock(const float* x, int8_t* q, float* scale) {
  const FloatTag d;
  const hn::Rebind<int32_t, FloatTag> d32;
  const hn::Rebind<int8_t, FloatTag> d8;
  // The bits of magnitudes are ordered like the magnitudes; infinity and NaN are above all others.
  auto largest_bits = hn::Zero(d32);
  FRUGAL_UNROLL
  for (size_t p = 0; p < kParts; ++p) {
    largest_bits = hn::Max(largest_bits, hn::BitCast(d32, hn::Abs(hn::LoadU(d, x + p * kWidth))));
  }
  alignas(64) int32_t bits[kWidth];
  hn::Store(largest_bits, d32, bits);
  int32_t most = bits[0];
  for (const int32_t value : bits) most = value > most ? value : most;
  if (most >= 0x7f800000) {
    *scale = std::numeric_limits<float>::quiet_NaN();
    std::memset(q, 0, kQuantisedBlock);
    return;
  }
  *scale = std::bit_cast<float>(most) / 127.0f;
  const float inverse = *scale >= std::numeric_limits<float>::min() ? 1.0f / *scale : 0.0f;
  FRUGAL_UNROLL
  for (size_t p = 0; p < kParts; ++p) {
    const auto rounded = hn::NearestInt(hn::Mul(hn::LoadU(d, x + p * kWidth), hn::Set(d, inverse)));
    hn::StoreU(hn::DemoteTo(d8, rounded), d8, q + p * kWidth);
  }
}

void QuantiseInput(const float* x, size_t size, int8_t* q, float* scales) {
  for (size_t i = 0; i < size; i += kQuantisedBlock) QuantiseBlock(x + i, q + i, scales + i / kQuantisedBlock);
}

#if HWY_ARCH_X86
#include "src/kernels/quantised_x86-inl.h"
#else
#include "src/kernels/quantised_128-inl.h"
#endif
#include "src/kernels/quantised_rows-inl.h"

#else
using scalar::DotRowsQuantised;
using scalar::QuantiseInput;
#endif  // !FRUGAL_SCALAR_TARGET

// The better a target, the lower its bit.
bool MayUseAvx2() { return HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2; }
// Where AVX-512 is in use: with AVX2 chosen (by a test) VNNI is not.
bool MayUseVnni() { return HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3; }
}  // namespace frugal::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

#if FRUGAL_HAVE_VNNI
HWY_PUSH_ATTRIBUTES(FRUGAL_VNNI_ATTRIBUTES)
namespace frugal::vnni {
#define FRUGAL_DPBUSD _mm256_dpbusd_epi32
#include "src/kernels/quantised_x86-inl.h"
#undef FRUGAL_DPBUSD
#include "src/kernels/fours_vnni-inl.h"
#include "src/kernels/quantised_fours-inl.h"
#include "src/kernels/quantised_rows-inl.h"
}  // namespace frugal::vnni
HWY_POP_ATTRIBUTES
#endif

namespace frugal {

HWY_EXPORT(DotRowsQuantised);
HWY_EXPORT(QuantiseInput);
HWY_EXPORT(MayUseAvx2);
bool UsesAvx2() { return HWY_DYNAMIC_DISPATCH(MayUseAvx2)(); }
#if FRUGAL_HAVE_VNNI
HWY_EXPORT(MayUseVnni);

namespace {
std::atomic<bool> vnni_allowed{true};

// hwy::SupportedTargets() would ask the processor anew, which in a virtual machine takes microseconds: as long as a tile's product.
bool HasVnni() {
  return vnni_allowed.load(std::memory_order_relaxed) && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq");
}
}  // namespace
void AllowVnniForTest(bool allowed) { vnni_allowed = allowed; }
bool UsesVnni() { return HWY_DYNAMIC_DISPATCH(MayUseVnni)() && HasVnni(); }
#else
void AllowVnniForTest(bool) {}
bool UsesVnni() { return false; }
#endif

void QuantiseInput(const float* x, size_t size, int8_t* q, float* scales) {
  CHECK(size % kQuantisedBlock == 0);
  HWY_DYNAMIC_DISPATCH(QuantiseInput)(x, size, q, scales);
}

void DotRowsQuantised(DType dtype, const RowSet& rows, size_t begin, size_t end, size_t columns,
                      const QuantisedInput& x, size_t num_tokens, float* out, size_t out_stride) {
  CHECK(IsQuantised(dtype) && columns % TraitsOf(dtype).block_elements == 0);
  if (HasBlockFormat(dtype)) return DotBlocksQuantised(dtype, rows, begin, end, columns, x, num_tokens, out, out_stride);
#if FRUGAL_HAVE_VNNI
  if (UsesVnni()) return vnni::DotRowsQuantised(dtype, rows, begin, end, columns, x, num_tokens, out, out_stride);
#endif
  HWY_DYNAMIC_DISPATCH(DotRowsQuantised)(dtype, rows, begin, end, columns, x, num_tokens, out, out_stride);
}

}  // namespace frugal
#endif  // HWY_ONCE
