// The processor's caches, where what is in them does harm.
#pragma once

#include <cstddef>
#include <span>

namespace frugal {

// Takes what is used up and will be overwritten by a read out of the caches; its bytes stay. Where reads are copied into place, by a virtual
// machine's host or from the page cache, the copy waits for each line that a core's cache still holds
// (docs/decisions/0022-used-blocks-leave-the-caches.md). Does nothing where the processor has no such instruction.
void FlushCacheLines(std::span<const std::byte> bytes);

}  // namespace frugal
