// The io_uring implementation of ExtentReader. liburing is included in uring_reader.cc only.
//
// One ring, created and entered by one thread. When the kernel takes it, the ring is SINGLE_ISSUER |
// DEFER_TASKRUN: completions are then worked off where this thread asks for them and never interrupt a
// computation. Such a ring belongs to the thread that made it; when another thread submits while nothing is
// in flight, the ring is made anew for it.
#pragma once

#include <cstdint>

#include "src/io/extent_reader.h"

namespace frugal {

// kIo when the kernel refuses (ENOSYS, EPERM, a memory lock limit, a kernel before 5.11): proved by a NOP
// that goes through the ring. The note says which registrations were refused.
Result<OpenedReader> OpenUringReader(const ReaderOptions& options);

uint64_t UringReaderMemoryBytes(const ReaderOptions& options);

}  // namespace frugal
