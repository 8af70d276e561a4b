// Sines and cosines of rotary positions for the rows of a batch: computed once for a position, used by all layers and heads.
// All memory is allocated by the constructor.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "src/base/check.h"
#include "src/kernels/layer_kernels.h"
#include "src/model/config.h"

namespace frugal {

class Rotation {
 public:
  // `divisors`: of the frequencies (rope_freqs.weight), or empty.
  Rotation(const Rope& rope, std::span<const float> divisors, uint32_t max_rows)
      : pairs_(rope.pairs),
        num_pairs_(rope.dims / 2),
        amplitude_(rope.scaling.amplitude),
        frequencies_(RopeFrequencies(rope)),
        positions_(max_rows, ~0u),
        table_(size_t{max_rows} * rope.dims) {
    CHECK(divisors.empty() || divisors.size() == frequencies_.size());
    for (size_t i = 0; i < divisors.size(); ++i) frequencies_[i] /= divisors[i];
  }
  static uint64_t Floats(const Rope& rope, uint32_t max_rows) { return uint64_t{max_rows} * (rope.dims + 1) + rope.dims / 2; }

  // The row of the batch is at this position from now on. Different rows may be set by different threads.
  void SetPosition(uint32_t row, uint32_t position) {
    if (positions_[row] == position) return;
    positions_[row] = position;
    float* const cosines = table_.data() + size_t{row} * 2 * num_pairs_;
    for (uint32_t i = 0; i < num_pairs_; ++i) {
      // As the reference: the angle is rounded to float.
      const double angle = static_cast<float>(position) * frequencies_[i];
      cosines[i] = amplitude_ * static_cast<float>(std::cos(angle));
      cosines[num_pairs_ + i] = amplitude_ * static_cast<float>(std::sin(angle));
    }
  }
  // Turns one head of the row. // head [>= dims]
  void Turn(uint32_t row, float* head) const {
    const float* const cosines = table_.data() + size_t{row} * 2 * num_pairs_;
    (pairs_ == RopePairs::kHalves ? RotateHalves : RotateNeighbours)(head, cosines, cosines + num_pairs_, num_pairs_);
  }

 private:
  RopePairs pairs_;
  uint32_t num_pairs_;
  float amplitude_;
  std::vector<float> frequencies_;   // [num_pairs]
  std::vector<uint32_t> positions_;  // [max_rows]
  std::vector<float> table_;         // [max_rows, 2 (cosines, sines), num_pairs]
};

}  // namespace frugal
