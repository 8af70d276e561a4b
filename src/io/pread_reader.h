// The portable implementation of ExtentReader: a few threads that call preadv. Same promises as io_uring: a
// bounded queue, completions in any order, short reads and errors reported as the kernel said them, nothing
// allocated per read.
#pragma once

#include <cstdint>

#include "src/io/extent_reader.h"

namespace frugal {

// kFailed when not even one thread can be started; with fewer threads than asked for it works, and the note
// says so.
Result<OpenedReader> OpenPreadReader(const ReaderOptions& options);

uint64_t PreadReaderMemoryBytes(const ReaderOptions& options);

}  // namespace frugal
