#include "src/pack/bundle_panel.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "src/base/bytes.h"
#include "src/base/check.h"
#include "src/kernels/elements.h"

namespace frugal {
namespace {

constexpr uint32_t kElsewhere = UINT32_MAX;

// A tile is copied together before it is transposed: its rows lie a power of two apart in fc2, so that they
// would evict each other from the first-level cache.
constexpr uint64_t kTileRows = 64;
constexpr uint64_t kTileRowBytes = 64;

}  // namespace

Result<BundlePanel> BundlePanel::Create(const PackPlan& plan, uint64_t ffn_size, uint64_t panel_positions,
                                        StagedReader& reader) {
  BundlePanel panel(plan, reader);
  FRUGAL_ASSIGN(panel.panel_, AlignedBuffer::Allocate(panel_positions * plan.stride_bytes));
  FRUGAL_ASSIGN(panel.wide_, AlignedBuffer::Allocate(panel_positions * plan.wide_down_bytes));
  panel.slot_of_.resize(ffn_size);
  return panel;
}

Result<std::span<const std::byte>> BundlePanel::Build(const PlannedTensor& layer,
                                                      std::span<const uint32_t> order, uint64_t first,
                                                      uint64_t count, OnPiece on_piece) {
  CHECK(count > 0 && first + count <= order.size() && count * plan_.stride_bytes <= panel_.size_bytes());
  const std::span<const uint32_t> neurons = order.subspan(first, count);
  std::fill(slot_of_.begin(), slot_of_.end(), kElsewhere);
  for (uint64_t i = 0; i < count; ++i) slot_of_[neurons[i]] = static_cast<uint32_t>(i);
  const auto [lowest, highest] = std::minmax_element(neurons.begin(), neurons.end());
  begin_ = *lowest;
  end_ = uint64_t{*highest} + 1;
  // Rows fill the same bytes every time; what is behind them in a bundle stays zero from the allocation.
  if (layer.gate != nullptr) FRUGAL_TRY(AddRows(*layer.gate, *plan_.gate_type, 0, on_piece));
  FRUGAL_TRY(AddRows(*layer.source, plan_.up_type, plan_.up_offset_bytes, on_piece));
  FRUGAL_TRY(AddDownColumns(*layer.down, on_piece));
  if (plan_.wide_down_bytes > 0) FRUGAL_TRY(ConvertDownRows(*layer.down, count));
  return std::span<const std::byte>(panel_.data(), count * plan_.stride_bytes);
}

Status BundlePanel::AddRows(const TensorInfo& source, DType dtype, uint64_t offset_bytes, OnPiece on_piece) {
  const uint64_t columns = source.columns();
  const uint64_t row_bytes = *RowBytes(dtype, columns);
  const uint64_t rows_at_once = std::max<uint64_t>(1, reader_.CapacityElements(source, dtype) / columns);
  for (uint64_t row = begin_; row < end_; row += rows_at_once) {
    const uint64_t num_rows = std::min(rows_at_once, end_ - row);
    FRUGAL_ASSIGN(const std::span<const std::byte> rows,
                  reader_.Read(source, row * columns, num_rows * columns, dtype));
    for (uint64_t i = 0; i < num_rows; ++i) {
      const uint32_t slot = slot_of_[row + i];
      if (slot == kElsewhere) continue;
      std::memcpy(panel_.data() + slot * plan_.stride_bytes + offset_bytes, rows.data() + i * row_bytes, row_bytes);
    }
    FRUGAL_TRY(on_piece(num_rows * *RowBytes(source.dtype, columns)));
  }
  return {};
}

BundlePanel::DownRows BundlePanel::WhereDownRowsGrow(DType source_type) {
  if (plan_.wide_down_bytes > 0) {
    return {IsQuantised(source_type) ? DType::kF32 : source_type, wide_.data(), plan_.wide_down_bytes};
  }
  return {plan_.down_type, panel_.data() + plan_.down_offset_bytes, plan_.stride_bytes};
}

Status BundlePanel::AddDownColumns(const TensorInfo& down, OnPiece on_piece) {
  // Blocks of the source are read whole.
  const uint64_t block = TraitsOf(down.dtype).block_elements;
  const uint64_t begin = RoundDown(begin_, block), end = RoundUp(end_, block);
  const uint64_t width = end - begin;
  const DownRows where = WhereDownRowsGrow(down.dtype);
  const uint64_t rows_at_once = std::max<uint64_t>(1, reader_.CapacityElements(down, where.dtype) / width);
  for (uint64_t row = 0; row < down.rows(); row += rows_at_once) {
    const uint64_t num_rows = std::min(rows_at_once, down.rows() - row);
    FRUGAL_ASSIGN(const std::span<const std::byte> rows,
                  reader_.ReadColumns(down, row, num_rows, begin, end, where.dtype));
    const Piece piece = {rows.data(), row, num_rows, begin, end};
    if (TraitsOf(where.dtype).block_bytes == sizeof(uint16_t)) {
      Scatter<uint16_t>(where, piece);
    } else {
      Scatter<uint32_t>(where, piece);
    }
    FRUGAL_TRY(on_piece(num_rows * *RowBytes(down.dtype, width)));
  }
  return {};
}

// A down row is quantised along hidden_size, so all of it has to be there.
Status BundlePanel::ConvertDownRows(const TensorInfo& down, uint64_t count) {
  const DType wide_type = WhereDownRowsGrow(down.dtype).dtype;
  for (uint64_t i = 0; i < count; ++i) {
    std::byte* const to = panel_.data() + i * plan_.stride_bytes + plan_.down_offset_bytes;
    const auto bad = ConvertElements(wide_type, wide_.data() + i * plan_.wide_down_bytes, plan_.down_type, to,
                                     down.rows(), &largest_difference_);
    if (!bad) continue;
    const auto slot = std::find(slot_of_.begin(), slot_of_.end(), static_cast<uint32_t>(i));
    const uint64_t neuron = static_cast<uint64_t>(slot - slot_of_.begin());
    return BadModel("{}: the value is too large for {}",
                    reader_.checkpoint().Place(down, *bad * down.columns() + neuron), DTypeName(plan_.down_type));
  }
  return {};
}

// The piece goes into the panel's down rows, where down's row r is element r.
template <typename T>
void BundlePanel::Scatter(const DownRows& down, const Piece& piece) {
  constexpr uint64_t kTileColumns = kTileRowBytes / sizeof(T);
  const uint64_t num_columns = piece.end - piece.begin;
  std::array<std::array<T, kTileColumns>, kTileRows> tile;
  std::array<T, kTileRows> column;
  for (uint64_t tile_column = 0; tile_column < num_columns; tile_column += kTileColumns) {
    const uint64_t width = std::min(kTileColumns, num_columns - tile_column);
    for (uint64_t tile_row = 0; tile_row < piece.num_rows; tile_row += kTileRows) {
      const uint64_t height = std::min(kTileRows, piece.num_rows - tile_row);
      for (uint64_t r = 0; r < height; ++r) {
        std::memcpy(tile[r].data(), piece.bytes + ((tile_row + r) * num_columns + tile_column) * sizeof(T),
                    width * sizeof(T));
      }
      for (uint64_t c = 0; c < width; ++c) {
        const uint32_t slot = slot_of_[piece.begin + tile_column + c];
        if (slot == kElsewhere) continue;
        for (uint64_t r = 0; r < height; ++r) column[r] = tile[r][c];
        std::byte* const row = down.base + slot * down.stride_bytes;
        std::memcpy(row + (piece.first_row + tile_row) * sizeof(T), column.data(), height * sizeof(T));
      }
    }
  }
}

}  // namespace frugal
