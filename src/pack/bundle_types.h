// The key frugal.blk.N.bundle_types, for readers of packed files in this folder.
#pragma once

#include <cstdint>

#include "src/base/result.h"
#include "src/format/gguf_reader.h"
#include "src/tensor/dtype.h"

namespace frugal {

struct BundleTypes {
  DType up = DType::kF32, down = DType::kF32;
};

// kBadModel when the key is absent, not "UP,DOWN" of weight types, or of quantised blocks that do not divide
// hidden_size.
Result<BundleTypes> ReadBundleTypes(const GgufReader& gguf, uint32_t layer, uint64_t hidden_size);

}  // namespace frugal
