// The keys of a packed model that say what it is (docs/packed-model.md): hyper-parameters, layout, types.
#pragma once

#include <cstdint>
#include <string>

#include "src/format/gguf_writer.h"
#include "src/model/config.h"
#include "src/tensor/dtype.h"

namespace frugal {

struct ModelLayout {
  std::string name;  // general.name
  DType up_type = DType::kF32, down_type = DType::kF32;
  uint64_t stride_bytes = 0;
};

void AddModelKeys(const ModelConfig& config, const ModelLayout& layout, GgufWriter& keys);

}  // namespace frugal
