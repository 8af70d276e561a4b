// How many of a layer's activated gates have which magnitude, for the threshold that a given share of them does not pass. A bucket for
// each of the upper bits of a float's pattern: its bounds are 1 / 2048 apart, relatively, over the whole range, and the result does not
// depend on the order of the values.
#pragma once

#include <bit>
#include <cstdint>
#include <span>
#include <vector>

namespace frugal {

class MagnitudeHistogram {
 public:
  MagnitudeHistogram() : counts_(kBuckets) {}
  static constexpr uint64_t MemoryBytes() { return kBuckets * sizeof(uint64_t); }

  void Add(std::span<const float> values) {
    for (const float value : values) ++counts_[(std::bit_cast<uint32_t>(value) & kMagnitudeBits) >> kDroppedBits];
    num_values_ += values.size();
  }

  // The least bound of a bucket that at least `share` (0..1) of the values do not pass; 0 of none.
  float Threshold(double share) const {
    const double wanted = share * static_cast<double>(num_values_);
    uint64_t num_below = 0;
    for (uint32_t bucket = 0; bucket < kBuckets && num_values_ > 0; ++bucket) {
      num_below += counts_[bucket];
      if (static_cast<double>(num_below) >= wanted) return std::bit_cast<float>((bucket << kDroppedBits) | ((1u << kDroppedBits) - 1));
    }
    return 0.0f;
  }

 private:
  static constexpr uint32_t kMagnitudeBits = 0x7fffffff;  // all but the sign
  static constexpr uint32_t kDroppedBits = 12;
  static constexpr uint32_t kBuckets = (kMagnitudeBits >> kDroppedBits) + 1;

  std::vector<uint64_t> counts_;  // [kBuckets]
  uint64_t num_values_ = 0;
};

}  // namespace frugal
