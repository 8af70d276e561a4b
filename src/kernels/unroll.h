// Before a loop over arrays of vectors: they stay in registers only when every index is a constant.
#pragma once

#ifdef __clang__
#define FRUGAL_UNROLL _Pragma("clang loop unroll(full)")
#else
#define FRUGAL_UNROLL _Pragma("GCC unroll 32")
#endif
