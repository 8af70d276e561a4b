#include "src/format/output_file.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "src/base/bytes.h"

namespace frugal {
namespace {

constexpr int kMaxLockTries = 16;
// What may be written and not yet on its way to the disk: a file of many gigabytes would otherwise fill memory
// with dirty pages and stall whoever reads next.
constexpr uint64_t kWritebackBytes = 64 << 20;
constexpr uint64_t kMaxWriteBytes = 1 << 30;  // write(2) moves at most 2^31 - 4096 bytes anyway

// The pid of the process that writes the file; 0 when the system does not tell (network file systems, or a
// writer in this process). flock, which excludes other writers, does not know pids: the record lock beside it
// is there for that only.
pid_t FindWriter(int fd) {
  struct flock query = {};
  query.l_type = F_WRLCK;
  query.l_whence = SEEK_SET;
  if (fcntl(fd, F_GETLK, &query) != 0 || query.l_type == F_UNLCK || query.l_pid <= 0) return 0;
  return query.l_pid;
}

void PublishWriter(int fd) {
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  // Failure only costs the pid in somebody's message.
  static_cast<void>(fcntl(fd, F_SETLK, &lock));
}

// The name may have been renamed or removed by its owner between our open and our lock.
bool IsStillNamed(int fd, const std::string& path) {
  struct stat opened = {};
  struct stat named = {};
  return fstat(fd, &opened) == 0 && lstat(path.c_str(), &named) == 0 && opened.st_dev == named.st_dev &&
         opened.st_ino == named.st_ino;
}

std::string DirectoryOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace

Result<std::unique_ptr<OutputFile>> OutputFile::Open(const std::string& path, Overwrite overwrite) {
  auto file = std::unique_ptr<OutputFile>(new OutputFile());
  file->path_ = path;
  file->temporary_path_ = path + ".tmp";
  file->overwrite_ = overwrite;
  FRUGAL_TRY(file->CheckTarget());
  FRUGAL_TRY(file->LockTemporary());
  FRUGAL_TRY(file->CheckTarget());  // again: the writer that we may have waited out has finished
  if (ftruncate(file->fd_.get(), 0) != 0) return file->Fail(errno, "emptying the temporary file");
  return file;
}

OutputFile::~OutputFile() {
  // Before the lock goes with the descriptor: the next writer must not lose its new file to this unlink.
  if (owns_temporary_) unlink(temporary_path_.c_str());
}

Status OutputFile::CheckTarget() const {
  struct stat status = {};
  if (path_.empty() || path_.ends_with('/'))
    return MakeError(ErrorCode::kUsage, "'{}': expected the name of a file", path_);
  if (lstat(path_.c_str(), &status) != 0)
    return {};  // what else may be wrong shows when the temporary file is made
  if (overwrite_ == Overwrite::kNo) return MakeError(ErrorCode::kUsage, "{}: exists already", path_);
  if (!S_ISREG(status.st_mode) && !S_ISLNK(status.st_mode)) {
    return MakeError(ErrorCode::kUsage, "{}: exists and is not a regular file", path_);
  }
  return {};
}

Status OutputFile::LockTemporary() {
  for (int i = 0; i < kMaxLockTries; ++i) {
    // Not O_TRUNC: the file may be another writer's. O_NOFOLLOW: a planted link must not direct the output
    // elsewhere.
    UniqueFd fd(open(temporary_path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666));
    if (!fd.valid()) {
      return MakeError(ErrorCode::kIo, "{}: cannot be made: {}", temporary_path_, std::strerror(errno));
    }
    struct stat status = {};
    if (fstat(fd.get(), &status) != 0 || !S_ISREG(status.st_mode)) {
      return MakeError(ErrorCode::kUsage, "{}: exists and is not a regular file", temporary_path_);
    }
    if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno == EINTR) continue;
      if (errno != EWOULDBLOCK) {
        return MakeError(ErrorCode::kIo, "{}: cannot be locked: {}", temporary_path_, std::strerror(errno));
      }
      const pid_t writer = FindWriter(fd.get());
      return MakeError(ErrorCode::kFailed, "{}: is being written already, by {}", path_,
                       writer == 0 ? "another writer" : fmt::format("process {}", writer));
    }
    if (!IsStillNamed(fd.get(), temporary_path_)) continue;
    PublishWriter(fd.get());
    fd_ = std::move(fd);
    owns_temporary_ = true;
    return {};
  }
  return MakeError(ErrorCode::kFailed, "{}: other writers come and go", temporary_path_);
}

Status OutputFile::CheckFreeSpace(uint64_t size_bytes) {
  struct statvfs space = {};
  if (const int fault = Fault("statvfs")) return Fail(fault, "asking for the free space");
  if (fstatvfs(fd_.get(), &space) != 0) return Fail(errno, "asking for the free space");
  if (space.f_blocks == 0) return {};  // a file system that does not count, as some in user space
  const uint64_t free_bytes = static_cast<uint64_t>(space.f_bavail) * space.f_frsize;
  if (size_bytes <= free_bytes) return {};
  failed_ = true;
  return MakeError(ErrorCode::kIo, "{}: needs {} bytes ({}), but only {} ({}) are free", path_, size_bytes,
                   FormatSize(size_bytes), free_bytes, FormatSize(free_bytes));
}

Status OutputFile::Reserve(uint64_t size_bytes) {
  FRUGAL_TRY(CheckUsable());
  FRUGAL_TRY(CheckFreeSpace(size_bytes));
  const std::string what = fmt::format("reserving {} bytes", size_bytes);
  int failure = 0;
  do {
    failure = Fault("fallocate");
    if (failure == 0 && fallocate(fd_.get(), 0, 0, static_cast<off_t>(size_bytes)) != 0) failure = errno;
  } while (failure == EINTR);
  if (failure == 0) return {};
  if (failure != EOPNOTSUPP && failure != ENOSYS) return Fail(failure, what);
  // Without fallocate the length alone still finds EFBIG, and gives the zeros of the padding.
  return SetLength(size_bytes);
}

Status OutputFile::SetLength(uint64_t size_bytes) {
  FRUGAL_TRY(CheckUsable());
  const std::string what = fmt::format("setting a length of {} bytes", size_bytes);
  if (const int fault = Fault("ftruncate")) return Fail(fault, what);
  if (ftruncate(fd_.get(), static_cast<off_t>(size_bytes)) != 0) return Fail(errno, what);
  return {};
}

Status OutputFile::Write(uint64_t offset_bytes, std::span<const std::byte> data, std::string_view what) {
  FRUGAL_TRY(CheckUsable());
  while (!data.empty()) {
    if (const int fault = Fault("write")) {
      if (fault == EINTR || fault == EAGAIN) continue;
      return Fail(fault, fmt::format("{}: writing at offset {}", what, offset_bytes));
    }
    const ssize_t done = pwrite(fd_.get(), data.data(), std::min<uint64_t>(data.size(), kMaxWriteBytes),
                                static_cast<off_t>(offset_bytes));
    if (done < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (done <= 0)
      return Fail(done < 0 ? errno : EIO, fmt::format("{}: writing at offset {}", what, offset_bytes));
    offset_bytes += static_cast<uint64_t>(done);
    data = data.subspan(static_cast<size_t>(done));
    StartWriteback(static_cast<uint64_t>(done));
  }
  return {};
}

// Hints only: what fails here shows at the sync.
void OutputFile::StartWriteback(uint64_t written_bytes) {
  unsynced_bytes_ += written_bytes;
  if (unsynced_bytes_ < kWritebackBytes) return;
  unsynced_bytes_ = 0;
  // Waits for what was started the last time, starts what has come since, and gives up clean pages.
  static_cast<void>(sync_file_range(fd_.get(), 0, 0, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE));
  static_cast<void>(posix_fadvise(fd_.get(), 0, 0, POSIX_FADV_DONTNEED));
}

Status OutputFile::Commit() {
  FRUGAL_TRY(CheckUsable());
  FRUGAL_TRY(Sync());
  FRUGAL_TRY(Rename());
  owns_temporary_ = false;
  Status synced = SyncDirectory();
  if (!synced && overwrite_ == Overwrite::kNo) unlink(path_.c_str());
  fd_.Reset();
  failed_ = true;  // of no further use either way
  return synced;
}

Status OutputFile::Sync() {
  if (const int fault = Fault("fsync")) return Fail(fault, "fsync");
  // Not retried, not even after EINTR: a second fsync may succeed although the pages of the first were
  // dropped.
  if (fsync(fd_.get()) != 0) return Fail(errno, "fsync");
  // Network file systems report lost writes at close. A duplicate is closed, since the lock must last until
  // the rename.
  UniqueFd duplicate(fcntl(fd_.get(), F_DUPFD_CLOEXEC, 0));
  if (!duplicate.valid()) return Fail(errno, "close");
  if (const int fault = Fault("close")) return Fail(fault, "close");
  if (close(duplicate.Release()) != 0) return Fail(errno, "close");
  return {};
}

Status OutputFile::Rename() {
  const std::string what = fmt::format("renaming {}", temporary_path_);
  if (const int fault = Fault("rename")) return Fail(fault, what);
  if (overwrite_ == Overwrite::kNo) {
    // Somebody may have put a file there during the hours that this one took.
    if (renameat2(AT_FDCWD, temporary_path_.c_str(), AT_FDCWD, path_.c_str(), RENAME_NOREPLACE) == 0)
      return {};
    if (errno != EINVAL && errno != ENOSYS) return Fail(errno, what);
    FRUGAL_TRY(CheckTarget());  // a file system without RENAME_NOREPLACE
  }
  if (rename(temporary_path_.c_str(), path_.c_str()) != 0) return Fail(errno, what);
  return {};
}

Status OutputFile::SyncDirectory() {
  const std::string what = "syncing its directory after the rename";
  if (const int fault = Fault("fsync directory")) return Fail(fault, what);
  const UniqueFd directory(open(DirectoryOf(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory.valid()) return Fail(errno, what);
  // EINVAL: a file system whose directories need no sync.
  if (fsync(directory.get()) != 0 && errno != EINVAL) return Fail(errno, what);
  return {};
}

Error OutputFile::Fail(int error_number, std::string_view what) {
  failed_ = true;
  return MakeError(ErrorCode::kIo, "{}: {}: {}", path_, what, std::strerror(error_number));
}

Status OutputFile::CheckUsable() const {
  if (!failed_) return {};
  return MakeError(ErrorCode::kFailed, "{}: an earlier operation on this file failed or finished it", path_);
}

}  // namespace frugal
