#include "src/text/text_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "src/base/unique_fd.h"

namespace frugal {

Result<std::optional<std::string>> ReadTokenizerFile(const std::string& path) {
  const auto failed = [&path](std::string_view what, int error) {
    return MakeError(ErrorCode::kIo, "{}: {}: {}", path, what, std::strerror(error));
  };
  int opened;
  do {
    opened = open(path.c_str(),
                  O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // O_NONBLOCK: a FIFO must not wait for a writer
  } while (opened < 0 && errno == EINTR);
  if (opened < 0 && (errno == ENOENT || errno == ENOTDIR)) return std::optional<std::string>();
  if (opened < 0) return failed("cannot be opened", errno);
  const UniqueFd fd(opened);
  struct stat info;
  if (fstat(fd.get(), &info) != 0) return failed("cannot be examined", errno);
  if (!S_ISREG(info.st_mode)) return BadModel("{}: is not a regular file", path);
  const uint64_t size_bytes = static_cast<uint64_t>(info.st_size);
  if (size_bytes > kMaxTokenizerFileBytes) {
    return BadModel("{}: {} bytes, at most {} are supported", path, size_bytes, kMaxTokenizerFileBytes);
  }
  std::string text(size_bytes, '\0');
  for (uint64_t done = 0; done < size_bytes;) {
    const ssize_t count = read(fd.get(), text.data() + done, size_bytes - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return failed("cannot be read", errno);
    if (count == 0) return MakeError(ErrorCode::kIo, "{}: ends after {} of {} bytes", path, done, size_bytes);
    done += static_cast<uint64_t>(count);
  }
  return std::optional<std::string>(std::move(text));
}

}  // namespace frugal
