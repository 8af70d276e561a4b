// DotRowsQuantised (quantised_kernels.h, which calls this) for the types of block_formats.h. Part of quantised_kernels.h; nobody else
// includes this.
#pragma once

#include <cstddef>

#include "src/kernels/quantised_kernels.h"

namespace frugal {

void DotBlocksQuantised(DType dtype, const RowSet& rows, size_t begin, size_t end, size_t columns, const QuantisedInput& x,
                        size_t num_tokens, float* out, size_t out_stride);

}  // namespace frugal
