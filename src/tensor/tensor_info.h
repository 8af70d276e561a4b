// Where a tensor lies in a file and what shape it has. No data.
#pragma once

#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "src/tensor/dtype.h"

namespace frugal {

struct Extent {
  uint64_t offset_bytes = 0;
  uint64_t size_bytes = 0;
  uint64_t end_bytes() const { return offset_bytes + size_bytes; }
  bool operator==(const Extent&) const = default;
};

struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<uint64_t> shape;  // outermost first: [rows, columns], row-major (GGUF stores the reverse)
  uint32_t file_index = 0;      // which of the source's files
  Extent extent;                // in that file; size_bytes = exactly shape x dtype

  uint64_t columns() const { return shape.empty() ? 1 : shape.back(); }
  uint64_t rows() const {
    if (shape.size() < 2) return 1;
    return std::accumulate(shape.begin(), shape.end() - 1, uint64_t{1}, [](uint64_t a, uint64_t b) { return a * b; });
  }
};

}  // namespace frugal
