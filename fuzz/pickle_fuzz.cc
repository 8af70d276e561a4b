// Any bytes as the pickle of a checkpoint: refused with a message, or read with tensors under unique names.
#include <cstddef>
#include <cstdint>
#include <set>
#include <span>
#include <string>

#include "src/base/check.h"
#include "src/format/pickle.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string name = "fuzz.bin";
  const auto read = frugal::ReadTensorPickle(std::as_bytes(std::span(data, size)), name, 0);
  if (!read) {
    CHECK(read.error().code == frugal::ErrorCode::kBadModel);
    CHECK(read.error().message.size() < 4000);
    return 0;
  }
  std::set<std::string> names;
  for (const frugal::PickledTensor& tensor : *read) {
    CHECK(names.insert(tensor.name).second);
    CHECK(tensor.shape.size() == tensor.strides.size() && tensor.shape.size() <= frugal::kMaxPickleDims);
  }
  return 0;
}
