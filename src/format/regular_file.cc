#include "src/format/regular_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace frugal {
namespace {

const char* KindOf(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISSOCK(mode)) return "a socket";
  if (S_ISCHR(mode) || S_ISBLK(mode)) return "a device";
  return "of an unknown kind";
}

}  // namespace

Result<RegularFile> OpenRegularFile(const std::string& path) {
  struct stat status = {};
  if (stat(path.c_str(), &status) != 0) {
    if (errno == ELOOP) return BadModel("{}: is a symbolic link that leads in a circle, expected a regular file", path);
    return MakeError(ErrorCode::kIo, "{}: cannot be opened: {}", path, std::strerror(errno));
  }
  if (!S_ISREG(status.st_mode))
    return BadModel("{}: is {}, expected a regular file", path, KindOf(status.st_mode));
  // O_NONBLOCK and the second look: between stat and open somebody may have put a FIFO there.
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd.valid()) return MakeError(ErrorCode::kIo, "{}: cannot be opened: {}", path, std::strerror(errno));
  if (fstat(fd.get(), &status) != 0) {
    return MakeError(ErrorCode::kIo, "{}: fstat: {}", path, std::strerror(errno));
  }
  if (!S_ISREG(status.st_mode))
    return BadModel("{}: is {}, expected a regular file", path, KindOf(status.st_mode));
  return RegularFile{std::move(fd), static_cast<uint64_t>(status.st_size)};
}

Status ReadFully(int fd, const std::string& name, uint64_t offset_bytes, std::span<std::byte> destination) {
  return ReadFully(fd, name, offset_bytes, destination, [](int from, void* to, size_t size, off_t offset) {
    return pread(from, to, size, offset);
  });
}

Status ReadFully(int fd, const std::string& name, uint64_t offset_bytes, std::span<std::byte> destination,
                 PreadFunction pread_function) {
  uint64_t done_bytes = 0;
  while (done_bytes < destination.size()) {
    const ssize_t got = pread_function(fd, destination.data() + done_bytes, destination.size() - done_bytes,
                                       static_cast<off_t>(offset_bytes + done_bytes));
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got < 0) {
      return MakeError(ErrorCode::kIo, "{}: read of {} bytes at offset {}: {}", name, destination.size(),
                       offset_bytes, std::strerror(errno));
    }
    if (got == 0) {
      return BadModel("{}: file ends at offset {}, expected {} bytes at offset {}", name,
                      offset_bytes + done_bytes, destination.size(), offset_bytes);
    }
    done_bytes += static_cast<uint64_t>(got);
  }
  return {};
}

}  // namespace frugal
