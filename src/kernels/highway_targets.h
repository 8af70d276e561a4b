// Include before any header of Highway. Instruction sets without fused multiply-add would give other bits, so
// they are not compiled: what has neither AVX2 nor better runs the scalar code. SVE and RVV have vectors of
// unknown length, which cannot lie in arrays of registers: ARM runs NEON.
#pragma once

#ifdef FRUGAL_WITHOUT_AVX512
#define FRUGAL_LEFT_OUT (HWY_AVX3 | HWY_AVX3_DL)
#else
#define FRUGAL_LEFT_OUT 0
#endif

#define HWY_DISABLED_TARGETS                                                                             \
  (HWY_SSSE3 | HWY_SSE4 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_WASM | HWY_WASM_EMU256 | \
   HWY_RVV | FRUGAL_LEFT_OUT)
