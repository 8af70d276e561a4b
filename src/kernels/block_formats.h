// The blocks of GGUF's quantised types beside Q8_0 and Q4_0, as docs/quantised-types.md draws them. One struct for each type, the only
// place that knows its bytes: the specification and the SIMD kernels read blocks with it. Q8_0 and Q4_0 have kernels of their own.
//
// Element e of a block is float(q) * scale, or float(q) * scale + min where the type has minima, each operation rounded to float: the
// bits that llama.cpp and gguf-py give. Scale and min are those of the element's group. With d and m, the F16 numbers of the block: in
// blocks of 32 scale = d and min = m; in blocks of 256 scale = d * float(s) and min = -m * float(t), s and t being the group's integers.
//
// Bytes are taken eight at a time in words of 64 bits, which is fast on every instruction set without knowing it: of eight bytes shifted
// at once, a mask keeps the bits that did not come from a neighbour.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "src/base/check.h"
#include "src/tensor/dtype.h"

// Inlined into code of every instruction set: a copy that is not would be of one of them, which another must not call.
#define FRUGAL_FORMAT_INLINE inline __attribute__((always_inline))

namespace frugal {

// Elements that are unpacked together. Every block is made of parts.
constexpr size_t kPartElements = kQuantisedBlock;

// Eight bytes, the first in the lowest bits.
using EightBytes = uint64_t;

// What a format's struct has:
//   kType, kBytes, kElements  of a block
//   kGroupElements            that share a scale: 16 or 32
//   kOffset                   by how much stored quants are larger than q: 0, or a power of two
//   kSigned                   stored quants are int8; otherwise unsigned and below 64
//   kHasMins, kScaleAt, kMinAt  whether there are minima; where d is and, with kHasMins, m; in bytes
//   Quants(block, part, quants)   elements 32 * part .. 32 * part + 31 as stored: q + kOffset  // [4] of eight
//   Groups(block, scales, mins)   of blocks of 256: s and t of each group as int8; no t without kHasMins  // [groups / 8] of eight
struct BlockOf32 {
  static constexpr size_t kElements = 32, kGroupElements = 32;
  static constexpr int kOffset = 0;
  static constexpr bool kSigned = false, kHasMins = false;
  static constexpr size_t kScaleAt = 0, kMinAt = 2;
};

struct BlockOf256 : BlockOf32 {
  static constexpr size_t kElements = 256;
};

namespace block_formats {

constexpr EightBytes Repeat(uint8_t byte) { return byte * uint64_t{0x0101010101010101}; }

FRUGAL_FORMAT_INLINE EightBytes Load(const std::byte* from) {
  EightBytes bytes;
  std::memcpy(&bytes, from, sizeof(bytes));
  return bytes;
}

FRUGAL_FORMAT_INLINE uint32_t LoadFour(const std::byte* from) {
  uint32_t bytes;
  std::memcpy(&bytes, from, sizeof(bytes));
  return bytes;
}

FRUGAL_FORMAT_INLINE EightBytes Join(uint32_t first, uint32_t second) { return first | EightBytes{second} << 32; }

// Low nibbles are elements 0 .. 15, high ones 16 .. 31.
FRUGAL_FORMAT_INLINE void Nibbles(const std::byte* from, EightBytes* quants) {
  for (size_t i = 0; i < 2; ++i) {
    const EightBytes pairs = Load(from + 8 * i);
    quants[i] = pairs & Repeat(15);
    quants[2 + i] = (pairs >> 4) & Repeat(15);
  }
}

// Adds 16 to quant i where bit i of the four bytes is set. Of eight copies of a byte, copy i keeps bit i; 0x7f more carries that bit,
// whichever it is, into bit 7.
FRUGAL_FORMAT_INLINE void AddFifthBits(const std::byte* bits, EightBytes* quants) {
  for (size_t i = 0; i < 4; ++i) {
    const EightBytes kept = Repeat(std::to_integer<uint8_t>(bits[i])) & EightBytes{0x8040201008040201};
    quants[i] |= ((kept + Repeat(0x7f)) >> 3) & Repeat(16);
  }
}

// `bits` bits of each of 32 bytes, from bit `shift` on.
FRUGAL_FORMAT_INLINE void BitsOfBytes(const std::byte* from, size_t shift, uint8_t mask, EightBytes* quants) {
  for (size_t i = 0; i < 4; ++i) quants[i] = (Load(from + 8 * i) >> shift) & Repeat(mask);
}

// Eight scales and eight minima of 6 bits in 12 bytes (Q4_K, Q5_K): bytes 0 .. 3 and 4 .. 7 hold the first four of each, and in their
// upper two bits the upper two of the others, whose lower four are the nibbles of bytes 8 .. 11.
FRUGAL_FORMAT_INLINE void SixBitGroups(const std::byte* from, EightBytes* scales, EightBytes* mins) {
  const uint32_t a = LoadFour(from), b = LoadFour(from + 4), c = LoadFour(from + 8);
  *scales = Join(a & 0x3f3f3f3f, (c & 0x0f0f0f0f) | ((a >> 2) & 0x30303030));
  *mins = Join(b & 0x3f3f3f3f, ((c >> 4) & 0x0f0f0f0f) | ((b >> 2) & 0x30303030));
}

}  // namespace block_formats

struct Q41Format : BlockOf32 {
  static constexpr DType kType = DType::kQ4_1;
  static constexpr size_t kBytes = 20, kQuantsAt = 4;
  static constexpr bool kHasMins = true;
  static FRUGAL_FORMAT_INLINE void Quants(const std::byte* block, size_t, EightBytes* quants) {
    block_formats::Nibbles(block + kQuantsAt, quants);
  }
};

struct Q50Format : BlockOf32 {
  static constexpr DType kType = DType::kQ5_0;
  static constexpr size_t kBytes = 22;
  static constexpr int kOffset = 16;
  static FRUGAL_FORMAT_INLINE void Quants(const std::byte* block, size_t, EightBytes* quants) {
    block_formats::Nibbles(block + 6, quants);
    block_formats::AddFifthBits(block + 2, quants);
  }
};

struct Q51Format : BlockOf32 {
  static constexpr DType kType = DType::kQ5_1;
  static constexpr size_t kBytes = 24;
  static constexpr bool kHasMins = true;
  static FRUGAL_FORMAT_INLINE void Quants(const std::byte* block, size_t, EightBytes* quants) {
    block_formats::Nibbles(block + 8, quants);
    block_formats::AddFifthBits(block + 4, quants);
  }
};

// Nibbles that stand for 16 values, nearer to each other at 0.
struct Iq4NlFormat : BlockOf32 {
  static constexpr DType kType = DType::kIQ4_NL;
  static constexpr size_t kBytes = 18, kQuantsAt = 2;
  static constexpr bool kSigned = true;
  static constexpr int8_t kValues[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
  static FRUGAL_FORMAT_INLINE void Quants(const std::byte* block, size_t, EightBytes* quants) {
    block_formats::Nibbles(block + kQuantsAt, quants);
    for (size_t i = 0; i < 4; ++i) {
      int8_t values[8];
      for (size_t j = 0; j < 8; ++j) values[j] = kValues[quants[i] >> (8 * j) & 15];
      std::memcpy(quants + i, values, sizeof(values));
    }
  }
};

struct Q2KFormat : BlockOf256 {
  static constexpr DType kType = DType::kQ2_K;
  static constexpr size_t kBytes = 84, kGroupElements = 16;
  static constexpr bool kHasMins = true;
  static constexpr size_t kScaleAt = 80, kMinAt = 82;
  static FRUGAL_FORMAT_INLINE void Groups(const std::byte* block, EightBytes* scales, EightBytes* mins) {
    for (size_t i = 0; i < 2; ++i) {
      const EightBytes both = block_formats::Load(block + 8 * i);
      scales[i] = both & block_formats::Repeat(15);
      mins[i] = (both >> 4) & block_formats::Repeat(15);
    }
  }
  static FRUGAL_FORMAT_INLINE void Quants(const std::byte* block, size_t part, EightBytes* quants) {
    block_formats::BitsOfBytes(block + 16 + part / 4 * 32, part % 4 * 2, 3, quants);
  }
};

struct Q3KFormat : BlockOf256 {
  static constexpr DType kType = DType::kQ3_K;
  static constexpr size_t kBytes = 110, kGroupElements = 16;
  static constexpr int kOffset = 4;
  static constexpr size_t kScaleAt = 108;
  // 16 scales of 6 bits, 32 larger than they are: the nibbles of bytes 0 .. 7, and above each of them two bits of bytes 8 .. 11.
  static FRUGAL_FORMAT_INLINE void Groups(const std::byte* block, EightBytes* scales, EightBytes*) {
    const EightBytes low = block_formats::Load(block + 96);
    const uint32_t high = block_formats::LoadFour(block + 104);
    for (size_t i = 0; i < 2; ++i) {
      const EightBytes upper = block_formats::Join(high >> (4 * i) & 0x03030303, high >> (4 * i + 2) & 0x03030303) << 4;
      const EightBytes six = ((low >> (4 * i)) & block_formats::Repeat(15)) | upper;
      // Each byte less 32, without borrowing from the next.
      scales[i] = ((six | block_formats::Repeat(0x80)) - block_formats::Repeat(32)) ^ block_formats::Repeat(0x80);
    }
  }
  static FRUGAL_FORMAT_INLINE void Quants(const std::byte* block, size_t part, EightBytes* quants) {
    EightBytes third[4];
    block_formats::BitsOfBytes(block, part, 1, third);
    block_formats::BitsOfBytes(block + 32 + part / 4 * 32, part % 4 * 2, 3, quants);
    for (size_t i = 0; i < 4; ++i) quants[i] |= third[i] << 2;
  }
};

struct Q4KFormat : BlockOf256 {
  static constexpr DType kType = DType::kQ4_K;
  static constexpr size_t kBytes = 144, kQuantsAt = 16;
  static constexpr bool kHasMins = true;
  static FRUGAL_FORMAT_INLINE void Groups(const std::byte* block, EightBytes* scales, EightBytes* mins) {
    block_formats::SixBitGroups(block + 4, scales, mins);
  }
  static FRUGAL_FORMAT_INLINE void Quants(const std::byte* block, size_t part, EightBytes* quants) {
    block_formats::BitsOfBytes(block + kQuantsAt + part / 2 * 32, part % 2 * 4, 15, quants);
  }
};

struct Q5KFormat : BlockOf256 {
  static constexpr DType kType = DType::kQ5_K;
  static constexpr size_t kBytes = 176;
  static constexpr bool kHasMins = true;
  static FRUGAL_FORMAT_INLINE void Groups(const std::byte* block, EightBytes* scales, EightBytes* mins) {
    block_formats::SixBitGroups(block + 4, scales, mins);
  }
  static FRUGAL_FORMAT_INLINE void Quants(const std::byte* block, size_t part, EightBytes* quants) {
    EightBytes fifth[4];
    block_formats::BitsOfBytes(block + 16, part, 1, fifth);
    block_formats::BitsOfBytes(block + 48 + part / 2 * 32, part % 2 * 4, 15, quants);
    for (size_t i = 0; i < 4; ++i) quants[i] |= fifth[i] << 4;
  }
};

struct Q6KFormat : BlockOf256 {
  static constexpr DType kType = DType::kQ6_K;
  static constexpr size_t kBytes = 210, kGroupElements = 16, kHighBitsAt = 128;
  static constexpr int kOffset = 32;
  static constexpr size_t kScaleAt = 208;
  static FRUGAL_FORMAT_INLINE void Groups(const std::byte* block, EightBytes* scales, EightBytes*) {
    for (size_t i = 0; i < 2; ++i) scales[i] = block_formats::Load(block + 192 + 8 * i);
  }
  static FRUGAL_FORMAT_INLINE void Quants(const std::byte* block, size_t part, EightBytes* quants) {
    EightBytes upper[4];
    block_formats::BitsOfBytes(block + kHighBitsAt + part / 4 * 32, part % 4 * 2, 3, upper);
    block_formats::BitsOfBytes(block + part / 4 * 64 + part % 2 * 32, part % 4 / 2 * 4, 15, quants);
    for (size_t i = 0; i < 4; ++i) quants[i] |= upper[i] << 4;
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

}  // namespace frugal
