// The JSON header of a safetensors file, event by event: it never lies in memory as a whole. Part of
// safetensors.h.
#pragma once

#include <vector>

#include "src/base/result.h"
#include "src/format/byte_source.h"
#include "src/tensor/tensor_info.h"

namespace frugal {

constexpr size_t kMaxSafetensorsTensors = 1 << 20;
// More than GGUF's 4: checkpoints of models that see bring convolutions of 5, which nobody here loads.
constexpr size_t kMaxSafetensorsDims = 8;

// The tensors in the order of the header, with offsets from the start of the file (data begin at
// header.end_bytes()). Each is checked by itself: fields, dtype, shape x dtype = size. Names may repeat and
// extents may lie anywhere.
Result<std::vector<TensorInfo>> ParseSafetensorsHeader(ByteSource& source, Extent header);

}  // namespace frugal
