#include "src/io/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "src/base/aligned_buffer.h"

namespace frugal {
namespace {

constexpr uint32_t kTrialAlignments[] = {512, 4096};
constexpr int64_t kTmpfsMagic = 0x01021994;
constexpr int64_t kRamfsMagic = 0x858458f6;

std::string_view KindOf(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISCHR(mode)) return "a character device";
  if (S_ISBLK(mode)) return "a block device";
  if (S_ISSOCK(mode)) return "a socket";
  return "of an unknown kind";
}

int64_t FileSystemMagic(int fd) {
  struct statfs info {};
  return fstatfs(fd, &info) == 0 ? static_cast<int64_t>(info.f_type) : 0;
}

std::string_view FileSystemName(int64_t magic) {
  switch (magic) {
    case kTmpfsMagic:
      return "tmpfs";
    case kRamfsMagic:
      return "ramfs";
    case 0x794c7630:
      return "overlayfs";
    case 0xef53:
      return "ext4";
    case 0x58465342:
      return "xfs";
    case 0x9123683e:
      return "btrfs";
    case 0x6969:
      return "nfs";
    case 0x65735546:
      return "fuse";
    case 0x01021997:
      return "9p";
    case 0x2fc12fc1:
      return "zfs";
    default:
      return "the file system";
  }
}

int64_t ModifiedNs(const struct stat& info) {
  return int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec;
}

// Reads one block at `offset` into memory that is aligned to `alignment` and to no more. 0 or the errno.
int TrialRead(int fd, uint32_t alignment, uint64_t offset, uint64_t size_bytes,
              std::span<std::byte> scratch) {
  const uint64_t expected = std::min<uint64_t>(alignment, size_bytes - offset);
  ssize_t got = -1;
  do {
    got = pread(fd, scratch.data() + alignment, alignment, static_cast<off_t>(offset));
  } while (got < 0 && errno == EINTR);
  if (got < 0) return errno;
  return static_cast<uint64_t>(got) == expected ? 0 : EIO;
}

// What the kernel says (Linux 6.1), or 0 when it says nothing; kRefused when it says that there is no direct
// I/O.
constexpr uint32_t kRefused = UINT32_MAX;
uint32_t StatedAlignment(int fd) {
#ifdef STATX_DIOALIGN
  struct statx info {};
  if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) != 0 || (info.stx_mask & STATX_DIOALIGN) == 0)
    return 0;
  if (info.stx_dio_offset_align == 0 || info.stx_dio_mem_align == 0) return kRefused;
  return std::max({info.stx_dio_offset_align, info.stx_dio_mem_align, uint32_t{512}});
#else
  static_cast<void>(fd);
  return 0;
#endif
}

// The alignment with which this descriptor, which has O_DIRECT, really reads; or why it does not.
Result<uint32_t> ProveAlignment(int fd, uint64_t size_bytes) {
  const uint32_t stated = StatedAlignment(fd);
  const std::string_view file_system = FileSystemName(FileSystemMagic(fd));
  if (stated == kRefused) {
    return MakeError(ErrorCode::kIo, "O_DIRECT refused by {}: buffered", file_system);
  }
  FRUGAL_ASSIGN(AlignedBuffer scratch, AlignedBuffer::Allocate(2 * std::max<uint64_t>(stated, 4096)));
  int error = 0;
  for (const uint32_t alignment : kTrialAlignments) {
    const uint32_t tried = stated != 0 ? stated : alignment;
    error = TrialRead(fd, tried, 0, size_bytes, scratch.bytes());
    if (error == 0 && size_bytes > tried) error = TrialRead(fd, tried, tried, size_bytes, scratch.bytes());
    if (error == 0) return tried;
    if (stated != 0) break;
  }
  return MakeError(ErrorCode::kIo, "O_DIRECT of {} fails to read ({}): buffered", file_system,
                   ErrnoText(error));
}

// Turns O_DIRECT on for `fd` and returns the alignment; an error holds the note, and O_DIRECT is off again.
Result<uint32_t> TryDirect(int fd, int flags, uint64_t size_bytes, uint32_t max_alignment_bytes) {
  const int64_t magic = FileSystemMagic(fd);
  // Since Linux 6.6 tmpfs accepts O_DIRECT, and copies from the page cache all the same.
  const bool in_memory = magic == kTmpfsMagic || magic == kRamfsMagic;
  if (in_memory || fcntl(fd, F_SETFL, flags | O_DIRECT) != 0) {
    return MakeError(ErrorCode::kIo, "O_DIRECT refused by {}: buffered", FileSystemName(magic));
  }
  Result<uint32_t> alignment = ProveAlignment(fd, size_bytes);
  if (alignment && *alignment > max_alignment_bytes) {
    alignment = MakeError(ErrorCode::kIo,
                          "O_DIRECT asks for reads aligned to {} bytes, the file's are to {}: buffered",
                          *alignment, max_alignment_bytes);
  }
  if (!alignment) fcntl(fd, F_SETFL, flags);
  return alignment;
}

}  // namespace

Result<File> File::Open(const std::string& path, DirectMode mode, uint32_t max_alignment_bytes) {
  if (path.find('\0') != std::string::npos) return MakeError(ErrorCode::kIo, "a file name with a NUL byte");
  File file;
  file.path_ = path;
  // O_NONBLOCK: a FIFO without a writer would hang here.
  file.fd_ = UniqueFd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!file.fd_.valid()) return MakeError(ErrorCode::kIo, "{}: cannot open: {}", path, ErrnoText(errno));
  struct stat info {};
  if (fstat(file.fd(), &info) != 0) return MakeError(ErrorCode::kIo, "{}: fstat: {}", path, ErrnoText(errno));
  if (!S_ISREG(info.st_mode))
    return BadModel("{}: is {}, expected a regular file", path, KindOf(info.st_mode));
  file.size_bytes_ = static_cast<uint64_t>(info.st_size);
  file.inode_ = info.st_ino;
  file.mtime_ns_ = ModifiedNs(info);
  const int flags =
      fcntl(file.fd(), F_GETFL) & ~O_NONBLOCK;  // io_uring would answer EAGAIN instead of waiting
  if (fcntl(file.fd(), F_SETFL, flags) != 0) {
    return MakeError(ErrorCode::kIo, "{}: fcntl: {}", path, ErrnoText(errno));
  }
  if (mode == DirectMode::kOff) {
    file.direct_note_ = "direct I/O is off: buffered";
  } else if (file.size_bytes_ == 0) {
    file.direct_note_ = "nothing to prove direct I/O with in an empty file: buffered";
  } else if (Result<uint32_t> alignment =
                 TryDirect(file.fd(), flags, file.size_bytes_, max_alignment_bytes)) {
    file.direct_ = true;
    file.alignment_bytes_ = *alignment;
  } else {
    file.direct_note_ = alignment.error().message;
  }
  // Reads of bundles are random: read-ahead would fetch bytes that nobody asked for.
  if (!file.direct_) posix_fadvise(file.fd(), 0, 0, POSIX_FADV_RANDOM);
  return file;
}

Status File::CheckUnchanged() const {
  struct stat info {};
  if (fstat(fd(), &info) != 0) return MakeError(ErrorCode::kIo, "{}: fstat: {}", path_, ErrnoText(errno));
  const uint64_t size_bytes = static_cast<uint64_t>(info.st_size);
  if (size_bytes != size_bytes_) {
    return MakeError(ErrorCode::kIo, "{}: file changed while open: {} bytes, {} when it was opened", path_,
                     size_bytes, size_bytes_);
  }
  if (info.st_ino != inode_ || ModifiedNs(info) != mtime_ns_) {
    return MakeError(ErrorCode::kIo, "{}: file changed while open: it was written to after it was opened",
                     path_);
  }
  return {};
}

}  // namespace frugal
