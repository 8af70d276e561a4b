// Gaussian numbers at the speed of memory: a pool that is made once, of which a row takes a stretch from a
// random place with a random sign. Rows that overlap are shifted against each other and so uncorrelated.
// Immutable after its construction; any thread may read it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "src/base/random.h"

namespace frugal {

class NoisePool {
 public:
  static constexpr size_t kPoolSize = size_t{1} << 20;

  // Rows have at most max_row numbers.
  NoisePool(uint64_t seed, size_t max_row);
  static uint64_t MemoryBytes(size_t max_row) { return (kPoolSize + max_row) * sizeof(float); }

  // out[i] += scale * (a standard Gaussian), i < size; the same numbers for the same row_seed.
  void AddRow(uint64_t row_seed, float scale, float* out, size_t size) const;

 private:
  size_t max_row_;
  std::vector<float> values_;  // [kPoolSize + max_row]
};

// A seed that depends on all of its parts.
uint64_t MixSeeds(uint64_t seed, uint64_t a, uint64_t b = 0);
// Two standard Gaussians (Box and Muller 1958).
void TwoGaussians(Random& random, float* out);

}  // namespace frugal
