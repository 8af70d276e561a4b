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

// Where row r's block b has its scale and its nibbles in its four rows' parts.
constexpr size_t ScaleAt(size_t r, size_t b) {
  return b / kPartBlocks * kPartBytes + (r * kPartBlocks + b % kPartBlocks) * kScaleBytes;
}
constexpr size_t NibblesAt(size_t r, size_t b) {
  return b / kPartBlocks * kPartBytes + kPartScaleBytes + (b % kPartBlocks * kInterleavedRows + r) * kNibbleBytes;
}

}  // namespace

#if FRUGAL_HAVE_VNNI
HWY_PUSH_ATTRIBUTES(FRUGAL_VNNI_ATTRIBUTES)
namespace interleaved_vnni {
#define FRUGAL_DPBUSD _mm512_dpbusd_epi32
#include "src/kernels/interleaved_x86-inl.h"
#undef FRUGAL_DPBUSD
}  // namespace interleaved_vnni
HWY_POP_ATTRIBUTES
#endif

#if FRUGAL_HAVE_AVX2
HWY_PUSH_ATTRIBUTES("avx2,fma,f16c")
namespace interleaved_avx2 {
#include "src/kernels/interleaved_x86-inl.h"
}  // namespace interleaved_avx2
HWY_POP_ATTRIBUTES
#endif

bool InterleavesRows(DType dtype, size_t columns) {
  return dtype == DType::kQ4_0 && columns % kPartColumns == 0 && columns <= kMostInterleavedColumns && UsesAvx2();
}

void InterleaveRows(std::byte* rows, size_t num_rows, size_t columns) {
  CHECK(columns % kPartColumns == 0 && columns <= kMostInterleavedColumns);
  const size_t row_bytes = RowBytesOf(columns);
  std::array<std::byte, kInterleavedRows * kMostRowBytes> before;
  for (size_t first = 0; first + kInterleavedRows <= num_rows; first += kInterleavedRows) {
    std::byte* const four = rows + first * row_bytes;
    std::memcpy(before.data(), four, kInterleavedRows * row_bytes);
    for (size_t r = 0; r < kInterleavedRows; ++r) {
      for (size_t b = 0; b < columns / kQuantisedBlock; ++b) {
        const std::byte* const block = before.data() + r * row_bytes + b * Q4Block::kBytes;
        std::memcpy(four + ScaleAt(r, b), block, kScaleBytes);
        std::memcpy(four + NibblesAt(r, b), block + kScaleBytes, kNibbleBytes);
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
  const std::byte* const four = rows + row / kInterleavedRows * kInterleavedRows * row_bytes;
  for (size_t b = 0; b < columns / kQuantisedBlock; ++b) {
    std::memcpy(out + b * Q4Block::kBytes, four + ScaleAt(row % kInterleavedRows, b), kScaleBytes);
    std::memcpy(out + b * Q4Block::kBytes + kScaleBytes, four + NibblesAt(row % kInterleavedRows, b), kNibbleBytes);
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
