// One view of a checkpoint, whatever its files are: named tensors with dtype, shape and place. GGUF in place,
// safetensors directories (and later PyTorch checkpoints) implement it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "src/tensor/tensor_info.h"

namespace frugal {

class TensorSource {
 public:
  virtual ~TensorSource() = default;
  virtual const std::vector<std::string>& file_paths() const = 0;  // TensorInfo::file_index counts in these
  virtual const std::vector<TensorInfo>& tensors() const = 0;
  virtual const TensorInfo* Find(std::string_view name) const = 0;  // nullptr when absent
};

}  // namespace frugal
