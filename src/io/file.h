// A regular file opened for reading, with O_DIRECT where the file system really does it. Weights are read
// through ExtentReader only; this class knows identity, size and alignment.
#pragma once

#include <cstdint>
#include <string>

#include "src/base/result.h"
#include "src/base/unique_fd.h"

namespace frugal {

enum class DirectMode { kTry, kOff };

class File {
 public:
  // kBadModel for what is not a regular file (FIFO, directory, device), kIo for what cannot be opened.
  // `alignment_bytes` of reads: what the device asks for (STATX_DIOALIGN, or found by trial reads of 512 and
  // 4096 bytes); 1 when buffered. O_DIRECT is proved by a transfer, not by open() alone. When the device's
  // alignment is above max_alignment_bytes (the file's own granularity, 512 for bundles), the file is opened
  // buffered and direct_note() says why.
  static Result<File> Open(const std::string& path, DirectMode mode, uint32_t max_alignment_bytes = 4096);

  int fd() const { return fd_.get(); }
  const std::string& path() const { return path_; }
  uint64_t size_bytes() const { return size_bytes_; }
  bool direct() const { return direct_; }
  uint32_t alignment_bytes() const { return alignment_bytes_; }
  const std::string& direct_note() const { return direct_note_; }  // why it is buffered; empty when direct

  // kIo "file changed" when size, mtime or inode differ from what they were at Open.
  Status CheckUnchanged() const;

 private:
  File() = default;
  UniqueFd fd_;
  std::string path_;
  uint64_t size_bytes_ = 0;
  bool direct_ = false;
  uint32_t alignment_bytes_ = 1;
  std::string direct_note_;
  uint64_t inode_ = 0;
  int64_t mtime_ns_ = 0;
};

}  // namespace frugal
