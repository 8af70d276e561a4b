// Any bytes as a ZIP archive: refused with a message, or read with entries that lie in the file one after the other.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "src/base/check.h"
#include "src/format/zip_directory.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::unique_ptr<frugal::ByteSource> source =
      frugal::MakeMemorySource("fuzz.bin", std::as_bytes(std::span(data, size)));
  const auto read = frugal::ReadZipDirectory(*source);
  if (!read) {
    CHECK(read.error().code == frugal::ErrorCode::kBadModel);
    CHECK(read.error().message.size() < 4000);
    return 0;
  }
  uint64_t end_bytes = 0;
  for (const frugal::ZipEntry& entry : *read) {
    CHECK(entry.header_offset_bytes >= end_bytes);
    CHECK(entry.extent.offset_bytes > entry.header_offset_bytes);
    end_bytes = entry.extent.end_bytes();
  }
  CHECK(end_bytes <= size);
  return 0;
}
