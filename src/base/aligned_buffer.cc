#include "src/base/aligned_buffer.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "src/base/bytes.h"

namespace frugal {

constexpr uint64_t kPageBytes = 4096;
// Buffers of this size on are read by rows from all over: with small pages that measures the TLB.
constexpr uint64_t kLeastHugeBytes = 32 * kMiB;
constexpr int kMadvPopulateWrite = 23;  // MADV_POPULATE_WRITE, which old headers lack

Result<AlignedBuffer> AlignedBuffer::Allocate(uint64_t size_bytes) {
  AlignedBuffer buffer;
  if (size_bytes == 0) return buffer;
  const uint64_t mapped_bytes = RoundUp(size_bytes, kPageBytes);
  const auto failed = [size_bytes] {
    return MakeError(ErrorCode::kOutOfMemory, "cannot allocate {}: {}", FormatSize(size_bytes), std::strerror(errno));
  };
  const bool huge = mapped_bytes >= kLeastHugeBytes;
  void* address = mmap(nullptr, mapped_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | (huge ? 0 : MAP_POPULATE), -1, 0);
  if (address == MAP_FAILED) return failed();
  buffer.data_ = static_cast<std::byte*>(address);
  buffer.size_bytes_ = size_bytes;
  buffer.mapped_bytes_ = mapped_bytes;
  if (!huge) return buffer;
  madvise(address, mapped_bytes, MADV_HUGEPAGE);  // refused advice costs speed only
  if (madvise(address, mapped_bytes, kMadvPopulateWrite) == 0) return buffer;
  if (errno != EINVAL) return failed();
  // Kernels before 5.14 cannot populate what is mapped: the pages come by being written.
  for (uint64_t at = 0; at < mapped_bytes; at += kPageBytes) buffer.data_[at] = std::byte{0};
  return buffer;
}

AlignedBuffer::AlignedBuffer(AlignedBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_bytes_(std::exchange(other.size_bytes_, 0)),
      mapped_bytes_(std::exchange(other.mapped_bytes_, 0)) {}

AlignedBuffer& AlignedBuffer::operator=(AlignedBuffer&& other) noexcept {
  if (this != &other) {
    Free();
    data_ = std::exchange(other.data_, nullptr);
    size_bytes_ = std::exchange(other.size_bytes_, 0);
    mapped_bytes_ = std::exchange(other.mapped_bytes_, 0);
  }
  return *this;
}

AlignedBuffer::~AlignedBuffer() { Free(); }

void AlignedBuffer::Free() {
  if (data_ != nullptr) munmap(data_, mapped_bytes_);
}

bool AlignedBuffer::TryLock() { return data_ == nullptr || mlock(data_, mapped_bytes_) == 0; }

}  // namespace frugal
