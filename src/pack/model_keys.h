// The keys of a packed model that say what it is (docs/packed-model.md): hyper-parameters, layout, types.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "src/format/gguf_writer.h"
#include "src/model/config.h"
#include "src/tensor/dtype.h"

namespace frugal {

struct ModelLayout {
  std::string name;  // general.name
  FfnLayout ffn_layout = FfnLayout::kUpDown;
  std::optional<DType> gate_type;  // of the bundles, as the next two
  DType up_type = DType::kF32, down_type = DType::kF32;
  uint64_t stride_bytes = 0;
  DType matrix_type = DType::kF32;  // of most matrices: general.file_type
};

void AddModelKeys(const ModelConfig& config, const ModelLayout& layout, GgufWriter& writer);

}  // namespace frugal
