// Reads memory and does next to nothing with it: the yardstick of memory bandwidth for the kernels.
#pragma once

#include <cstddef>
#include <cstdint>

namespace frugal {

// Touches every byte of [from, from + size_bytes), size_bytes a multiple of 256, in four streams as the kernels have them. The value is
// of no use but keeps the reads from being left out.
uint64_t PlainRead(const std::byte* from, size_t size_bytes);

}  // namespace frugal
