#include "src/base/aligned_buffer.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include "src/base/bytes.h"
#include "src/base/thread_pool.h"

namespace frugal {
namespace {

constexpr uint64_t kPageBytes = 4096;
// Buffers of this size on get huge pages: rows are read from all over them, which with small pages measures the TLB, and a virtual disk
// writes into them up to twice as fast (docs/decisions/0017-huge-pages-for-reads.md).
constexpr uint64_t kHugePageBytes = 2 * kMiB;
constexpr int kMadvPopulateWrite = 23;  // MADV_POPULATE_WRITE, which old headers lack
// From this size on a second thread touches half of the pages: the kernel has to clear them, and a virtual machine's host to find them.
constexpr uint64_t kSharedBytes = 32 * kMiB;

// Touches the pages: 0 or an error number.
int Populate(std::byte* data, uint64_t size_bytes) {
  if (madvise(data, size_bytes, kMadvPopulateWrite) == 0) return 0;
  if (errno != EINVAL) return errno;
  // Kernels before 5.14 cannot populate what is mapped: the pages come by being written.
  for (uint64_t at = 0; at < size_bytes; at += kPageBytes) data[at] = std::byte{0};
  return 0;
}

int PopulateShared(std::byte* data, uint64_t size_bytes) {
  if (size_bytes < kSharedBytes) return Populate(data, size_bytes);
  const Result<std::unique_ptr<ThreadPool>> pool = ThreadPool::Create(2);
  if (!pool) return Populate(data, size_bytes);
  const uint64_t half_bytes = RoundDown(size_bytes / 2, kHugePageBytes);
  int errors[2] = {};
  (*pool)->Run(2, [&](int half, int) {
    errors[half] = half == 0 ? Populate(data, half_bytes) : Populate(data + half_bytes, size_bytes - half_bytes);
  });
  return std::max(errors[0], errors[1]);
}

}  // namespace

Result<AlignedBuffer> AlignedBuffer::Allocate(uint64_t size_bytes) {
  AlignedBuffer buffer;
  if (size_bytes == 0) return buffer;
  const uint64_t mapped_bytes = RoundUp(size_bytes, kPageBytes);
  const auto failed = [size_bytes](int error) {
    return MakeError(ErrorCode::kOutOfMemory, "cannot allocate {}: {}", FormatSize(size_bytes), std::strerror(error));
  };
  const bool huge = mapped_bytes >= kHugePageBytes;
  // Kernels before 6.7 put mappings anywhere; a huge page begins at a multiple of its size.
  const uint64_t spare_bytes = huge ? kHugePageBytes - kPageBytes : 0;
  void* const mapped = mmap(nullptr, mapped_bytes + spare_bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | (huge ? 0 : MAP_POPULATE), -1, 0);
  if (mapped == MAP_FAILED) return failed(errno);
  buffer.data_ = static_cast<std::byte*>(mapped);
  buffer.size_bytes_ = size_bytes;
  buffer.mapped_bytes_ = mapped_bytes;
  if (!huge) return buffer;
  const uint64_t before_bytes = -reinterpret_cast<uintptr_t>(mapped) % kHugePageBytes;
  if (before_bytes > 0) munmap(mapped, before_bytes);
  buffer.data_ += before_bytes;
  if (before_bytes < spare_bytes) munmap(buffer.data_ + mapped_bytes, spare_bytes - before_bytes);
  madvise(buffer.data_, mapped_bytes, MADV_HUGEPAGE);  // refused advice costs speed only
  if (const int error = PopulateShared(buffer.data_, mapped_bytes); error != 0) return failed(error);
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
