#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/kernels/block_dots.cc"
// The order is Highway's.
// clang-format off
#include "src/kernels/highway_targets.h"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>

#include "src/kernels/block_dots.h"
#include "src/kernels/block_formats.h"
#include "src/kernels/block_products.h"
#include "src/kernels/quantised_tiles.h"
#include "src/kernels/row_streams.h"
#include "src/kernels/scalar.h"
#include "src/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace frugal::HWY_NAMESPACE {
#if !FRUGAL_SCALAR_TARGET

#if HWY_ARCH_X86
#include "src/kernels/quantised_x86-inl.h"
#include "src/kernels/block_dots_x86-inl.h"
#else
#include "src/kernels/quantised_128-inl.h"
#include "src/kernels/block_dots_128-inl.h"
#endif
#include "src/kernels/block_dots_rows-inl.h"

#else
void DotBlocksQuantised(DType dtype, const RowSet& rows, size_t begin, size_t end, size_t columns, const QuantisedInput& x,
                        size_t num_tokens, float* out, size_t out_stride) {
  scalar::DotRowsQuantised(dtype, rows, begin, end, columns, x, num_tokens, out, out_stride);
}
#endif  // !FRUGAL_SCALAR_TARGET
}  // namespace frugal::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

#if FRUGAL_HAVE_VNNI
HWY_PUSH_ATTRIBUTES(FRUGAL_VNNI_ATTRIBUTES)
namespace frugal::vnni {
#define FRUGAL_DPBUSD _mm256_dpbusd_epi32
#include "src/kernels/quantised_x86-inl.h"
#include "src/kernels/block_dots_x86-inl.h"
#include "src/kernels/block_dots_rows-inl.h"
#undef FRUGAL_DPBUSD
}  // namespace frugal::vnni
HWY_POP_ATTRIBUTES
#endif

namespace frugal {

HWY_EXPORT(DotBlocksQuantised);

void DotBlocksQuantised(DType dtype, const RowSet& rows, size_t begin, size_t end, size_t columns, const QuantisedInput& x,
                        size_t num_tokens, float* out, size_t out_stride) {
#if FRUGAL_HAVE_VNNI
  if (UsesVnni()) return vnni::DotBlocksQuantised(dtype, rows, begin, end, columns, x, num_tokens, out, out_stride);
#endif
  HWY_DYNAMIC_DISPATCH(DotBlocksQuantised)(dtype, rows, begin, end, columns, x, num_tokens, out, out_stride);
}

}  // namespace frugal
#endif  // HWY_ONCE
