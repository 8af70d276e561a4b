#include "src/model/row_map.h"

namespace frugal {

RowMap MapRows(Projection projection, FusedQkv fused, bool turns_halves, const ModelConfig& config) {
  const uint64_t head_dim = config.head_dim;
  RowMap map;
  map.head_dim = head_dim;
  map.group_rows = head_dim;
  // Values are not rotated. As llama.cpp's converter, all of a head is permuted.
  if (turns_halves && projection != Projection::kValue) map.rope_dims = head_dim;
  switch (fused) {
    case FusedQkv::kNone:
      break;
    case FusedQkv::kGroups:
    case FusedQkv::kHeads: {
      const uint64_t num_groups = fused == FusedQkv::kGroups ? config.num_kv_heads : config.num_heads;
      const uint64_t queries = config.num_heads / num_groups;
      map.group_rows = (queries + 2) * head_dim;
      if (projection == Projection::kQuery) map.heads_per_group = queries;
      if (projection == Projection::kKey) map.first_row = queries * head_dim;
      if (projection == Projection::kValue) map.first_row = (queries + 1) * head_dim;
      break;
    }
    case FusedQkv::kStacked:
      if (projection == Projection::kKey) map.first_row = config.query_size();
      if (projection == Projection::kValue) map.first_row = uint64_t{config.query_size()} + config.kv_size();
      break;
  }
  return map;
}

}  // namespace frugal
