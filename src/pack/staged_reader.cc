#include "src/pack/staged_reader.h"

#include <algorithm>

#include "src/base/bytes.h"
#include "src/base/check.h"
#include "src/kernels/elements.h"

namespace frugal {

Result<StagedReader> StagedReader::Create(Checkpoint& checkpoint, uint64_t staging_bytes) {
  StagedReader reader;
  reader.checkpoint_ = &checkpoint;
  FRUGAL_ASSIGN(reader.raw_, AlignedBuffer::Allocate(staging_bytes));
  FRUGAL_ASSIGN(reader.converted_, AlignedBuffer::Allocate(staging_bytes));
  return reader;
}

uint64_t StagedReader::CapacityElements(const TensorInfo& tensor, DType dtype) const {
  const DTypeTraits from = TraitsOf(tensor.dtype);
  const DTypeTraits to = TraitsOf(dtype);
  const uint64_t read_elements = raw_.size_bytes() / from.block_bytes * from.block_elements;
  const uint64_t converted_elements = converted_.size_bytes() / to.block_bytes * to.block_elements;
  // Blocks have sizes of powers of two, so that the larger one is a multiple of the smaller.
  return RoundDown(std::min(read_elements, converted_elements), std::max(from.block_elements, to.block_elements));
}

Result<std::span<const std::byte>> StagedReader::Read(const TensorInfo& tensor, uint64_t first_element,
                                                      uint64_t num_elements, DType dtype) {
  CHECK(num_elements <= CapacityElements(tensor, dtype));
  const uint64_t size_bytes = *RowBytes(tensor.dtype, num_elements);
  FRUGAL_TRY(checkpoint_->Read(tensor, first_element, raw_.bytes().first(size_bytes)));
  return Convert(tensor, num_elements, dtype, [first_element](uint64_t i) { return first_element + i; });
}

Result<std::span<const std::byte>> StagedReader::ReadColumns(const TensorInfo& tensor, uint64_t first_row,
                                                             uint64_t num_rows, uint64_t begin, uint64_t end,
                                                             DType dtype) {
  const uint64_t columns = tensor.columns();
  const uint64_t width = end - begin;
  if (width == columns) return Read(tensor, first_row * columns, num_rows * columns, dtype);
  CHECK(num_rows * width <= CapacityElements(tensor, dtype));
  const uint64_t width_bytes = *RowBytes(tensor.dtype, width);
  for (uint64_t i = 0; i < num_rows; ++i) {
    FRUGAL_TRY(checkpoint_->Read(tensor, (first_row + i) * columns + begin,
                                 raw_.bytes().subspan(i * width_bytes, width_bytes)));
  }
  return Convert(tensor, num_rows * width, dtype,
                 [&](uint64_t i) { return (first_row + i / width) * columns + begin + i % width; });
}

Result<std::span<const std::byte>> StagedReader::Convert(const TensorInfo& tensor, uint64_t num_elements,
                                                         DType dtype,
                                                         FunctionRef<uint64_t(uint64_t)> element_of) {
  const uint64_t size_bytes = *RowBytes(dtype, num_elements);
  if (tensor.dtype == dtype) return std::span<const std::byte>(raw_.data(), size_bytes);
  const auto bad = ConvertElements(tensor.dtype, raw_.data(), dtype, converted_.data(), num_elements,
                                   &largest_difference_);
  if (bad) {
    return BadModel("{}: the value is too large for {}", checkpoint_->Place(tensor, element_of(*bad)),
                    DTypeName(dtype));
  }
  return std::span<const std::byte>(converted_.data(), size_bytes);
}

}  // namespace frugal
