// Attention of the forward pass: query, key and value, norms of heads and positions, softmax over what a layer's window shows.
#include <algorithm>

#include "src/kernels/layer_kernels.h"
#include "src/model/forward.h"

namespace frugal {
namespace {

constexpr uint32_t kAttendedRows = 8;  // of a tile

}  // namespace

Status Forward::Attention(uint32_t layer, uint32_t kv_layer, std::span<const BatchRow> rows) {
  const LayerMatrices& matrices = weights_.model().layer(layer);
  const size_t hidden = config_.hidden_size, query = config_.query_size(), kv = config_.kv_size();
  const uint32_t num_rows = static_cast<uint32_t>(rows.size());
  PrepareInput({MatrixType(matrices.q), MatrixType(matrices.k), MatrixType(matrices.v)}, normed_.data(), hidden, num_rows, hidden);
  FRUGAL_TRY(MatMul({{matrices.q, weights_.vector(layer, LayerVector::kQBias), q_.data(), query},
                     {matrices.k, weights_.vector(layer, LayerVector::kKBias), keys_, kv},
                     {matrices.v, weights_.vector(layer, LayerVector::kVBias), values_, kv}},
                    normed_.data(), hidden, num_rows));
  ForEachRow(num_rows, [&](uint32_t row) { PlaceHeads(layer, kv_layer, rows[row], row); });
  // A head after the other, whose keys and values stay in the cache while a prompt's rows pass.
  const uint32_t num_groups = (num_rows + kAttendedRows - 1) / kAttendedRows;
  pool_.Run(
      static_cast<int>(num_groups * config_.num_heads),
      [&](int tile, int worker) {
        const uint32_t head = static_cast<uint32_t>(tile) / num_groups, first = static_cast<uint32_t>(tile) % num_groups * kAttendedRows;
        for (uint32_t row = first; row < std::min(num_rows, first + kAttendedRows); ++row) {
          AttendHead(layer, kv_layer, rows[row], row, head, worker);
        }
      },
      [&] { weights_.Poll(); });
  PrepareInput({MatrixType(matrices.o)}, q_.data(), query, num_rows, query);
  return MatMul({{matrices.o, weights_.vector(layer, LayerVector::kOBias), block_out_.data(), hidden}}, q_.data(), query, num_rows);
}

void Forward::NormalizeHead(NormVectors norm, float* head) const {
  if (config_.head_norm == HeadNorm::kRms) {
    RmsNorm(head, norm.weight.data(), config_.norm_epsilon, config_.head_dim, head);
  } else {
    LayerNorm(head, norm.weight.data(), norm.bias.data(), config_.norm_epsilon, config_.head_dim, head);
  }
}

// A row's queries and keys are normalised and turned to their position, keys and values go to the cache.
void Forward::PlaceHeads(uint32_t layer, uint32_t kv_layer, const BatchRow& row, uint32_t row_index) {
  float* const query = q_.data() + size_t{row_index} * config_.query_size();
  float* const keys = keys_ + size_t{row_index} * config_.kv_size();
  const auto for_each_head = [&](float* heads, uint32_t count, auto work) {
    for (uint32_t head = 0; head < count; ++head) work(heads + size_t{head} * config_.head_dim);
  };
  if (config_.head_norm != HeadNorm::kNone) {
    const NormVectors q_norm = Norm(layer, LayerVector::kQNormWeight, LayerVector::kQNormBias);
    const NormVectors k_norm = Norm(layer, LayerVector::kKNormWeight, LayerVector::kKNormBias);
    for_each_head(query, config_.num_heads, [&](float* head) { NormalizeHead(q_norm, head); });
    for_each_head(keys, config_.num_kv_heads, [&](float* head) { NormalizeHead(k_norm, head); });
  }
  if (config_.rope.dims > 0) {
    Rotation& rotation = config_.has_local_rope && config_.window(layer) != 0 ? local_rotation_ : rotation_;
    rotation.SetPosition(row_index, row.position);
    for_each_head(query, config_.num_heads, [&](float* head) { rotation.Turn(row_index, head); });
    for_each_head(keys, config_.num_kv_heads, [&](float* head) { rotation.Turn(row_index, head); });
  }
  Scale(query, config_.attention_scale, config_.query_size());
  row.kv->Put(kv_layer, row.position, keys, values_ + size_t{row_index} * config_.kv_size());
}

// softmax(q k^T) v of one head; the result replaces the head's part of q.
void Forward::AttendHead(uint32_t layer, uint32_t kv_layer, const BatchRow& row, uint32_t row_index, uint32_t head, int worker) {
  float* const q = q_.data() + size_t{row_index} * config_.query_size() + size_t{head} * config_.head_dim;
  float* const scores = scores_.data() + size_t(worker) * max_context_;
  const uint32_t window = config_.window(layer);
  const size_t first = window == 0 ? 0 : row.position + 1 - std::min(window, row.position + 1);
  const size_t num_positions = row.position + 1 - first;
  const uint32_t kv_head = head / (config_.num_heads / config_.num_kv_heads);
  const DType dtype = row.kv->dtype();
  DotRows(dtype, row.kv->keys(kv_layer, kv_head).From(first), 0, num_positions, config_.head_dim, q, config_.head_dim, 1, scores,
          num_positions);
  Softmax(scores, num_positions);
  std::fill_n(q, config_.head_dim, 0.0f);
  AddScaledRows(dtype, row.kv->values(kv_layer, kv_head).From(first), num_positions, scores, 0, config_.head_dim, q);
}

}  // namespace frugal
