// A model file as `frugal pack` would write it, without writing it: for plans that are compared before one packs. What ModelFile's
// OpenAsIfPacked gives has the sizes, types and the order of that file; nothing can be read from it.
#pragma once

#include <cstdint>
#include <optional>

#include "src/model/config.h"
#include "src/tensor/dtype.h"

namespace frugal {

struct PackedForm {
  FfnLayout layout = FfnLayout::kGateAndBundle2;  // one with bundles
  std::optional<DType> type;       // of all matrices and bundles; nothing: each its own
  std::optional<DType> down_type;  // of down in bundles; nothing: `type`, else its own, else (it is quantised) F16
  uint32_t align_bytes = 512;      // of a bundle
};

}  // namespace frugal
