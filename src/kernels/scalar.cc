#include "src/kernels/scalar.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "src/base/check.h"
#include "src/kernels/block_formats.h"
#include "src/kernels/exp_constants.h"
#include "src/tensor/half.h"

namespace frugal::scalar {
namespace {

constexpr size_t kBlock = kQuantisedBlock;
constexpr size_t kQ8Bytes = 34;  // F16 scale, 32 int8
constexpr size_t kQ4Bytes = 18;  // F16 scale, 16 bytes of two elements

uint16_t LoadU16(const std::byte* from) {
  uint16_t bits;
  std::memcpy(&bits, from, sizeof(bits));
  return bits;
}

const std::byte* BlockOf(DType dtype, const std::byte* row, size_t k) {
  return row + k / kBlock * (dtype == DType::kQ8_0 ? kQ8Bytes : kQ4Bytes);
}

float ScaleOf(DType dtype, const std::byte* row, size_t k) {
  return HalfToFloat(LoadU16(BlockOf(dtype, row, k)));
}

int32_t QuantOf(DType dtype, const std::byte* row, size_t k) {
  const std::byte* const quants = BlockOf(dtype, row, k) + 2;
  const size_t i = k % kBlock;
  if (dtype == DType::kQ8_0) return static_cast<int8_t>(quants[i]);
  const uint32_t pair = std::to_integer<uint32_t>(quants[i % 16]);
  return static_cast<int32_t>(i < 16 ? pair & 15 : pair >> 4) - 8;
}

float Element(DType dtype, const std::byte* row, size_t k) {
  switch (dtype) {
    case DType::kF32: {
      float value;
      std::memcpy(&value, row + 4 * k, sizeof(value));
      return value;
    }
    case DType::kF16:
      return HalfToFloat(LoadU16(row + 2 * k));
    case DType::kBF16:
      return Bf16ToFloat(LoadU16(row + 2 * k));
    case DType::kQ8_0:
    case DType::kQ4_0:
      return static_cast<float>(QuantOf(dtype, row, k)) * ScaleOf(dtype, row, k);
    default:
      CHECK(false);
  }
}

// 32 elements of a quantised row: element i is quants[i] * scales[i / 16], plus mins[i / 16] where the type has minima.
struct Part {
  std::array<int32_t, kPartElements> quants;
  std::array<float, 2> scales;
  std::array<float, 2> mins;
  bool has_mins = false;
};

template <class Format>
Part ReadPart(const std::byte* row, size_t k) {
  const std::byte* const block = row + k / Format::kElements * Format::kBytes;
  const size_t first = k % Format::kElements;
  const float d = HalfToFloat(LoadU16(block + Format::kScaleAt));
  const float m = Format::kHasMins ? HalfToFloat(LoadU16(block + Format::kMinAt)) : 0.0f;
  EightBytes quants[4];
  Format::Quants(block, first / kPartElements, quants);
  Part part;
  part.has_mins = Format::kHasMins;
  for (size_t i = 0; i < kPartElements; ++i) {
    const uint8_t stored = static_cast<uint8_t>(quants[i / 8] >> (i % 8 * 8));
    part.quants[i] = (Format::kSigned ? static_cast<int8_t>(stored) : stored) - Format::kOffset;
  }
  part.scales.fill(d);
  part.mins.fill(m);
  if constexpr (Format::kElements > kPartElements) {
    EightBytes scales[2], mins[2] = {};
    Format::Groups(block, scales, mins);
    for (size_t half = 0; half < 2; ++half) {
      const size_t group = (first + half * kPartElements / 2) / Format::kGroupElements;
      part.scales[half] = d * static_cast<float>(static_cast<int8_t>(scales[group / 8] >> (group % 8 * 8)));
      part.mins[half] = -m * static_cast<float>(static_cast<int8_t>(mins[group / 8] >> (group % 8 * 8)));
    }
  }
  return part;
}

// Elements k .. k + 31.
Part ReadPart(DType dtype, const std::byte* row, size_t k) {
  Part part;
  if (HasBlockFormat(dtype)) {
    WithBlockFormat(dtype, [&](auto format) { part = ReadPart<decltype(format)>(row, k); });
    return part;
  }
  for (size_t i = 0; i < kPartElements; ++i) part.quants[i] = QuantOf(dtype, row, k + i);
  part.scales.fill(ScaleOf(dtype, row, k));
  return part;
}

// Elements k .. k + count - 1 as float; at most 32, of a quantised row just those of one part.
void LoadWeights(DType dtype, const std::byte* row, size_t k, size_t count, float* w) {
  if (!HasBlockFormat(dtype)) {
    for (size_t i = 0; i < count; ++i) w[i] = Element(dtype, row, k + i);
    return;
  }
  const Part part = ReadPart(dtype, row, k);
  for (size_t i = 0; i < count; ++i) {
    w[i] = static_cast<float>(part.quants[i]) * part.scales[i / 16];
    if (part.has_mins) w[i] += part.mins[i / 16];
  }
}

class LaneSum {
 public:
  float& lane(size_t k) { return lanes_[k % kLanes]; }
  float Total() {
    for (size_t s = kLanes / 2; s > 0; s /= 2) {
      for (size_t i = 0; i < s; ++i) lanes_[i] += lanes_[i + s];
    }
    return lanes_[0];
  }

 private:
  std::array<float, kLanes> lanes_{};
};

float ExpOf(float x) {
  using namespace exp_constants;
  const float shifted = std::fma(x, kInverseLn2, kRound);
  const float n = shifted - kRound;
  float r = std::fma(n, -kLn2High, x);
  r = std::fma(n, -kLn2Low, r);
  float p = kTaylor[0];
  for (size_t i = 1; i < std::size(kTaylor); ++i) p = std::fma(p, r, kTaylor[i]);
  if (x < kLowest) return 0.0f;
  if (x >= kHighest) return std::numeric_limits<float>::infinity();
  if (std::isnan(x)) return x;
  const int32_t power = std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(kRound);
  const int32_t half = power >> 1;
  const float scale_1 = std::bit_cast<float>((half + 127) << 23);
  const float scale_2 = std::bit_cast<float>((power - half + 127) << 23);
  return p * scale_1 * scale_2;
}

// As llama.cpp quantises Q8_0: the scale is the largest magnitude / 127, a weight times its inverse is
// rounded half away from zero. A block with an infinity or NaN becomes all NaN, so that it is seen when it is
// used.
void QuantiseQ8Block(const float* from, std::byte* to) {
  float largest = 0.0f;
  bool finite = true;
  for (size_t i = 0; i < kBlock; ++i) {
    finite = finite && std::isfinite(from[i]);
    largest = std::fabs(from[i]) > largest ? std::fabs(from[i]) : largest;
  }
  const float scale = largest / 127.0f;
  // A denormal scale has no finite inverse; its F16 is 0 anyway, so zeros are the nearest block.
  const float inverse = scale >= std::numeric_limits<float>::min() ? 1.0f / scale : 0.0f;
  const uint16_t scale_bits = finite ? FloatToHalf(scale) : uint16_t{0x7e00};
  std::memcpy(to, &scale_bits, sizeof(scale_bits));
  for (size_t i = 0; i < kBlock; ++i) {
    const float q = finite ? std::round(from[i] * inverse) : 0.0f;
    to[2 + i] = static_cast<std::byte>(static_cast<int8_t>(q));
  }
}

// As llama.cpp quantises Q4_0: the scale maps the element of the largest magnitude (the first of them), with
// its sign, to -8; the others are rounded half up and cut at 7. Not finite: as in Q8_0.
void QuantiseQ4Block(const float* from, std::byte* to) {
  float largest = 0.0f;
  float extreme = 0.0f;
  bool finite = true;
  for (size_t i = 0; i < kBlock; ++i) {
    finite = finite && std::isfinite(from[i]);
    if (largest < std::fabs(from[i])) {
      largest = std::fabs(from[i]);
      extreme = from[i];
    }
  }
  const float scale = extreme / -8.0f;
  const float inverse = std::fabs(scale) >= std::numeric_limits<float>::min() ? 1.0f / scale : 0.0f;
  const uint16_t scale_bits = finite ? FloatToHalf(scale) : uint16_t{0x7e00};
  std::memcpy(to, &scale_bits, sizeof(scale_bits));
  const auto quant = [&](size_t i) -> uint32_t {
    if (!finite) return 8;
    return std::min<uint32_t>(15, static_cast<uint8_t>(from[i] * inverse + 8.5f));
  };
  for (size_t i = 0; i < kBlock / 2; ++i) {
    to[2 + i] = static_cast<std::byte>(quant(i) | quant(i + kBlock / 2) << 4);
  }
}

}  // namespace

void DotRows(DType dtype, const RowSet& rows, size_t begin, size_t end, size_t columns, const float* x,
             size_t x_stride, size_t num_tokens, float* out, size_t out_stride) {
  for (size_t t = 0; t < num_tokens; ++t) {
    for (size_t i = begin; i < end; ++i) {
      LaneSum sum;
      for (size_t k = 0; k < columns; k += kLanes) {
        float w[kLanes];
        const size_t count = std::min(kLanes, columns - k);
        LoadWeights(dtype, rows.row(i), k, count, w);
        for (size_t j = 0; j < count; ++j) sum.lane(j) = std::fma(w[j], x[t * x_stride + k + j], sum.lane(j));
      }
      out[t * out_stride + i] = sum.Total();
    }
  }
}

void AddScaledRows(DType dtype, const RowSet& rows, size_t num_rows, const float* a, size_t column_begin,
                   size_t column_end, float* out) {
  CHECK(IsWeightType(dtype));
  for (size_t i = 0; i < num_rows; ++i) {
    if (a[i] == 0.0f) continue;
    if (IsQuantised(dtype) && !HasBlockFormat(dtype)) {
      for (size_t c = column_begin; c < column_end; ++c) {
        const float scale = a[i] * ScaleOf(dtype, rows.row(i), c);
        out[c] = std::fma(scale, static_cast<float>(QuantOf(dtype, rows.row(i), c)), out[c]);
      }
      continue;
    }
    for (size_t c = column_begin; c < column_end; c += kPartElements) {
      float w[kPartElements];
      const size_t count = std::min(kPartElements, column_end - c);
      LoadWeights(dtype, rows.row(i), c, count, w);
      for (size_t j = 0; j < count; ++j) out[c + j] = std::fma(a[i], w[j], out[c + j]);
    }
  }
}

void LayerNorm(const float* x, const float* weight, const float* bias, float epsilon, size_t size, float* y) {
  LaneSum sum;
  for (size_t i = 0; i < size; ++i) sum.lane(i) += x[i];
  const float mean = sum.Total() / static_cast<float>(size);
  LaneSum squares;
  for (size_t i = 0; i < size; ++i) {
    const float difference = x[i] - mean;
    squares.lane(i) += difference * difference;
  }
  const float variance = squares.Total() / static_cast<float>(size);
  const float inverse = 1.0f / std::sqrt(variance + epsilon);
  for (size_t i = 0; i < size; ++i) y[i] = std::fma((x[i] - mean) * inverse, weight[i], bias[i]);
}

void Softmax(float* x, size_t size) {
  float largest = -std::numeric_limits<float>::infinity();
  for (size_t i = 0; i < size; ++i) largest = x[i] > largest ? x[i] : largest;
  LaneSum sum;
  for (size_t i = 0; i < size; ++i) {
    x[i] = ExpOf(x[i] - largest);
    sum.lane(i) += x[i];
  }
  const float total = sum.Total();
  for (size_t i = 0; i < size; ++i) x[i] = x[i] / total;
}

void AddBiasRelu(float* x, const float* bias, size_t size) {
  for (size_t i = 0; i < size; ++i) {
    const float value = bias != nullptr ? x[i] + bias[i] : x[i];
    x[i] = value <= 0.0f ? 0.0f : value;
  }
}

void Add(float* x, const float* y, size_t size) {
  for (size_t i = 0; i < size; ++i) x[i] += y[i];
}

void Scale(float* x, float scale, size_t size) {
  for (size_t i = 0; i < size; ++i) x[i] *= scale;
}

void ConvertToFloat(DType dtype, const std::byte* from, size_t size, float* to) {
  for (size_t i = 0; i < size; i += kPartElements) LoadWeights(dtype, from, i, std::min(kPartElements, size - i), to + i);
}

void ConvertFromFloat(DType dtype, const float* from, size_t size, std::byte* to) {
  if (dtype == DType::kQ8_0) {
    CHECK(size % kBlock == 0);
    for (size_t i = 0; i < size; i += kBlock) QuantiseQ8Block(from + i, to + i / kBlock * kQ8Bytes);
    return;
  }
  if (dtype == DType::kQ4_0) {
    CHECK(size % kBlock == 0);
    for (size_t i = 0; i < size; i += kBlock) QuantiseQ4Block(from + i, to + i / kBlock * kQ4Bytes);
    return;
  }
  CHECK(IsFloat(dtype));
  if (dtype == DType::kF32) {
    if (size > 0) std::memcpy(to, from, size * sizeof(float));
    return;
  }
  for (size_t i = 0; i < size; ++i) {
    const uint16_t bits = dtype == DType::kF16 ? FloatToHalf(from[i]) : FloatToBf16(from[i]);
    std::memcpy(to + 2 * i, &bits, sizeof(bits));
  }
}

bool AllFinite(const float* x, size_t size) {
  for (size_t i = 0; i < size; ++i) {
    if (!std::isfinite(x[i])) return false;
  }
  return true;
}

void QuantiseInput(const float* x, size_t size, int8_t* q, float* scales) {
  for (size_t begin = 0; begin < size; begin += kBlock) {
    float largest = 0.0f;
    for (size_t i = begin; i < begin + kBlock; ++i) largest = std::max(largest, std::fabs(x[i]));
    const bool finite = AllFinite(x + begin, kBlock);
    const float scale = largest / 127.0f;
    const float inverse = scale >= std::numeric_limits<float>::min() ? 1.0f / scale : 0.0f;
    scales[begin / kBlock] = finite ? scale : std::numeric_limits<float>::quiet_NaN();
    for (size_t i = begin; i < begin + kBlock; ++i) {
      q[i] = finite ? static_cast<int8_t>(std::nearbyint(x[i] * inverse)) : int8_t{0};
    }
  }
}

void DotRowsQuantised(DType dtype, const RowSet& rows, size_t begin, size_t end, size_t columns,
                      const QuantisedInput& x, size_t num_tokens, float* out, size_t out_stride) {
  CHECK(IsQuantised(dtype) && columns % TraitsOf(dtype).block_elements == 0);
  for (size_t t = 0; t < num_tokens; ++t) {
    const int8_t* const q = x.q + t * columns;
    const float* const scales = x.scales + t * (columns / kBlock);
    for (size_t i = begin; i < end; ++i) {
      const std::byte* const row = rows.row(i);
      std::array<float, kQuantisedLanes> acc{};
      for (size_t k = 0; k < columns; k += kBlock) {
        const Part part = ReadPart(dtype, row, k);
        const float x_scale = scales[k / kBlock];
        for (size_t j = 0; j < kQuantisedLanes; ++j) {
          int32_t sum = 0, sum_of_x = 0;
          for (size_t e = 4 * j; e < 4 * j + 4; ++e) {
            sum += part.quants[e] * q[k + e];
            sum_of_x += q[k + e];
          }
          acc[j] = std::fma(static_cast<float>(sum), part.scales[j / 4] * x_scale, acc[j]);
          if (part.has_mins) acc[j] = std::fma(static_cast<float>(sum_of_x), part.mins[j / 4] * x_scale, acc[j]);
        }
      }
      for (size_t s = kQuantisedLanes / 2; s > 0; s /= 2) {
        for (size_t j = 0; j < s; ++j) acc[j] += acc[j + s];
      }
      out[t * out_stride + i] = acc[0];
    }
  }
}

void MatMulTransposedF32(const float* a, const float* b, float* c, size_t m, size_t n, size_t k) {
  for (size_t l = 0; l < k; ++l) {
    for (size_t i = 0; i < m; ++i) {
      for (size_t j = 0; j < n; ++j) c[i * n + j] = std::fma(a[l * m + i], b[l * n + j], c[i * n + j]);
    }
  }
}

void MatMulNN(const float* a, const float* b, float* c, size_t m, size_t n, size_t k) {
  for (size_t i = 0; i < m; ++i) {
    for (size_t j = 0; j < n; ++j) c[i * n + j] = 0.0f;
    for (size_t l = 0; l < k; ++l) {
      for (size_t j = 0; j < n; ++j) c[i * n + j] = std::fma(a[i * k + l], b[l * n + j], c[i * n + j]);
    }
  }
}

void Exp(float* x, size_t size) {
  for (size_t i = 0; i < size; ++i) x[i] = ExpOf(x[i]);
}

void Sigmoid(float* x, size_t size) {
  for (size_t i = 0; i < size; ++i) x[i] = 1.0f / (1.0f + ExpOf(-x[i]));
}

}  // namespace frugal::scalar
