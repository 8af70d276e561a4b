// An affine map after which the inputs of a layer have mean 0 and covariance 1: gradient descent then sees
// every direction alike, and the best low-rank approximation of a matrix on the data is its plain singular
// value decomposition.
#pragma once

#include <cstdint>
#include <vector>

#include "src/base/thread_pool.h"
#include "src/train/samples.h"

namespace frugal {

struct Whitening {
  std::vector<float> mean;     // [size]
  std::vector<float> factor;   // [size, size]: L, covariance = L transpose(L)
  std::vector<float> inverse;  // [size, size]: L^-1; whitened x = L^-1 (x - mean)
};

// Of the rows of an F16 store. Directions of hardly any variance are kept from blowing up: a ten-thousandth
// of the mean variance is added to each.
Result<Whitening> MeasureWhitening(ThreadPool& pool, const RowStore& store, RowRange rows, size_t size);
// In place.
Status WhitenRows(ThreadPool& pool, const Whitening& whitening, RowRange rows, RowStore& store);
// Mean over the rows of a transpose(b). // [size, size]
Result<std::vector<float>> CrossCovariance(ThreadPool& pool, const RowStore& a, const RowStore& b,
                                           RowRange rows, size_t size);

}  // namespace frugal
