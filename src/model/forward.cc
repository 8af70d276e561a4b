#include "src/model/forward.h"

#include <algorithm>
#include <cmath>

#include "src/base/bytes.h"
#include "src/base/clock.h"
#include "src/kernels/quantised_kernels.h"
#include "src/model/tiles.h"

namespace frugal {
namespace {

// The largest input of a batch, in whole quantised blocks.
uint64_t InputElements(const ModelConfig& config, uint32_t max_rows) {
  return uint64_t{max_rows} * RoundUp(std::max(config.hidden_size, config.embedding_size), kQuantisedBlock);
}

}  // namespace

Forward::Forward(Weights& weights, Selector& selector, Selector* early, ThreadPool& pool, uint32_t max_rows,
                       uint32_t max_logit_rows, uint32_t max_context)
    : weights_(weights),
      config_(weights.model().config()),
      selector_(selector),
      early_(early),
      pool_(pool),
      max_rows_(max_rows),
      max_context_(max_context),
      products_per_thread_(MostTileProducts(config_.hidden_size, max_rows)) {
  const size_t hidden = size_t{max_rows} * config_.hidden_size;
  for (AlignedVector<float>* buffer : {&residual_, &normed_, &q_, &ffn_input_, &block_out_}) buffer->resize(hidden);
  if (config_.has_projections()) embedding_.resize(size_t{max_rows} * config_.embedding_size);
  scores_.resize(size_t{max_context} * pool.num_threads());
  active_.resize(size_t{max_rows} * Selector::WordsPerToken(config_.ffn_size));
  positions_.resize(config_.ffn_size);
  counts_.resize(config_.ffn_size);
  activations_.resize(size_t{max_rows} * config_.ffn_size);
  products_.resize(products_per_thread_ * static_cast<size_t>(pool.num_threads()));
  up_rows_.resize(UpRowFloats(config_, static_cast<uint32_t>(pool.num_threads()), max_rows));
  logits_.resize(size_t{max_logit_rows} * config_.vocab_size);
  if (InputsOf(weights.model(), weights.plan()) == MatrixInputs::kQuantised) {
    const uint64_t size = InputElements(config_, max_rows);
    input_q_.resize(size);
    input_scales_.resize(size / kQuantisedBlock);
  }
}

uint64_t Forward::MemoryBytes(const ModelConfig& config, uint32_t num_threads, uint32_t max_rows, uint32_t max_logit_rows,
                                 uint32_t max_context, MatrixInputs inputs) {
  const uint64_t rows = max_rows;
  uint64_t floats = rows * config.hidden_size * 5 + uint64_t{max_context} * num_threads + config.ffn_size * 2 +
                    rows * config.ffn_size + num_threads * MostTileProducts(config.hidden_size, max_rows) +
                    UpRowFloats(config, num_threads, max_rows) + uint64_t{max_logit_rows} * config.vocab_size;
  if (config.has_projections()) floats += rows * config.embedding_size;
  uint64_t bytes = floats * sizeof(float) + rows * Selector::WordsPerToken(config.ffn_size) * sizeof(uint64_t);
  if (inputs == MatrixInputs::kQuantised) {
    const uint64_t size = InputElements(config, max_rows);
    bytes += size + size / kQuantisedBlock * sizeof(float);
  }
  return bytes;
}

DType Forward::MatrixType(uint32_t matrix) const { return weights_.matrix_type(matrix); }

void Forward::PrepareInput(std::initializer_list<DType> types, const float* x, size_t x_stride, uint32_t num_rows,
                              size_t columns) {
  if (std::none_of(types.begin(), types.end(), IsQuantised)) return;
  ForEachRow(num_rows, [&](uint32_t row) {
    const size_t first = row * columns;
    QuantiseInput(x + row * x_stride, columns, input_q_.data() + first, input_scales_.data() + first / kQuantisedBlock);
  });
}

Status Forward::MatMul(uint32_t matrix, const float* x, size_t x_stride, uint32_t num_rows, std::span<const float> bias,
                          float* out, size_t out_stride) {
  const MatrixInfo& info = weights_.model().matrices()[matrix];
  const DType dtype = MatrixType(matrix);
  const QuantisedInput quantised{input_q_.data(), input_scales_.data()};
  return weights_.ForEachRowBlock(matrix, [&](const RowBlock& block) {
    const Tiles tiles = CutTiles(block.num_rows, info.columns, num_rows, pool_.num_threads());
    float* const block_out = out + block.first_row;
    pool_.Run(
        tiles.count,
        [&](int tile, int) {
          const uint64_t begin = tile * tiles.per_tile;
          const uint64_t end = std::min(block.num_rows, begin + tiles.per_tile);
          if (IsQuantised(dtype)) {
            DotRowsQuantised(dtype, block.rows, begin, end, info.columns, quantised, num_rows, block_out, out_stride);
          } else {
            DotRows(dtype, block.rows, begin, end, info.columns, x, x_stride, num_rows, block_out, out_stride);
          }
          if (bias.empty()) return;
          for (uint32_t row = 0; row < num_rows; ++row) {
            Add(block_out + row * out_stride + begin, bias.data() + block.first_row + begin, end - begin);
          }
        },
        [&] { weights_.Poll(); });
  });
}

void Forward::Normalize(std::span<const float> weight, std::span<const float> bias, const float* x, uint32_t num_rows, float* out) {
  const size_t size = config_.hidden_size;
  ForEachRow(num_rows, [&](uint32_t row) {
    LayerNorm(x + row * size, weight.data(), bias.data(), config_.norm_epsilon, size, out + row * size);
  });
}

void Forward::ForEachRow(uint32_t num_rows, FunctionRef<void(uint32_t row)> work) {
  if (num_rows < kManyTokens) {
    for (uint32_t row = 0; row < num_rows; ++row) work(row);
    return;
  }
  pool_.Run(
      static_cast<int>(num_rows), [&](int row, int) { work(static_cast<uint32_t>(row)); }, [&] { weights_.Poll(); });
}

void Forward::AddToResidual(uint32_t num_rows) {
  const size_t size = config_.hidden_size;
  ForEachRow(num_rows, [&](uint32_t row) { Add(residual_.data() + row * size, block_out_.data() + row * size, size); });
}

Status Forward::Embed(std::span<const BatchRow> rows) {
  const MatrixIds& ids = weights_.model().ids();
  const size_t hidden = config_.hidden_size;
  for (size_t row = 0; row < rows.size(); ++row) {
    CHECK(rows[row].token >= 0 && static_cast<uint32_t>(rows[row].token) < config_.vocab_size);
    float* const target = config_.has_projections() ? embedding_.data() + row * config_.embedding_size : residual_.data() + row * hidden;
    FRUGAL_TRY(weights_.ReadRow(ids.token_embedding, static_cast<uint64_t>(rows[row].token), {target, config_.embedding_size}));
  }
  const uint32_t num_rows = static_cast<uint32_t>(rows.size());
  if (config_.has_projections()) {
    PrepareInput({MatrixType(ids.project_in)}, embedding_.data(), config_.embedding_size, num_rows, config_.embedding_size);
    FRUGAL_TRY(MatMul(ids.project_in, embedding_.data(), config_.embedding_size, num_rows, {}, residual_.data(), hidden));
  }
  for (size_t row = 0; row < rows.size(); ++row) {
    FRUGAL_TRY(weights_.ReadRow(ids.position_embedding, rows[row].position + config_.position_offset, {block_out_.data(), hidden}));
    Add(residual_.data() + row * hidden, block_out_.data(), hidden);
  }
  return {};
}

Status Forward::RunLayer(uint32_t layer, uint32_t kv_layer, std::span<const BatchRow> rows, const LayerObserver* observer) {
  const uint32_t num_rows = static_cast<uint32_t>(rows.size());
  const bool pre = config_.norm_placement == NormPlacement::kPre;
  const uint64_t start = NowNs();
  if (pre) {
    Normalize(weights_.vector(layer, LayerVector::kAttnNormWeight), weights_.vector(layer, LayerVector::kAttnNormBias),
              residual_.data(), num_rows, normed_.data());
  } else {
    std::copy_n(residual_.data(), size_t{num_rows} * config_.hidden_size, normed_.data());
  }
  PrefetchEarly(layer, normed_.data(), num_rows);
  FRUGAL_TRY(Attention(layer, kv_layer, rows));
  AddToResidual(num_rows);
  if (!pre) {
    Normalize(weights_.vector(layer, LayerVector::kAttnNormWeight), weights_.vector(layer, LayerVector::kAttnNormBias),
              residual_.data(), num_rows, residual_.data());
  }
  const uint64_t middle = NowNs();
  times_.attention_ns += middle - start;
  FRUGAL_TRY(Ffn(layer, rows, observer));
  AddToResidual(num_rows);
  if (!pre) {
    Normalize(weights_.vector(layer, LayerVector::kFfnNormWeight), weights_.vector(layer, LayerVector::kFfnNormBias),
              residual_.data(), num_rows, residual_.data());
  }
  times_.ffn_ns += NowNs() - middle;
  CheckFinite(layer, num_rows);
  return {};
}

void Forward::CheckFinite(uint32_t layer, uint32_t num_rows) {
  if (first_bad_layer_ < 0 && !AllFinite(residual_.data(), size_t{num_rows} * config_.hidden_size)) {
    first_bad_layer_ = static_cast<int32_t>(layer);
  }
}

Status Forward::Attention(uint32_t layer, uint32_t kv_layer, std::span<const BatchRow> rows) {
  const size_t hidden = config_.hidden_size;
  const uint32_t num_rows = static_cast<uint32_t>(rows.size());
  const auto project = [&](uint32_t matrix, LayerVector bias, float* out) {
    return MatMul(matrix, normed_.data(), hidden, num_rows, weights_.vector(layer, bias), out, hidden);
  };
  PrepareInput({MatrixType(ModelFile::QId(layer)), MatrixType(ModelFile::KId(layer)), MatrixType(ModelFile::VId(layer))},
               normed_.data(), hidden, num_rows, hidden);
  FRUGAL_TRY(project(ModelFile::QId(layer), LayerVector::kQBias, q_.data()));
  float *const keys = block_out_.data(), *const values = ffn_input_.data();
  FRUGAL_TRY(project(ModelFile::KId(layer), LayerVector::kKBias, keys));
  FRUGAL_TRY(project(ModelFile::VId(layer), LayerVector::kVBias, values));
  // As the reference: the query is scaled, bias included.
  const float scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim));
  ForEachRow(num_rows, [&](uint32_t row) {
    Scale(q_.data() + row * hidden, scale, hidden);
    rows[row].kv->Put(kv_layer, rows[row].position, keys + row * hidden, values + row * hidden);
  });
  pool_.Run(
      static_cast<int>(num_rows * config_.num_heads),
      [&](int tile, int worker) {
        const uint32_t row = static_cast<uint32_t>(tile) / config_.num_heads;
        AttendHead(kv_layer, rows[row], row, static_cast<uint32_t>(tile) % config_.num_heads, worker);
      },
      [&] { weights_.Poll(); });
  PrepareInput({MatrixType(ModelFile::OId(layer))}, q_.data(), hidden, num_rows, hidden);
  return MatMul(ModelFile::OId(layer), q_.data(), hidden, num_rows, weights_.vector(layer, LayerVector::kOBias), block_out_.data(),
                hidden);
}

// softmax(q k^T) v of one head; the result replaces the head's part of q.
void Forward::AttendHead(uint32_t kv_layer, const BatchRow& row, uint32_t row_index, uint32_t head, int worker) {
  float* const q = q_.data() + size_t{row_index} * config_.hidden_size + head * config_.head_dim;
  float* const scores = scores_.data() + size_t(worker) * max_context_;
  const size_t num_positions = row.position + 1;
  const DType dtype = row.kv->dtype();
  DotRows(dtype, row.kv->keys(kv_layer, head), 0, num_positions, config_.head_dim, q, config_.head_dim, 1, scores, num_positions);
  Softmax(scores, num_positions);
  std::fill_n(q, config_.head_dim, 0.0f);
  AddScaledRows(dtype, row.kv->values(kv_layer, head), num_positions, scores, 0, config_.head_dim, q);
}

Status Forward::Output(std::span<const BatchRow> rows, uint32_t num_logit_rows) {
  const MatrixIds& ids = weights_.model().ids();
  const size_t hidden = config_.hidden_size;
  const float* x = residual_.data() + (rows.size() - num_logit_rows) * hidden;
  size_t x_stride = hidden;
  if (config_.has_final_norm) {
    Normalize(weights_.final_norm(0), weights_.final_norm(1), x, num_logit_rows, normed_.data());
    x = normed_.data();
  }
  if (config_.has_projections()) {
    PrepareInput({MatrixType(ids.project_out)}, x, hidden, num_logit_rows, hidden);
    FRUGAL_TRY(MatMul(ids.project_out, x, hidden, num_logit_rows, {}, embedding_.data(), config_.embedding_size));
    x = embedding_.data();
    x_stride = config_.embedding_size;
  }
  PrepareInput({MatrixType(ids.output)}, x, x_stride, num_logit_rows, config_.embedding_size);
  FRUGAL_TRY(MatMul(ids.output, x, x_stride, num_logit_rows, {}, logits_.data(), config_.vocab_size));
  if (!AllFinite(logits_.data(), size_t{num_logit_rows} * config_.vocab_size)) {
    const std::string where = first_bad_layer_ >= 0 ? fmt::format("first seen behind layer {}", first_bad_layer_)
                                                    : std::string("first seen in the output matrix");
    return BadModel("{}: the logits hold a NaN or an infinity, {}; `frugal check` finds the weight", weights_.model().path(), where);
  }
  return {};
}

Status Forward::Step(std::span<const BatchRow> rows, uint32_t num_logit_rows, const LayerObserver* observer) {
  CHECK(!rows.empty() && rows.size() <= max_rows_);
  CHECK(num_logit_rows >= 1 && num_logit_rows <= rows.size() && size_t{num_logit_rows} * config_.vocab_size <= logits_.size());
  first_bad_layer_ = -1;
  FRUGAL_TRY(Embed(rows));
  for (uint32_t layer = 0; layer < config_.num_layers; ++layer) FRUGAL_TRY(RunLayer(layer, layer, rows, observer));
  const uint64_t start = NowNs();
  FRUGAL_TRY(Output(rows, num_logit_rows));
  times_.output_ns += NowNs() - start;
  return weights_.EndStep();
}

}  // namespace frugal
