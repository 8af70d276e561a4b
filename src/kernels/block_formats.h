// The blocks of GGUF's quantised types beside Q8_0 and Q4_0, as docs/quantised-types.md draws them. One struct for each type, the only
// place that knows its bytes: the specification and the SIMD kernels read blocks with it. Q8_0 and Q4_0 have kernels of their own.
//
// Element e of a block is float(q) * scale, or float(q) * scale + min where the type has minima, each operation rounded to float: the
// bits that llama.cpp and gguf-py give. Scale and min are those of the element's group; both are products rounded to float already.
//
// The functions are inlined into code of every instruction set, which vectorises their loops; no function here fuses operations.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include "src/base/check.h"
#include "src/tensor/dtype.h"

// A copy that is not inlined would be of one instruction set, which another one must not call.
#define FRUGAL_FORMAT_INLINE inline __attribute__((always_inline))

namespace frugal {

// Elements that are unpacked together. Every block is made of parts.
constexpr size_t kPartElements = kQuantisedBlock;

// What a format's struct has:
//   kType, kBytes, kElements  of a block
//   kGroupElements            that share a scale, 16 or 32
//   kOffset                   by how much stored quants are larger than q: 0, or a power of two
//   kSigned                   stored quants are int8; otherwise unsigned and below 64
//   kScaleAt, kMinAt          where the F16 scale is, and the F16 scale of the minima (kHasMins), in bytes
//   Scales(block, d, m, scales, mins)  d and m: those two as float; `mins` mean nothing without kHasMins  // [kElements / kGroupElements]
//   Quants(block, part, quants)        elements 32 * part .. 32 * part + 31 as stored: q + kOffset      // [kPartElements]
struct BlockOf32 {
  static constexpr size_t kElements = 32, kGroupElements = 32;
  static constexpr int kOffset = 0;
  static constexpr bool kSigned = false, kHasMins = false;
  static constexpr size_t kScaleAt = 0, kMinAt = 2;
  static FRUGAL_FORMAT_INLINE void Scales(const std::byte*, float d, float m, float* scales, float* mins) {
    scales[0] = d;
    mins[0] = m;
  }
};

struct BlockOf256 : BlockOf32 {
  static constexpr size_t kElements = 256;
};

namespace block_formats {

FRUGAL_FORMAT_INLINE const uint8_t* Bytes(const std::byte* block) { return reinterpret_cast<const uint8_t*>(block); }

FRUGAL_FORMAT_INLINE uint32_t Word(const uint8_t* from) {
  uint32_t word;
  std::memcpy(&word, from, sizeof(word));
  return word;
}

// Low nibbles are elements 0 .. 15, high ones 16 .. 31.
FRUGAL_FORMAT_INLINE void Nibbles(const uint8_t* from, uint8_t* quants) {
  for (size_t i = 0; i < 16; ++i) {
    quants[i] = from[i] & 15;
    quants[16 + i] = from[i] >> 4;
  }
}

// Adds 16 to quant i where bit i of the four bytes is set. Eight bits become eight bytes at once: of eight copies of a byte, copy i keeps
// bit i; 0x7f more carries that bit, whichever it is, into bit 7.
FRUGAL_FORMAT_INLINE void AddFifthBits(const uint8_t* bits, uint8_t* quants) {
  for (size_t i = 0; i < 4; ++i) {
    const uint64_t kept = (bits[i] * uint64_t{0x0101010101010101}) & uint64_t{0x8040201008040201};
    const uint64_t fifth = ((kept + uint64_t{0x7f7f7f7f7f7f7f7f}) >> 3) & uint64_t{0x1010101010101010};
    uint64_t eight;
    std::memcpy(&eight, quants + 8 * i, sizeof(eight));
    eight |= fifth;
    std::memcpy(quants + 8 * i, &eight, sizeof(eight));
  }
}

// Eight scales and eight minima of 6 bits in 12 bytes (Q4_K, Q5_K): bytes 0 .. 3 and 4 .. 7 hold the first four of each, and in their
// upper two bits the upper two of the others, whose lower four are the nibbles of bytes 8 .. 11.
FRUGAL_FORMAT_INLINE void SixBitScales(const uint8_t* from, float d, float m, float* scales, float* mins) {
  const uint32_t a = Word(from), b = Word(from + 4), c = Word(from + 8);
  const uint32_t scale_words[2] = {a & 0x3f3f3f3f, (c & 0x0f0f0f0f) | ((a >> 2) & 0x30303030)};
  const uint32_t min_words[2] = {b & 0x3f3f3f3f, ((c >> 4) & 0x0f0f0f0f) | ((b >> 2) & 0x30303030)};
  uint8_t scale_bytes[8], min_bytes[8];
  std::memcpy(scale_bytes, scale_words, sizeof(scale_bytes));
  std::memcpy(min_bytes, min_words, sizeof(min_bytes));
  for (size_t g = 0; g < 8; ++g) {
    scales[g] = d * static_cast<float>(scale_bytes[g]);
    mins[g] = -(m * static_cast<float>(min_bytes[g]));
  }
}

}  // namespace block_formats

struct Q41Format : BlockOf32 {
  static constexpr DType kType = DType::kQ4_1;
  static constexpr size_t kBytes = 20, kQuantsAt = 4;
  static constexpr bool kHasMins = true;
  static FRUGAL_FORMAT_INLINE void Quants(const std::byte* block, size_t, uint8_t* quants) {
    block_formats::Nibbles(block_formats::Bytes(block) + kQuantsAt, quants);
  }
};

struct Q50Format : BlockOf32 {
  static constexpr DType kType = DType::kQ5_0;
  static constexpr size_t kBytes = 22;
  static constexpr int kOffset = 16;
  static FRUGAL_FORMAT_INLINE void Quants(const std::byte* block, size_t, uint8_t* quants) {
    block_formats::Nibbles(block_formats::Bytes(block) + 6, quants);
    block_formats::AddFifthBits(block_formats::Bytes(block) + 2, quants);
  }
};

struct Q51Format : BlockOf32 {
  static constexpr DType kType = DType::kQ5_1;
  static constexpr size_t kBytes = 24;
  static constexpr bool kHasMins = true;
  static FRUGAL_FORMAT_INLINE void Quants(const std::byte* block, size_t, uint8_t* quants) {
    block_formats::Nibbles(block_formats::Bytes(block) + 8, quants);
    block_formats::AddFifthBits(block_formats::Bytes(block) + 4, quants);
  }
};

// Nibbles that stand for 16 values, nearer to each other at 0.
struct Iq4NlFormat : BlockOf32 {
  static constexpr DType kType = DType::kIQ4_NL;
  static constexpr size_t kBytes = 18, kQuantsAt = 2;
  static constexpr bool kSigned = true;
  static constexpr int8_t kValues[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
  static FRUGAL_FORMAT_INLINE void Quants(const std::byte* block, size_t, uint8_t* quants) {
    block_formats::Nibbles(block_formats::Bytes(block) + kQuantsAt, quants);
    for (size_t i = 0; i < kPartElements; ++i) quants[i] = static_cast<uint8_t>(kValues[quants[i]]);
  }
};

struct Q2KFormat : BlockOf256 {
  static constexpr DType kType = DType::kQ2_K;
  static constexpr size_t kBytes = 84, kGroupElements = 16;
  static constexpr bool kHasMins = true;
  static constexpr size_t kScaleAt = 80, kMinAt = 82;
  static FRUGAL_FORMAT_INLINE void Scales(const std::byte* block, float d, float m, float* scales, float* mins) {
    const uint8_t* const from = block_formats::Bytes(block);
    for (size_t g = 0; g < 16; ++g) {
      scales[g] = d * static_cast<float>(from[g] & 15);
      mins[g] = -(m * static_cast<float>(from[g] >> 4));
    }
  }
  static FRUGAL_FORMAT_INLINE void Quants(const std::byte* block, size_t part, uint8_t* quants) {
    const uint8_t* const from = block_formats::Bytes(block) + 16 + part / 4 * 32;
    for (size_t i = 0; i < kPartElements; ++i) quants[i] = (from[i] >> (part % 4 * 2)) & 3;
  }
};

struct Q3KFormat : BlockOf256 {
  static constexpr DType kType = DType::kQ3_K;
  static constexpr size_t kBytes = 110, kGroupElements = 16;
  static constexpr int kOffset = 4;
  static constexpr size_t kScaleAt = 108;
  // 16 scales of 6 bits, 32 larger than they are: the nibbles of bytes 0 .. 7, and two bits each of bytes 8 .. 11.
  static FRUGAL_FORMAT_INLINE void Scales(const std::byte* block, float d, float, float* scales, float*) {
    const uint8_t* const from = block_formats::Bytes(block) + 96;
    for (size_t g = 0; g < 16; ++g) {
      const int low = g < 8 ? from[g] & 15 : from[g - 8] >> 4;
      const int high = (from[8 + g % 4] >> (g / 4 * 2)) & 3;
      scales[g] = d * static_cast<float>((low | high << 4) - 32);
    }
  }
  static FRUGAL_FORMAT_INLINE void Quants(const std::byte* block, size_t part, uint8_t* quants) {
    const uint8_t* const high = block_formats::Bytes(block);
    const uint8_t* const low = high + 32 + part / 4 * 32;
    for (size_t i = 0; i < kPartElements; ++i) {
      quants[i] = static_cast<uint8_t>(((low[i] >> (part % 4 * 2)) & 3) | ((high[i] >> part) & 1) << 2);
    }
  }
};

struct Q4KFormat : BlockOf256 {
  static constexpr DType kType = DType::kQ4_K;
  static constexpr size_t kBytes = 144, kQuantsAt = 16;
  static constexpr bool kHasMins = true;
  static FRUGAL_FORMAT_INLINE void Scales(const std::byte* block, float d, float m, float* scales, float* mins) {
    block_formats::SixBitScales(block_formats::Bytes(block) + 4, d, m, scales, mins);
  }
  static FRUGAL_FORMAT_INLINE void Quants(const std::byte* block, size_t part, uint8_t* quants) {
    const uint8_t* const from = block_formats::Bytes(block) + kQuantsAt + part / 2 * 32;
    for (size_t i = 0; i < kPartElements; ++i) quants[i] = (from[i] >> (part % 2 * 4)) & 15;
  }
};

struct Q5KFormat : BlockOf256 {
  static constexpr DType kType = DType::kQ5_K;
  static constexpr size_t kBytes = 176, kHighBitsAt = 16, kQuantsAt = 48;
  static constexpr bool kHasMins = true;
  static FRUGAL_FORMAT_INLINE void Scales(const std::byte* block, float d, float m, float* scales, float* mins) {
    block_formats::SixBitScales(block_formats::Bytes(block) + 4, d, m, scales, mins);
  }
  static FRUGAL_FORMAT_INLINE void Quants(const std::byte* block, size_t part, uint8_t* quants) {
    const uint8_t* const high = block_formats::Bytes(block) + kHighBitsAt;
    const uint8_t* const low = block_formats::Bytes(block) + kQuantsAt + part / 2 * 32;
    for (size_t i = 0; i < kPartElements; ++i) {
      quants[i] = static_cast<uint8_t>(((low[i] >> (part % 2 * 4)) & 15) | ((high[i] >> part) & 1) << 4);
    }
  }
};

struct Q6KFormat : BlockOf256 {
  static constexpr DType kType = DType::kQ6_K;
  static constexpr size_t kBytes = 210, kGroupElements = 16, kHighBitsAt = 128, kScalesAt = 192;
  static constexpr int kOffset = 32;
  static constexpr size_t kScaleAt = 208;
  static FRUGAL_FORMAT_INLINE void Scales(const std::byte* block, float d, float, float* scales, float*) {
    for (size_t g = 0; g < 16; ++g) scales[g] = d * static_cast<float>(static_cast<int8_t>(block[kScalesAt + g]));
  }
  static FRUGAL_FORMAT_INLINE void Quants(const std::byte* block, size_t part, uint8_t* quants) {
    const uint8_t* const low = block_formats::Bytes(block) + part / 4 * 64 + part % 2 * 32;
    const uint8_t* const high = block_formats::Bytes(block) + kHighBitsAt + part / 4 * 32;
    for (size_t i = 0; i < kPartElements; ++i) {
      quants[i] = static_cast<uint8_t>(((low[i] >> (part % 4 / 2 * 4)) & 15) | ((high[i] >> (part % 4 * 2)) & 3) << 4);
    }
  }
};

constexpr bool HasBlockFormat(DType dtype) { return IsQuantised(dtype) && dtype != DType::kQ8_0 && dtype != DType::kQ4_0; }

// f(format) with the type's struct. HasBlockFormat(dtype).
template <class F>
void WithBlockFormat(DType dtype, const F& f) {
  switch (dtype) {
    case DType::kQ4_1:
      return f(Q41Format());
    case DType::kQ5_0:
      return f(Q50Format());
    case DType::kQ5_1:
      return f(Q51Format());
    case DType::kQ2_K:
      return f(Q2KFormat());
    case DType::kQ3_K:
      return f(Q3KFormat());
    case DType::kQ4_K:
      return f(Q4KFormat());
    case DType::kQ5_K:
      return f(Q5KFormat());
    case DType::kQ6_K:
      return f(Q6KFormat());
    case DType::kIQ4_NL:
      return f(Iq4NlFormat());
    default:
      CHECK(false);
  }
}

// The quant as it counts, from what Quants gives.
template <class Format>
FRUGAL_FORMAT_INLINE int QuantFrom(uint8_t stored) {
  return (Format::kSigned ? static_cast<int8_t>(stored) : stored) - Format::kOffset;
}

// Elements 32 * part .. of a block as float, with the block's scales. // out [kPartElements]
template <class Format>
FRUGAL_FORMAT_INLINE void PartToFloat(const std::byte* block, size_t part, const float* scales, const float* mins, float* out) {
  uint8_t quants[kPartElements];
  Format::Quants(block, part, quants);
  for (size_t begin = 0; begin < kPartElements; begin += Format::kGroupElements) {
    const size_t group = (part * kPartElements + begin) / Format::kGroupElements;
    for (size_t i = begin; i < begin + Format::kGroupElements; ++i) {
      out[i] = static_cast<float>(QuantFrom<Format>(quants[i])) * scales[group];
      if constexpr (Format::kHasMins) out[i] += mins[group];
    }
  }
}

}  // namespace frugal
