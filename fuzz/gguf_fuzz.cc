// Any bytes as a GGUF file: refused with a message, or read with every tensor inside the file and every array
// walkable.
#include <cstddef>
#include <cstdint>
#include <span>

#include "src/base/check.h"
#include "src/format/gguf_reader.h"

using frugal::ErrorCode;
using frugal::GgufReader;
using frugal::Result;
using frugal::Status;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Result<GgufReader> opened =
      GgufReader::Open(frugal::MakeMemorySource("fuzz.gguf", std::as_bytes(std::span(data, size))));
  if (!opened) {
    CHECK(opened.error().code == ErrorCode::kBadModel);
    CHECK(opened.error().message.size() < 2000);
    return 0;
  }
  uint64_t end_bytes = opened->data_offset_bytes();
  for (const frugal::TensorInfo& tensor : opened->tensors()) {
    CHECK(tensor.extent.offset_bytes >= end_bytes && tensor.extent.end_bytes() <= size);
    CHECK(tensor.extent.offset_bytes % opened->alignment_bytes() == 0);
    CHECK(opened->FindTensor(tensor.name) == &tensor);
    end_bytes = tensor.extent.end_bytes();
  }
  for (const frugal::GgufKeyValue& entry : opened->key_values()) {
    CHECK(opened->Find(entry.key) == &entry);
    static_cast<void>(opened->GetUint(entry.key));
    static_cast<void>(opened->GetFloat(entry.key));
    static_cast<void>(opened->GetBool(entry.key));
    static_cast<void>(opened->GetString(entry.key));
    const Result<uint64_t> count = opened->ArrayCount(entry.key);
    uint64_t seen = 0;
    const auto on_text = [&](uint64_t, std::string_view) -> Status {
      ++seen;
      return {};
    };
    const auto on_int = [](uint64_t, int64_t) -> Status { return {}; };
    const auto on_float = [](uint64_t, float) -> Status { return {}; };
    const Status walked = opened->ForEachString(entry.key, on_text);
    CHECK(!walked || seen == *count);
    static_cast<void>(opened->ForEachInt(entry.key, on_int));
    static_cast<void>(opened->ForEachFloat(entry.key, on_float));
  }
  return 0;
}
