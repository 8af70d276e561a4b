// Reads pieces of a checkpoint's tensors into one buffer and converts them into a second one. Both are
// allocated once. One thread.
#pragma once

#include <cstdint>
#include <span>

#include "src/base/aligned_buffer.h"
#include "src/base/function_ref.h"
#include "src/base/result.h"
#include "src/model/checkpoint.h"
#include "src/tensor/dtype.h"

namespace frugal {

class StagedReader {
 public:
  // The checkpoint outlives this.
  static Result<StagedReader> Create(Checkpoint& checkpoint, uint64_t staging_bytes);

  // How many elements of the tensor, read and as `dtype`, fit: the most that one call may ask for. Whole quantised
  // blocks, of which every call has to ask for some.
  uint64_t CapacityElements(const TensorInfo& tensor, DType dtype) const;

  // Elements in row-major order, as `dtype`; valid until the next call. kBadModel names file, tensor, row and
  // column of a number that is not finite, or becomes infinite as `dtype`.
  Result<std::span<const std::byte>> Read(const TensorInfo& tensor, uint64_t first_element,
                                          uint64_t num_elements, DType dtype);
  // Columns [begin, end), whole quantised blocks, of rows [first_row, first_row + num_rows), without gaps.
  // // [num_rows, end - begin]
  Result<std::span<const std::byte>> ReadColumns(const TensorInfo& tensor, uint64_t first_row,
                                                 uint64_t num_rows, uint64_t begin, uint64_t end,
                                                 DType dtype);

  Checkpoint& checkpoint() { return *checkpoint_; }
  // The largest |new - old| of all elements that were converted.
  float largest_difference() const { return largest_difference_; }

 private:
  // The first `num_elements` of raw_; `element_of` gives their numbers in the tensor.
  Result<std::span<const std::byte>> Convert(const TensorInfo& tensor, uint64_t num_elements, DType dtype,
                                             FunctionRef<uint64_t(uint64_t)> element_of);

  Checkpoint* checkpoint_ = nullptr;
  AlignedBuffer raw_;
  AlignedBuffer converted_;
  float largest_difference_ = 0;
};

}  // namespace frugal
