// Which of a source's rows (of a vector: elements) become the rows of a projection's matrix in a packed model: projections
// are split that the source fuses, and turned for the other kind of RoPE. docs/packed-model.md, "Names".
#pragma once

#include <cstdint>

#include "src/model/source_names.h"

namespace frugal {

// The heads of one projection: the source has `heads_per_group` of them one after the other in every `group_rows` rows, the
// first at row `first_row`.
struct RowMap {
  uint64_t head_dim = 1;
  uint64_t heads_per_group = 1;
  uint64_t group_rows = 1;
  uint64_t first_row = 0;
  uint64_t rope_dims = 0;  // of these many rows of a head, halves become neighbours; 0: of none

  uint64_t SourceRow(uint64_t row) const {
    const uint64_t head = row / head_dim;
    uint64_t in_head = row % head_dim;
    if (in_head < rope_dims) in_head = in_head / 2 + in_head % 2 * (rope_dims / 2);
    return first_row + head / heads_per_group * group_rows + head % heads_per_group * head_dim + in_head;
  }
};

enum class Projection { kQuery, kKey, kValue };

RowMap MapRows(Projection projection, FusedQkv fused, bool turns_halves, const ModelConfig& config);

}  // namespace frugal
