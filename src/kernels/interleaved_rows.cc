#include "src/kernels/interleaved_rows.h"

#include <hwy/base.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "src/base/check.h"
#include "src/kernels/quantised_tiles.h"
#include "src/kernels/row_streams.h"
#include "src/kernels/unroll.h"

#if FRUGAL_HAVE_AVX2
// GCC 12 warns of what its own header leaves undefined on purpose.
HWY_DIAGNOSTICS(push)
HWY_DIAGNOSTICS_OFF(disable : 4703, ignored "-Wmaybe-uninitialized")
#include <immintrin.h>
HWY_DIAGNOSTICS(pop)
#endif

namespace frugal {
namespace {

constexpr size_t kPartBlocks = 4;
constexpr size_t kScaleBytes = 2;
constexpr size_t kNibbleBytes = Q4Block::kBytes - kScaleBytes;
constexpr size_t kPartScaleBytes = kInterleavedRows * kPartBlocks * kScaleBytes;
constexpr size_t kPartBytes = kInterleavedRows * kPartBlocks * Q4Block::kBytes;
constexpr size_t kPartColumns = kPartBlocks * kQuantisedBlock;
constexpr size_t kMostRowBytes = kMostInterleavedColumns / kQuantisedBlock * Q4Block::kBytes;

constexpr size_t RowBytesOf(size_t columns) { return columns / kQuantisedBlock * Q4Block::kBytes; }

// Where row r's block b has its scale in its four rows' part.
constexpr size_t ScaleAt(size_t r, size_t b) { return (r * kPartBlocks + b) * kScaleBytes; }

// The nibbles of row r's block b go to and come from a part as the kernel of this processor wants them. VNNI adds products of four
// neighbours: a block is as in the file, behind the same block of the row before.
constexpr size_t NibblesAt(size_t r, size_t b) { return kPartScaleBytes + (b * kInterleavedRows + r) * kNibbleBytes; }

// AVX2 adds products of two neighbours and then two such sums: the byte of elements 4j and 4j + 2 stands before that of 4j + 1 and 4j + 3,
// a row's two blocks fill a vector, and in its halves j = 0 .. 3 and 4 .. 7 of the first block stand before those of the second.
constexpr size_t PairsAt(size_t r, size_t b, size_t half) {
  return kPartScaleBytes + ((b / 2 * kInterleavedRows + r) * 4 + half * 2 + b % 2) * (kNibbleBytes / 2);
}

void PlacePairs(const std::byte* nibbles, std::byte* part, size_t r, size_t b) {
  std::array<uint16_t, 4> low, high;
  for (size_t j = 0; j < low.size(); ++j) {
    uint32_t four;
    std::memcpy(&four, nibbles + 4 * j, sizeof(four));
    const uint32_t low_four = four & 0x0f0f0f0f, high_four = four >> 4 & 0x0f0f0f0f;
    low[j] = static_cast<uint16_t>(low_four | low_four >> 12);
    high[j] = static_cast<uint16_t>(high_four | high_four >> 12);
  }
  std::memcpy(part + PairsAt(r, b, 0), low.data(), sizeof(low));
  std::memcpy(part + PairsAt(r, b, 1), high.data(), sizeof(high));
}

void TakePairs(const std::byte* part, size_t r, size_t b, std::byte* nibbles) {
  std::array<uint16_t, 4> low, high;
  std::memcpy(low.data(), part + PairsAt(r, b, 0), sizeof(low));
  std::memcpy(high.data(), part + PairsAt(r, b, 1), sizeof(high));
  const auto four = [](uint32_t pairs) { return (pairs & 0x0f0f) | (pairs & 0xf0f0) << 12; };
  for (size_t j = 0; j < low.size(); ++j) {
    const uint32_t both = four(low[j]) | four(high[j]) << 4;
    std::memcpy(nibbles + 4 * j, &both, sizeof(both));
  }
}

}  // namespace

#if FRUGAL_HAVE_VNNI
HWY_PUSH_ATTRIBUTES(FRUGAL_VNNI_ATTRIBUTES)
namespace interleaved_vnni {
#include "src/kernels/fours_vnni-inl.h"

#include "src/kernels/interleaved_vnni-inl.h"

#include "src/kernels/interleaved_dots-inl.h"
}  // namespace interleaved_vnni
HWY_POP_ATTRIBUTES
#endif

#if FRUGAL_HAVE_AVX2
HWY_PUSH_ATTRIBUTES("avx2,fma,f16c")
namespace interleaved_avx2 {
#include "src/kernels/interleaved_avx2-inl.h"

#include "src/kernels/interleaved_dots-inl.h"
}  // namespace interleaved_avx2
HWY_POP_ATTRIBUTES
#endif

bool InterleavesRows(DType dtype, size_t columns) {
  return dtype == DType::kQ4_0 && columns % kPartColumns == 0 && columns <= kMostInterleavedColumns && UsesAvx2();
}

void InterleaveRows(std::byte* rows, size_t num_rows, size_t columns) {
  CHECK(columns % kPartColumns == 0 && columns <= kMostInterleavedColumns);
  const bool in_pairs = !UsesVnni();
  const size_t row_bytes = RowBytesOf(columns);
  std::array<std::byte, kInterleavedRows * kMostRowBytes> before;
  for (size_t first = 0; first + kInterleavedRows <= num_rows; first += kInterleavedRows) {
    std::byte* const four = rows + first * row_bytes;
    std::memcpy(before.data(), four, kInterleavedRows * row_bytes);
    for (size_t r = 0; r < kInterleavedRows; ++r) {
      for (size_t b = 0; b < columns / kQuantisedBlock; ++b) {
        const std::byte* const block = before.data() + r * row_bytes + b * Q4Block::kBytes;
        std::byte* const part = four + b / kPartBlocks * kPartBytes;
        std::memcpy(part + ScaleAt(r, b % kPartBlocks), block, kScaleBytes);
        if (in_pairs) {
          PlacePairs(block + kScaleBytes, part, r, b % kPartBlocks);
        } else {
          std::memcpy(part + NibblesAt(r, b % kPartBlocks), block + kScaleBytes, kNibbleBytes);
        }
      }
    }
  }
}

void CopyInterleavedRow(const std::byte* rows, size_t num_rows, size_t columns, size_t row, std::byte* out) {
  const size_t row_bytes = RowBytesOf(columns);
  if (row >= num_rows / kInterleavedRows * kInterleavedRows) {
    std::memcpy(out, rows + row * row_bytes, row_bytes);
    return;
  }
  const bool in_pairs = !UsesVnni();
  const std::byte* const four = rows + row / kInterleavedRows * kInterleavedRows * row_bytes;
  const size_t r = row % kInterleavedRows;
  for (size_t b = 0; b < columns / kQuantisedBlock; ++b) {
    const std::byte* const part = four + b / kPartBlocks * kPartBytes;
    std::byte* const block = out + b * Q4Block::kBytes;
    std::memcpy(block, part + ScaleAt(r, b % kPartBlocks), kScaleBytes);
    if (in_pairs) {
      TakePairs(part, r, b % kPartBlocks, block + kScaleBytes);
    } else {
      std::memcpy(block + kScaleBytes, part + NibblesAt(r, b % kPartBlocks), kNibbleBytes);
    }
  }
}

void DotInterleavedRows(const std::byte* rows, size_t num_rows, size_t begin, size_t end, size_t columns, const QuantisedInput& x,
                        size_t num_tokens, float* out, size_t out_stride) {
  CHECK(begin <= end && end <= num_rows && columns % kPartColumns == 0 && columns <= kMostInterleavedColumns);
  const size_t interleaved_end = std::clamp(num_rows / kInterleavedRows * kInterleavedRows, begin, end);
  if (begin < interleaved_end) {
    CHECK(UsesAvx2());
#if FRUGAL_HAVE_VNNI
    if (UsesVnni()) {
      interleaved_vnni::DotInterleaved(rows, begin, interleaved_end, columns, x, num_tokens, out, out_stride);
    } else
#endif
    {
#if FRUGAL_HAVE_AVX2
      interleaved_avx2::DotInterleaved(rows, begin, interleaved_end, columns, x, num_tokens, out, out_stride);
#endif
    }
  }
  if (interleaved_end == end) return;
  DotRowsQuantised(DType::kQ4_0, {rows, RowBytesOf(columns), nullptr}, interleaved_end, end, columns, x, num_tokens, out, out_stride);
}

}  // namespace frugal
