// Random access to the bytes of a header: from a file (buffered pread through one small window) or from
// memory (tests, fuzzers).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "src/base/result.h"

namespace frugal {

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  // Exactly destination.size() bytes at the offset; kBadModel "file ends" when they are not all there, kIo on
  // an I/O error.
  virtual Status Read(uint64_t offset_bytes, std::span<std::byte> destination) = 0;
  virtual uint64_t size_bytes() const = 0;
  virtual const std::string& name() const = 0;
};

// kBadModel when the path is not a regular file (FIFO, directory, device), kIo when it cannot be opened.
Result<std::unique_ptr<ByteSource>> OpenFileSource(const std::string& path);
// Borrows the bytes.
std::unique_ptr<ByteSource> MakeMemorySource(std::string name, std::span<const std::byte> bytes);

}  // namespace frugal
