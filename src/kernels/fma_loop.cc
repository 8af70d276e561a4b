#include "src/kernels/fma_loop.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/kernels/fma_loop.cc"
// The order is Highway's.
// clang-format off
#include "src/kernels/highway_targets.h"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include "src/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace frugal::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

uint64_t FmaLoop(uint64_t num_steps) {
  // Two units of four or five cycles: ten sums and more keep them busy; with the two factors they fit 16 registers.
  constexpr size_t kSums = 12;
  const hn::CappedTag<float, 16> d;
  hn::Vec<decltype(d)> sums[kSums];
  const auto factor = hn::Set(d, 0.999f), addend = hn::Set(d, 0.001f);
  FRUGAL_UNROLL
  for (size_t i = 0; i < kSums; ++i) sums[i] = hn::Iota(d, static_cast<float>(i));
  for (uint64_t step = 0; step < num_steps; ++step) {
    FRUGAL_UNROLL
    for (size_t i = 0; i < kSums; ++i) sums[i] = hn::MulAdd(sums[i], factor, addend);
  }
  auto total = sums[0];
  FRUGAL_UNROLL
  for (size_t i = 1; i < kSums; ++i) total = hn::Add(total, sums[i]);
  // Never true, as the sums go towards 1; the compiler does not know.
  const bool is_odd = hn::GetLane(total) < -1e30f;
  return is_odd ? 0 : num_steps * kSums * hn::MaxLanes(d) * 2;
}

}  // namespace frugal::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace frugal {

HWY_EXPORT(FmaLoop);
uint64_t FmaLoop(uint64_t num_steps) { return HWY_DYNAMIC_DISPATCH(FmaLoop)(num_steps); }

}  // namespace frugal
#endif  // HWY_ONCE
