#include "src/engine/process_memory.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <optional>

#include "src/base/bytes.h"
#include "src/base/unique_fd.h"

namespace frugal {
namespace {

// The number behind "\nNAME:", as the line has it (kB, or a count).
std::optional<uint64_t> FindNumber(std::string_view status, std::string_view name) {
  size_t at = 0;
  while (at < status.size()) {
    std::string_view line = status.substr(at, status.find('\n', at) - at);
    at += line.size() + 1;
    if (!line.starts_with(name)) continue;
    line.remove_prefix(name.size());
    line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
    uint64_t value = 0;
    if (std::from_chars(line.data(), line.data() + line.size(), value).ec != std::errc()) return std::nullopt;
    return value;
  }
  return std::nullopt;
}

}  // namespace

Result<uint64_t> UsedBytesOfStatus(std::string_view status, uint32_t num_rings) {
  uint64_t used_bytes = num_rings * kRingKernelBytes;
  // Swapped pages are counted: they are the process's, and hiding them would hide a broken budget.
  for (const char* name : {"RssAnon:", "RssShmem:", "VmPTE:", "VmSwap:"}) {
    const std::optional<uint64_t> kilobytes = FindNumber(status, name);
    if (!kilobytes) return MakeError(ErrorCode::kFailed, "/proc/self/status: no line {}", name);
    used_bytes += *kilobytes * kKiB;
  }
  const std::optional<uint64_t> code_kilobytes = FindNumber(status, "RssFile:");
  if (!code_kilobytes) return MakeError(ErrorCode::kFailed, "/proc/self/status: no line RssFile:");
  used_bytes += std::min(*code_kilobytes * kKiB, kCodeBytes);
  const std::optional<uint64_t> threads = FindNumber(status, "Threads:");
  if (!threads) return MakeError(ErrorCode::kFailed, "/proc/self/status: no line Threads:");
  return used_bytes + *threads * kKernelStackBytes;
}

Status ProcessMemory::Sample() {
  const UniqueFd fd(open("/proc/self/status", O_RDONLY | O_CLOEXEC));
  char text[8192];  // the file has some 1.5 KiB; on the stack, so that sampling allocates nothing
  size_t size = 0;
  while (fd.get() >= 0 && size < sizeof(text)) {
    const ssize_t got = read(fd.get(), text + size, sizeof(text) - size);
    if (got == 0) break;
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return MakeError(ErrorCode::kIo, "/proc/self/status: {}", std::strerror(errno));
    size += static_cast<size_t>(got);
  }
  if (size == 0) return MakeError(ErrorCode::kIo, "/proc/self/status: {}", std::strerror(errno));
  FRUGAL_ASSIGN(used_bytes_, UsedBytesOfStatus(std::string_view(text, size), num_rings_));
  peak_bytes_ = std::max(peak_bytes_, used_bytes_);
  return {};
}

}  // namespace frugal
