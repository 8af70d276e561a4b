// For the tests of this folder: files with known content, and memory that is aligned.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "src/base/aligned_buffer.h"
#include "src/base/temp_dir_for_test.h"
#include "src/base/unique_fd.h"
#include "src/io/file.h"
#include "src/io/pattern.h"
#include "src/io/whole_reader.h"

namespace frugal {

constexpr uint64_t kTestSeed = 42;

// A file with the pattern of kTestSeed, removed at the end.
class PatternFile {
 public:
  explicit PatternFile(uint64_t size_bytes, const std::string& folder = testing::TempDir())
      : directory_(folder), path_(directory_.File("pattern")) {
    UniqueFd fd(open(path_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    EXPECT_TRUE(fd.valid()) << path_;
    std::vector<std::byte> bytes((size_bytes + 7) / 8 * 8);
    FillPattern(kTestSeed, 0, bytes);
    EXPECT_EQ(write(fd.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
    EXPECT_EQ(ftruncate(fd.get(), static_cast<off_t>(size_bytes)), 0);
    EXPECT_EQ(fsync(fd.get()), 0);
  }
  PatternFile(const PatternFile&) = delete;
  PatternFile& operator=(const PatternFile&) = delete;

  const std::string& path() const { return path_; }

 private:
  const TempDir directory_;
  const std::string path_;
};

inline File OpenFile(const std::string& path, DirectMode mode) {
  Result<File> file = File::Open(path, mode);
  EXPECT_TRUE(file) << (file ? "" : file.error().message);
  return std::move(file).value();
}

inline std::unique_ptr<ExtentReader> NewReader(IoBackend backend, uint32_t queue_depth) {
  ReaderOptions options;
  options.backend = backend;
  options.queue_depth = queue_depth;
  options.num_pread_threads = 3;
  Result<OpenedReader> opened = OpenReader(options);
  EXPECT_TRUE(opened) << (opened ? "" : opened.error().message);
  return std::move(opened).value().reader;
}

inline AlignedBuffer NewBuffer(uint64_t size_bytes) {
  Result<AlignedBuffer> buffer = AlignedBuffer::Allocate(size_bytes);
  EXPECT_TRUE(buffer);
  return std::move(buffer).value();
}

inline const char* BackendName(IoBackend backend) { return backend == IoBackend::kUring ? "uring" : "pread"; }

}  // namespace frugal
