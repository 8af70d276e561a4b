// Any bytes as a PyTorch checkpoint: refused with a message, or read with tensors that lie in the file.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "src/base/check.h"
#include "src/format/pytorch_checkpoint.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::unique_ptr<frugal::ByteSource> source =
      frugal::MakeMemorySource("fuzz.bin", std::as_bytes(std::span(data, size)));
  const auto read = frugal::ReadPytorchFile(*source);
  if (!read) {
    CHECK(read.error().code == frugal::ErrorCode::kBadModel);
    CHECK(read.error().message.size() < 4000);
    return 0;
  }
  for (const frugal::TensorInfo& tensor : *read) {
    CHECK(tensor.extent.offset_bytes <= size && tensor.extent.size_bytes <= size - tensor.extent.offset_bytes);
    const auto row_bytes = frugal::RowBytes(tensor.dtype, tensor.columns());
    CHECK(row_bytes && *row_bytes * tensor.rows() == tensor.extent.size_bytes);
  }
  return 0;
}
