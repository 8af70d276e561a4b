#include "src/pack/noise_pool.h"

#include <cmath>
#include <numbers>

#include "src/base/check.h"
#include "src/kernels/kernels.h"

namespace frugal {

uint64_t MixSeeds(uint64_t seed, uint64_t a, uint64_t b) {
  Random random(seed ^ (a * 0x9e3779b97f4a7c15ULL) ^ (b * 0xc2b2ae3d27d4eb4fULL + (b << 31)));
  return random.Next();
}

void TwoGaussians(Random& random, float* out) {
  // 1 - Uniform() is in (0, 1]: the logarithm is finite.
  const double radius = std::sqrt(-2.0 * std::log(1.0 - random.Uniform()));
  const double angle = 2.0 * std::numbers::pi * random.Uniform();
  out[0] = static_cast<float>(radius * std::cos(angle));
  out[1] = static_cast<float>(radius * std::sin(angle));
}

NoisePool::NoisePool(uint64_t seed, size_t max_row) : max_row_(max_row), values_(kPoolSize + max_row) {
  Random random(seed);
  for (size_t i = 0; i < kPoolSize; i += 2) TwoGaussians(random, values_.data() + i);
  for (size_t i = 0; i < max_row; ++i) values_[kPoolSize + i] = values_[i % kPoolSize];
}

void NoisePool::AddRow(uint64_t row_seed, float scale, float* out, size_t size) const {
  DCHECK(size <= max_row_);
  const size_t begin = row_seed % kPoolSize;
  const float signed_scale = (row_seed >> 63) != 0 ? -scale : scale;
  const RowSet row{reinterpret_cast<const std::byte*>(values_.data() + begin), size * sizeof(float), nullptr};
  AddScaledRows(DType::kF32, row, 1, &signed_scale, 0, size, out);
}

}  // namespace frugal
