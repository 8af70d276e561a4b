// Puts bundles together: rows of gate (where there is one) and up, and columns of down, of some consecutive positions of one
// layer. Down is stored by rows, so that this is a transposition; it goes through the processor's caches in small tiles.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "src/base/aligned_buffer.h"
#include "src/base/function_ref.h"
#include "src/base/result.h"
#include "src/pack/pack_plan.h"
#include "src/pack/staged_reader.h"

namespace frugal {

class BundlePanel {
 public:
  // Called for each piece that was read, with its bytes; its error ends the work.
  using OnPiece = FunctionRef<Status(uint64_t bytes_read)>;

  // Allocates all memory. `plan` and `reader` outlive this.
  static Result<BundlePanel> Create(const PackPlan& plan, uint64_t ffn_size, uint64_t panel_positions,
                                    StagedReader& reader);

  // Of the down rows that were converted here; what the reader converted is not in it.
  float largest_difference() const { return largest_difference_; }

  // The bundles of positions [first, first + count); `order` is the source's neuron of each position
  // // [ffn_size]. `count` is at most panel_positions. The result is valid until the next call.
  Result<std::span<const std::byte>> Build(const PlannedTensor& layer, std::span<const uint32_t> order,
                                           uint64_t first, uint64_t count, OnPiece on_piece);

 private:
  BundlePanel(const PackPlan& plan, StagedReader& reader) : plan_(plan), reader_(reader) {}
  // Of gate or up, into the bundles from `offset_bytes` on.
  Status AddRows(const TensorInfo& source, DType dtype, uint64_t offset_bytes, OnPiece on_piece);
  Status AddDownColumns(const TensorInfo& down, OnPiece on_piece);
  // Where the down rows are put together: in the bundles; or before their last conversion, which needs whole rows, in a
  // buffer of their own.
  struct DownRows {
    DType dtype;
    std::byte* base;
    uint64_t stride_bytes;
  };
  DownRows WhereDownRowsGrow(DType source_type);
  // Columns [begin, end) of some rows of down, without gaps.
  struct Piece {
    const std::byte* bytes;
    uint64_t first_row, num_rows;
    uint64_t begin, end;
  };
  template <typename T>
  void Scatter(const DownRows& down, const Piece& piece);
  Status ConvertDownRows(const TensorInfo& down, uint64_t count);

  const PackPlan& plan_;
  StagedReader& reader_;
  AlignedBuffer panel_;            // [panel_positions, stride_bytes]
  AlignedBuffer wide_;             // [panel_positions, hidden_size] before the last conversion, where there is one
  float largest_difference_ = 0;
  std::vector<uint32_t> slot_of_;  // by neuron: its place in the panel, or kElsewhere // [ffn_size]
  uint64_t begin_ = 0, end_ = 0;   // the panel's neurons are among these
};

}  // namespace frugal
