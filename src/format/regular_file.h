// Opening and reading files that somebody else made: only regular files (symbolic links to them are fine,
// Hugging Face caches are made of them), never a FIFO or device that could block or never end.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "src/base/function_ref.h"
#include "src/base/result.h"
#include "src/base/unique_fd.h"

namespace frugal {

struct RegularFile {
  UniqueFd fd;
  uint64_t size_bytes = 0;
};

// kBadModel for what is not a regular file, links that lead in a circle included; kIo for what cannot be opened (absent,
// no permission).
Result<RegularFile> OpenRegularFile(const std::string& path);

// As pread(2); the tests put in calls that are interrupted or short.
using PreadFunction = FunctionRef<ssize_t(int fd, void* to, size_t size_bytes, off_t offset_bytes)>;

// All of destination. kBadModel "file ends" when the file is shorter (it may have been truncated since it was
// opened), kIo otherwise. `name` is for messages.
Status ReadFully(int fd, const std::string& name, uint64_t offset_bytes, std::span<std::byte> destination);
Status ReadFully(int fd, const std::string& name, uint64_t offset_bytes, std::span<std::byte> destination,
                 PreadFunction pread_function);

}  // namespace frugal
