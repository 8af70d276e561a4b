// Owner of page-aligned anonymous memory: what O_DIRECT reads land in and what weights lie in. Move-only. The pages
// are touched at allocation, so that memory is charged when the engine opens and not in the middle of a token.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "src/base/result.h"

namespace frugal {

class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  // Rounded up to whole pages, zeroed. kOutOfMemory when the kernel refuses. 0 bytes give an empty buffer.
  static Result<AlignedBuffer> Allocate(uint64_t size_bytes);

  AlignedBuffer(AlignedBuffer&& other) noexcept;
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept;
  ~AlignedBuffer();

  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  uint64_t size_bytes() const { return size_bytes_; }
  std::span<std::byte> bytes() { return {data_, size_bytes_}; }
  std::span<const std::byte> bytes() const { return {data_, size_bytes_}; }

  // The buffer as an array of T (all of it, or its first `count`).
  template <typename T>
  std::span<T> As() {
    return {reinterpret_cast<T*>(data_), size_bytes_ / sizeof(T)};
  }

  // mlock; false where RLIMIT_MEMLOCK or privileges do not allow it.
  bool TryLock();

 private:
  void Free();

  std::byte* data_ = nullptr;
  uint64_t size_bytes_ = 0;    // as asked for
  uint64_t mapped_bytes_ = 0;  // whole pages
};

}  // namespace frugal
