#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/kernels/dot_rows.cc"
// The order is Highway's.
// clang-format off
#include "src/kernels/highway_targets.h"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

#include "src/base/check.h"
#include "src/kernels/kernels.h"
#include "src/kernels/scalar.h"
#include "src/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace frugal::HWY_NAMESPACE {
#if !FRUGAL_SCALAR_TARGET

// A register tile has rows x tokens x kParts accumulators; AVX2 has 16 registers, AVX-512 and NEON 32.
constexpr size_t kRowsOfOneToken = kParts == 2 ? 4 : 2;
constexpr size_t kTokensOfOneRow = kParts == 2 ? 8 : 3;

// The last columns, fewer than 32, copied behind each other and padded so that a step with the padding
// changes no lane: weights with +0, x with -0: their product is -0, and acc + -0 is acc, whatever its sign.
template <class Row>
struct RowTail {
  alignas(64) std::byte bytes[Row::kGroupBytes];
  void Fill(const std::byte* row, size_t full, size_t columns) {
    std::memset(bytes, 0, sizeof(bytes));
    std::memcpy(bytes, row + Row::Offset(full), Row::Offset(columns) - Row::Offset(full));
  }
};

struct TokenTail {
  alignas(64) float values[kLanes];
  void Fill(const float* x, size_t full, size_t columns) {
    for (float& value : values) value = -0.0f;
    std::memcpy(values, x + full, (columns - full) * sizeof(float));
  }
};

template <class Row, size_t kRows, size_t kTokens>
HWY_INLINE void Step(FloatVector (&acc)[kRows][kTokens][kParts], const std::byte* const (&rows)[kRows],
                     const float* const (&x)[kTokens], size_t k) {
  const FloatTag d;
  FRUGAL_UNROLL
  for (size_t p = 0; p < kParts; ++p) {
    FRUGAL_UNROLL
    for (size_t i = 0; i < kRows; ++i) {
      const FloatVector w = Row::Load(d, rows[i], k + p * kWidth);
      FRUGAL_UNROLL
      for (size_t t = 0; t < kTokens; ++t) {
        acc[i][t][p] = hn::MulAdd(w, hn::LoadU(d, x[t] + k + p * kWidth), acc[i][t][p]);
      }
    }
  }
}

template <class Row, size_t kRows, size_t kTokens>
HWY_INLINE void Tile(const RowSet& set, size_t row, size_t columns, const float* x, size_t x_stride,
                     float* out, size_t out_stride) {
  const std::byte* rows[kRows];
  const float* tokens[kTokens];
  for (size_t i = 0; i < kRows; ++i) rows[i] = set.row(row + i);
  for (size_t t = 0; t < kTokens; ++t) tokens[t] = x + t * x_stride;
  FloatVector acc[kRows][kTokens][kParts];
  FRUGAL_UNROLL
  for (size_t i = 0; i < kRows * kTokens * kParts; ++i) {
    acc[i / (kTokens * kParts)][i / kParts % kTokens][i % kParts] = hn::Zero(FloatTag());
  }
  const size_t full = columns - columns % kLanes;
  for (size_t k = 0; k < full; k += kLanes) Step<Row, kRows, kTokens>(acc, rows, tokens, k);
  if (full < columns) {
    RowTail<Row> row_tails[kRows];
    TokenTail token_tails[kTokens];
    for (size_t i = 0; i < kRows; ++i) {
      row_tails[i].Fill(rows[i], full, columns);
      rows[i] = row_tails[i].bytes;
    }
    for (size_t t = 0; t < kTokens; ++t) {
      token_tails[t].Fill(tokens[t], full, columns);
      tokens[t] = token_tails[t].values;
    }
    Step<Row, kRows, kTokens>(acc, rows, tokens, 0);
  }
  FRUGAL_UNROLL
  for (size_t i = 0; i < kRows; ++i) {
    FRUGAL_UNROLL
    for (size_t t = 0; t < kTokens; ++t) out[t * out_stride + row + i] = SumLanes(acc[i][t]);
  }
}

template <class Row>
void DotRowsOf(const RowSet& rows, size_t begin, size_t end, size_t columns, const float* x, size_t x_stride,
               size_t num_tokens, float* out, size_t out_stride) {
  for (size_t i = begin; i < end;) {
    size_t t = 0;
    for (; t + kTokensOfOneRow <= num_tokens; t += kTokensOfOneRow) {
      Tile<Row, 1, kTokensOfOneRow>(rows, i, columns, x + t * x_stride, x_stride, out + t * out_stride,
                                    out_stride);
    }
    const bool many = end - i >= kRowsOfOneToken && num_tokens == 1;
    for (; t < num_tokens; ++t) {
      if (many) {
        Tile<Row, kRowsOfOneToken, 1>(rows, i, columns, x + t * x_stride, x_stride, out + t * out_stride,
                                      out_stride);
      } else {
        Tile<Row, 1, 1>(rows, i, columns, x + t * x_stride, x_stride, out + t * out_stride, out_stride);
      }
    }
    i += many ? kRowsOfOneToken : 1;
  }
}

void DotRows(DType dtype, const RowSet& rows, size_t begin, size_t end, size_t columns, const float* x,
             size_t x_stride, size_t num_tokens, float* out, size_t out_stride) {
  switch (dtype) {
    case DType::kF32:
      return DotRowsOf<F32Row>(rows, begin, end, columns, x, x_stride, num_tokens, out, out_stride);
    case DType::kF16:
      return DotRowsOf<F16Row>(rows, begin, end, columns, x, x_stride, num_tokens, out, out_stride);
    case DType::kBF16:
      return DotRowsOf<BF16Row>(rows, begin, end, columns, x, x_stride, num_tokens, out, out_stride);
    case DType::kQ8_0:
      return DotRowsOf<Q8Row>(rows, begin, end, columns, x, x_stride, num_tokens, out, out_stride);
    default:
      CHECK(false);
  }
}

#else
using scalar::DotRows;
#endif  // !FRUGAL_SCALAR_TARGET
}  // namespace frugal::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace frugal {

HWY_EXPORT(DotRows);

void DotRows(DType dtype, const RowSet& rows, size_t begin, size_t end, size_t columns, const float* x,
             size_t x_stride, size_t num_tokens, float* out, size_t out_stride) {
  CHECK(dtype != DType::kQ8_0 || columns % scalar::kLanes == 0);
  HWY_DYNAMIC_DISPATCH(DotRows)(dtype, rows, begin, end, columns, x, x_stride, num_tokens, out, out_stride);
}

}  // namespace frugal
#endif  // HWY_ONCE
