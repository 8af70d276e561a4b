// The shapes of the OPT family (Zhang et al., arXiv 2205.01068, table 1), of which synthetic models are made.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "src/base/result.h"
#include "src/model/config.h"

namespace frugal {

struct SyntheticShape {
  std::string_view name;
  uint32_t num_layers, hidden_size, num_heads;  // ffn_size is four times hidden_size in all of them
};

std::span<const SyntheticShape> SyntheticShapes();
// What OPT computes, in these sizes; the vocabulary and the context are left to the caller.
ModelConfig OptConfig(uint32_t num_layers, uint32_t hidden_size, uint32_t ffn_size, uint32_t num_heads);
// kUsage listing all names. num_layers 0: the shape's own.
Result<ModelConfig> SyntheticConfig(std::string_view shape, uint32_t num_layers);

}  // namespace frugal
