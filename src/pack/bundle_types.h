// The key frugal.blk.N.bundle_types, for readers of packed files in this folder.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/base/result.h"
#include "src/format/gguf_reader.h"
#include "src/model/config.h"
#include "src/tensor/dtype.h"

namespace frugal {

struct BundlePart {
  const char* name;  // "gate", "up", "down"
  DType dtype = DType::kF32;
  uint64_t offset_bytes = 0;
  uint64_t size_bytes = 0;
};

// The parts of a layer's bundles in their order, each a row of hidden_size; empty for FfnLayout::kMatrices. kBadModel when the
// key is absent, not as many weight types as the layout has parts ("F16,F16"), or of quantised blocks that do not divide
// hidden_size.
Result<std::vector<BundlePart>> ReadBundleParts(const GgufReader& gguf, uint32_t layer, const ModelConfig& config);

// Of all parts.
uint64_t BundleBytes(const std::vector<BundlePart>& parts);

}  // namespace frugal
