#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/kernels/token_panels.cc"
// The order is Highway's.
// clang-format off
#include "src/kernels/highway_targets.h"
#include <hwy/foreach_target.h>
#include <hwy/cache_control.h>
#include <hwy/highway.h>
// clang-format on

#include <algorithm>

#include "src/base/bytes.h"
#include "src/base/check.h"
#include "src/kernels/kernels.h"
#include "src/kernels/scalar.h"
#include "src/kernels/simd-inl.h"
#include "src/kernels/token_panels.h"

HWY_BEFORE_NAMESPACE();
namespace frugal::HWY_NAMESPACE {
#if !FRUGAL_SCALAR_TARGET

constexpr size_t kTileRows = kParts == 4 ? 6 : 12;  // x 2 vectors: 12 of AVX2's 16 registers, 24 of the others' 32
static_assert(kPanelRows % kTileRows == 0);
static_assert(kPanelTokens % (2 * kWidth) == 0);
constexpr size_t kLevels = 5;  // of the tree over 32 lanes
static_assert(size_t{1} << kLevels == kLanes);

// The tokens' panels, 8 MiB for 512 of 4096 columns, pass from the L3 cache for every 48 rows. The prefetchers follow them up to the end
// of a page, half of a lane of AVX-512's; so what lies a page ahead is asked for.
constexpr size_t kPrefetchFloats = 4096 / sizeof(float);

using FourTag = hn::CappedTag<float, 4>;
using Four = hn::Vec<FourTag>;

// Lanes lie in the order in which the tree takes them: l, l + 16, l + 8, l + 24, ...: the bits of the place reversed.
constexpr size_t PlaceOf(size_t lane) {
  return (lane & 1) << 4 | (lane & 2) << 2 | (lane & 4) | (lane & 8) >> 2 | (lane & 16) >> 4;
}

// A panel has kWidth tokens, or kTileRows rows: [lane, in the tree's order][group of 32 columns][token or row]. Behind each lane
// one group is left empty: the beginnings of the lanes, which are filled together, would share the sets of the L1 cache.
struct PanelShape {
  size_t groups;
  explicit PanelShape(size_t columns) : groups((columns + kLanes - 1) / kLanes) {}
  size_t token_lane_stride() const { return (groups + 1) * kWidth; }
  size_t row_lane_stride() const { return (groups + 1) * kTileRows; }
  size_t token_panel() const { return kLanes * token_lane_stride(); }
  size_t row_panel() const { return kLanes * row_lane_stride(); }
};

HWY_INLINE void Transpose(Four (&v)[4]) {
  const FourTag d;
  const Four ab_lower = hn::InterleaveLower(d, v[0], v[1]), ab_upper = hn::InterleaveUpper(d, v[0], v[1]);
  const Four cd_lower = hn::InterleaveLower(d, v[2], v[3]), cd_upper = hn::InterleaveUpper(d, v[2], v[3]);
  v[0] = hn::ConcatLowerLower(d, cd_lower, ab_lower);
  v[1] = hn::ConcatUpperUpper(d, cd_lower, ab_lower);
  v[2] = hn::ConcatLowerLower(d, cd_upper, ab_upper);
  v[3] = hn::ConcatUpperUpper(d, cd_upper, ab_upper);
}

// load(i, lane): lanes lane .. lane + 3 of item i of one group; to[place of the lane * stride + i].
template <size_t kItems, class LoadFour>
HWY_INLINE void FillGroup(const LoadFour& load, size_t lane_stride, float* to) {
  FRUGAL_UNROLL
  for (size_t lane = 0; lane < kLanes; lane += 4) {
    for (size_t i = 0; i + 4 <= kItems; i += 4) {
      Four v[4] = {load(i, lane), load(i + 1, lane), load(i + 2, lane), load(i + 3, lane)};
      Transpose(v);
      FRUGAL_UNROLL
      for (size_t j = 0; j < 4; ++j) hn::StoreU(v[j], FourTag(), to + PlaceOf(lane + j) * lane_stride + i);
    }
    for (size_t i = kItems / 4 * 4; i < kItems; ++i) {
      float values[4];
      hn::StoreU(load(i, lane), FourTag(), values);
      for (size_t j = 0; j < 4; ++j) to[PlaceOf(lane + j) * lane_stride + i] = values[j];
    }
  }
}

// Rows [first, first + count) as one panel; one that is not full has its last row again.
template <class Row>
HWY_NOINLINE void FillRowPanel(const RowSet& set, size_t first, size_t count, size_t columns, float* to) {
  const FourTag d;
  const PanelShape shape(columns);
  const std::byte* rows[kTileRows];
  for (size_t i = 0; i < kTileRows; ++i) rows[i] = set.row(first + std::min(i, count - 1));
  const size_t full = columns - columns % kLanes;
  for (size_t k = 0; k < full; k += kLanes, to += kTileRows) {
    FillGroup<kTileRows>([&](size_t i, size_t lane) HWY_ATTR { return Row::Load(d, rows[i], k + lane); }, shape.row_lane_stride(), to);
  }
  if (full == columns) return;
  RowTail<Row> tails[kTileRows];
  for (size_t i = 0; i < kTileRows; ++i) tails[i].Fill(rows[i], full, columns);
  FillGroup<kTileRows>([&](size_t i, size_t lane) HWY_ATTR { return Row::Load(d, tails[i].bytes, lane); }, shape.row_lane_stride(), to);
}

void FillTokenPanels(const float* x, size_t x_stride, size_t first, size_t count, size_t columns, float* panels) {
  const FourTag d;
  const PanelShape shape(columns);
  const size_t full = columns - columns % kLanes;
  for (size_t t = 0; t < count; t += kWidth) {
    const float* tokens[kWidth];
    for (size_t i = 0; i < kWidth; ++i) tokens[i] = x + (first + std::min(t + i, count - 1)) * x_stride;
    float* to = panels + (first + t) / kWidth * shape.token_panel();
    for (size_t k = 0; k < full; k += kLanes, to += kWidth) {
      FillGroup<kWidth>([&](size_t i, size_t lane) HWY_ATTR { return hn::LoadU(d, tokens[i] + k + lane); }, shape.token_lane_stride(), to);
    }
    if (full == columns) continue;
    TokenTail tails[kWidth];
    for (size_t i = 0; i < kWidth; ++i) tails[i].Fill(tokens[i], full, columns);
    FillGroup<kWidth>([&](size_t i, size_t lane) HWY_ATTR { return hn::Load(d, tails[i].values + lane); }, shape.token_lane_stride(), to);
  }
}

// sums[row][token]: dot products of a panel of rows with kVectors panels of tokens.
template <size_t kVectors>
HWY_NOINLINE void AddTile(const PanelShape& shape, const float* weights, const float* tokens, float (&sums)[kTileRows][kVectors][kWidth]) {
  const FloatTag d;
  alignas(64) float pending[kLevels][kTileRows][kVectors][kWidth];
  FloatVector acc[kTileRows][kVectors];
  const size_t panel = shape.token_panel();
  for (size_t place = 0; place < kLanes; ++place) {
    FRUGAL_UNROLL
    for (size_t i = 0; i < kTileRows * kVectors; ++i) acc[i / kVectors][i % kVectors] = hn::Zero(d);
    const float* w = weights + place * shape.row_lane_stride();
    const float* x = tokens + place * shape.token_lane_stride();
    for (size_t group = 0; group < shape.groups; ++group, w += kTileRows, x += kWidth) {
      FloatVector xv[kVectors];
      FRUGAL_UNROLL
      for (size_t v = 0; v < kVectors; ++v) {
        xv[v] = hn::Load(d, x + v * panel);
        hwy::Prefetch(x + v * panel + kPrefetchFloats);
      }
      FRUGAL_UNROLL
      for (size_t i = 0; i < kTileRows; ++i) {
        const FloatVector wi = hn::Set(d, w[i]);
        FRUGAL_UNROLL
        for (size_t v = 0; v < kVectors; ++v) acc[i][v] = hn::MulAdd(wi, xv[v], acc[i][v]);
      }
    }
    size_t level = 0;
    for (; (place >> level & 1) != 0; ++level) {
      FRUGAL_UNROLL
      for (size_t i = 0; i < kTileRows * kVectors; ++i) {
        FloatVector& a = acc[i / kVectors][i % kVectors];
        a = hn::Add(hn::Load(d, pending[level][i / kVectors][i % kVectors]), a);
      }
    }
    float (&to)[kTileRows][kVectors][kWidth] = level < kLevels ? pending[level] : sums;
    FRUGAL_UNROLL
    for (size_t i = 0; i < kTileRows * kVectors; ++i) hn::Store(acc[i / kVectors][i % kVectors], d, to[i / kVectors][i % kVectors]);
  }
}

template <size_t kVectors>
HWY_INLINE void DotTile(const PanelShape& shape, const float* weights, const float* tokens, size_t num_rows, size_t num_tokens, float* out,
                        size_t out_stride) {
  alignas(64) float sums[kTileRows][kVectors][kWidth];
  AddTile<kVectors>(shape, weights, tokens, sums);
  for (size_t t = 0; t < num_tokens; ++t) {
    for (size_t i = 0; i < num_rows; ++i) out[t * out_stride + i] = sums[i][t / kWidth][t % kWidth];
  }
}

template <class Row>
void DotRowsOf(const RowSet& rows, size_t begin, size_t end, size_t columns, const float* panels, size_t num_tokens, float* scratch,
               float* out, size_t out_stride) {
  const PanelShape shape(columns);
  for (size_t first = begin; first < end; first += kPanelRows) {
    const size_t last = std::min(end, first + kPanelRows);
    float* to = scratch;
    for (size_t row = first; row < last; row += kTileRows, to += shape.row_panel()) {
      FillRowPanel<Row>(rows, row, std::min(kTileRows, last - row), columns, to);
    }
    for (size_t t = 0; t < num_tokens; t += 2 * kWidth) {
      const float* tokens = panels + t / kWidth * shape.token_panel();
      const float* weights = scratch;
      for (size_t row = first; row < last; row += kTileRows, weights += shape.row_panel()) {
        const size_t num_rows = std::min(kTileRows, last - row);
        float* const to_out = out + t * out_stride + row;
        if (num_tokens - t > kWidth) {
          DotTile<2>(shape, weights, tokens, num_rows, std::min(2 * kWidth, num_tokens - t), to_out, out_stride);
        } else {
          DotTile<1>(shape, weights, tokens, num_rows, num_tokens - t, to_out, out_stride);
        }
      }
    }
  }
}

void DotRowsOfPanels(DType dtype, const RowSet& rows, size_t begin, size_t end, size_t columns, const float* panels, size_t num_tokens,
                     float* scratch, float* out, size_t out_stride) {
  WithFloatRow(dtype, [&](auto row) HWY_ATTR {
    DotRowsOf<decltype(row)>(rows, begin, end, columns, panels, num_tokens, scratch, out, out_stride);
  });
}

#else
// The tokens one after the other.
void FillTokenPanels(const float* x, size_t x_stride, size_t first, size_t count, size_t columns, float* panels) {
  for (size_t t = first; t < first + count; ++t) std::copy_n(x + t * x_stride, columns, panels + t * columns);
}

void DotRowsOfPanels(DType dtype, const RowSet& rows, size_t begin, size_t end, size_t columns, const float* panels, size_t num_tokens,
                     float*, float* out, size_t out_stride) {
  scalar::DotRows(dtype, rows, begin, end, columns, panels, columns, num_tokens, out, out_stride);
}
#endif  // !FRUGAL_SCALAR_TARGET
}  // namespace frugal::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace frugal {
namespace {

constexpr size_t kMostWidth = 16;  // tokens of a panel

}  // namespace

HWY_EXPORT(FillTokenPanels);
HWY_EXPORT(DotRowsOfPanels);

// With the group that each lane leaves empty.
size_t TokenPanelFloats(size_t num_tokens, size_t columns) {
  return RoundUp(num_tokens, kMostWidth) * (RoundUp(columns, scalar::kLanes) + scalar::kLanes);
}

size_t PanelScratchFloats(size_t columns) { return kPanelRows * (RoundUp(columns, scalar::kLanes) + scalar::kLanes); }

void FillTokenPanels(const float* x, size_t x_stride, size_t first, size_t count, size_t columns, float* panels) {
  HWY_DYNAMIC_DISPATCH(FillTokenPanels)(x, x_stride, first, count, columns, panels);
}

void DotRowsOfPanels(DType dtype, const RowSet& rows, size_t begin, size_t end, size_t columns, const float* panels, size_t num_tokens,
                     float* scratch, float* out, size_t out_stride) {
  HWY_DYNAMIC_DISPATCH(DotRowsOfPanels)(dtype, rows, begin, end, columns, panels, num_tokens, scratch, out, out_stride);
}

}  // namespace frugal
#endif  // HWY_ONCE
