// What the variants of DotRowsQuantised share: block formats and sizes of tiles.
#pragma once

#include <cstddef>

#ifdef __x86_64__
#define FRUGAL_HAVE_AVX2 1
#else
#define FRUGAL_HAVE_AVX2 0
#endif
// Whether code for AVX-512 VNNI is compiled, and with which options: Highway has no dot product of int8, and the options that it compiles
// AVX3_DL with allow instructions that processors of that class may lack.
#if FRUGAL_HAVE_AVX2 && !defined(FRUGAL_NO_VNNI)
#define FRUGAL_HAVE_VNNI 1
#define FRUGAL_VNNI_ATTRIBUTES "avx2,fma,f16c,avx512f,avx512vl,avx512bw,avx512dq,avx512vnni"
#else
#define FRUGAL_HAVE_VNNI 0
#endif

namespace frugal {

struct Q8Block {  // an F16 scale, 32 int8
  static constexpr size_t kBytes = 34;
};
struct Q4Block {  // an F16 scale, 16 bytes: low nibbles elements 0..15, high nibbles 16..31, 8 more than they are
  static constexpr size_t kBytes = 18;
};

// Many tokens: a row's blocks are unpacked once for several tokens.
constexpr size_t kQuantisedTileRows = 2;
constexpr size_t kQuantisedTileTokens = 4;

// Whether quantised products run with AVX-512 VNNI: the processor has it, and nothing less was chosen by a test.
bool UsesVnni();
// AVX2 or better.
bool UsesAvx2();

}  // namespace frugal
