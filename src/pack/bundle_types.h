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

// kBadModel when the key is absent or not "UP,DOWN" of float types.
Result<BundleTypes> ReadBundleTypes(const GgufReader& gguf, uint32_t layer);

}  // namespace frugal
