// Attention of the forward pass: query, key and value, norms of heads and positions, softmax over what a layer's window shows.
#include <algorithm>
#include <array>

#include "src/base/bytes.h"
#include "src/kernels/layer_kernels.h"
#include "src/kernels/row_spans.h"
#include "src/model/forward.h"

namespace frugal {
namespace {

constexpr uint32_t kAttendedAlone = 8;  // rows of a tile that are attended one by one

}  // namespace

// Of a thread: one row's scores; or room for queries and keys in panels, and the scores of the rows that are attended together.
size_t Forward::ScoreFloats(const ModelConfig& config, uint32_t max_rows, uint32_t max_context) {
  if (!TakesPanels(max_rows)) return max_context;
  const size_t room = TokenPanelFloats(kAttendedTogether, config.head_dim) + PanelScratchFloats(config.head_dim);
  return RoundUp(room + size_t{kAttendedTogether} * max_context, kPanelTokens);
}

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
  const uint32_t rows_of_tile = TakesPanels(num_rows) ? kAttendedTogether : kAttendedAlone;
  const uint32_t num_groups = (num_rows + rows_of_tile - 1) / rows_of_tile;
  pool_.Run(
      static_cast<int>(num_groups * config_.num_heads),
      [&](int tile, int worker) {
        const uint32_t head = static_cast<uint32_t>(tile) / num_groups, first = static_cast<uint32_t>(tile) % num_groups * rows_of_tile;
        const std::span<const BatchRow> group = rows.subspan(first, std::min(rows_of_tile, num_rows - first));
        const auto is_of_another = [&](const BatchRow& row) { return row.kv != group[0].kv; };
        if (TakesPanels(group.size()) && std::none_of(group.begin(), group.end(), is_of_another)) {
          AttendTogether(layer, kv_layer, group, first, head, worker);
        } else {
          for (uint32_t i = 0; i < group.size(); ++i) AttendHead(layer, kv_layer, group[i], first + i, head, worker);
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

// The positions that a row sees.
RowSpan Forward::SeenBy(uint32_t layer, const BatchRow& row) const {
  const uint32_t window = config_.window(layer), end = row.position + 1;
  return {window == 0 ? 0 : end - std::min(window, end), end};
}

// softmax(q k^T) v of one head; the result replaces the head's part of q.
void Forward::AttendHead(uint32_t layer, uint32_t kv_layer, const BatchRow& row, uint32_t row_index, uint32_t head, int worker) {
  float* const q = q_.data() + size_t{row_index} * config_.query_size() + size_t{head} * config_.head_dim;
  float* const scores = ScoreRoom(worker);
  const RowSpan seen = SeenBy(layer, row);
  const size_t num_positions = seen.end - seen.begin;
  const uint32_t kv_head = config_.kv_head(head);
  const DType dtype = row.kv->dtype();
  DotRows(dtype, row.kv->keys(kv_layer, kv_head).From(seen.begin), 0, num_positions, config_.head_dim, q, config_.head_dim, 1, scores,
          num_positions);
  Softmax(scores, num_positions);
  std::fill_n(q, config_.head_dim, 0.0f);
  AddScaledRows(dtype, row.kv->values(kv_layer, kv_head).From(seen.begin), num_positions, scores, 0, config_.head_dim, q);
}

// The same of up to kAttendedTogether rows of one sequence: a key or value in a register serves many of them. Scores of positions that a
// row does not see are computed and not used.
void Forward::AttendTogether(uint32_t layer, uint32_t kv_layer, std::span<const BatchRow> rows, uint32_t first_row, uint32_t head,
                             int worker) {
  const size_t head_dim = config_.head_dim, stride = config_.query_size(), count = rows.size();
  float* const q = q_.data() + first_row * stride + head * head_dim;
  float* const panels = ScoreRoom(worker);
  float* const scratch = panels + TokenPanelFloats(kAttendedTogether, head_dim);
  float* const scores = scratch + PanelScratchFloats(head_dim);
  std::array<RowSpan, kAttendedTogether> seen;
  RowSpan all = SeenBy(layer, rows[0]);
  for (size_t i = 0; i < count; ++i) {
    seen[i] = SeenBy(layer, rows[i]);
    all = {std::min(all.begin, seen[i].begin), std::max(all.end, seen[i].end)};
  }
  const KvCache& kv = *rows[0].kv;
  const uint32_t kv_head = config_.kv_head(head);
  FillTokenPanels(q, stride, 0, count, head_dim, panels);
  DotRowsOfPanels(kv.dtype(), kv.keys(kv_layer, kv_head), all.begin, all.end, head_dim, panels, count, scratch, scores, max_context_);
  for (size_t i = 0; i < count; ++i) {
    Softmax(scores + i * max_context_ + seen[i].begin, seen[i].end - seen[i].begin);
    std::fill_n(q + i * stride, head_dim, 0.0f);
  }
  AddRowSpans(kv.dtype(), kv.values(kv_layer, kv_head), seen.data(), count, scores, max_context_, head_dim, q, stride);
}

}  // namespace frugal
