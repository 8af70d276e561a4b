// Multiplies and adds in registers and does nothing else: the yardstick of arithmetic for the kernels.
#pragma once

#include <cstdint>

namespace frugal {

// Float fused multiply-adds, as many as the processor's units can take at a time, `num_steps` times. Returns the floating-point
// operations done, two for each multiply-add.
uint64_t FmaLoop(uint64_t num_steps);

}  // namespace frugal
