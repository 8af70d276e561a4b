// Any bytes as a safetensors file: refused with a message, or read with tensors that cover its data section
// exactly.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "src/base/check.h"
#include "src/format/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::unique_ptr<frugal::ByteSource> source =
      frugal::MakeMemorySource("fuzz.safetensors", std::as_bytes(std::span(data, size)));
  const auto read = frugal::ReadSafetensorsHeader(*source);
  if (!read) {
    CHECK(read.error().code == frugal::ErrorCode::kBadModel);
    CHECK(read.error().message.size() < 2000);
    return 0;
  }
  uint64_t end_bytes = read->empty() ? size : read->front().extent.offset_bytes;
  for (const frugal::TensorInfo& tensor : *read) {
    CHECK(tensor.extent.offset_bytes == end_bytes);
    const auto row_bytes = frugal::RowBytes(tensor.dtype, tensor.columns());
    CHECK(row_bytes && *row_bytes * tensor.rows() == tensor.extent.size_bytes);
    end_bytes = tensor.extent.end_bytes();
  }
  CHECK(end_bytes == size);
  return 0;
}
