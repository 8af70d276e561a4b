#include "src/model/forward.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "src/base/bytes.h"
#include "src/base/clock.h"
#include "src/kernels/interleaved_rows.h"
#include "src/kernels/layer_kernels.h"
#include "src/kernels/quantised_kernels.h"
#include "src/model/tiles.h"

namespace frugal {
namespace {

// Columns of the longest input of a product.
uint64_t LongestInput(const ModelConfig& config) {
  const uint32_t longest = std::max({config.hidden_size, config.embedding_size, config.query_size()});
  return config.ffn_layout == FfnLayout::kMatrices ? std::max(longest, config.ffn_size) : longest;
}

// The largest input of a batch, in whole quantised blocks.
uint64_t InputElements(const ModelConfig& config, uint32_t max_rows) {
  return uint64_t{max_rows} * RoundUp(LongestInput(config), kQuantisedBlock);
}

// Parallel blocks select before attention; matrices are used whole.
bool MayGuessEarly(const ModelConfig& config) { return !config.parallel() && config.ffn_layout != FfnLayout::kMatrices; }

constexpr size_t kPieceFloats = 4096;
constexpr size_t kMostProducts = 3;  // of one input: query, key and value

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
      products_per_thread_(MostTileProducts(config_.hidden_size, max_rows)),
      rotation_(config_.rope, weights.vector(GlobalVector::kRopeDivisors), max_rows),
      local_rotation_(config_.has_local_rope ? config_.local_rope : Rope(), {}, max_rows) {
  const size_t hidden = size_t{max_rows} * config_.hidden_size;
  for (AlignedVector<float>* buffer : {&residual_, &normed_, &ffn_input_, &block_out_}) buffer->resize(hidden);
  q_.resize(size_t{max_rows} * config_.query_size());
  kv_.resize(KvFloats(config_, max_rows));
  keys_ = kv_.empty() ? block_out_.data() : kv_.data();
  values_ = kv_.empty() ? ffn_input_.data() : kv_.data() + kv_.size() / 2;
  if (config_.has_projections()) embedding_.resize(size_t{max_rows} * config_.embedding_size);
  scores_.resize(ScoreFloats(config_, max_rows, max_context) * static_cast<size_t>(pool.num_threads()));
  active_.resize(size_t{max_rows} * Selector::WordsPerToken(config_.ffn_size));
  positions_.resize(config_.ffn_size);
  if (MayGuessEarly(config_)) {
    early_input_.resize(config_.hidden_size);
    early_active_.resize(Selector::WordsPerToken(config_.ffn_size));
    early_positions_.resize(config_.ffn_size);
  }
  counts_.resize(size_t{Selector::WordsPerToken(config_.ffn_size)} * 64);
  activations_.resize(size_t{max_rows} * config_.ffn_size);
  gates_.resize(GateFloats(config_, max_rows));
  products_.resize(ProductFloats(config_, max_rows) * static_cast<size_t>(pool.num_threads()));
  if (max_rows > 1) {
    parted_members_.resize(config_.ffn_size);
    parted_rows_.resize(config_.ffn_size);
  }
  if (HasChosenRooms(config_, max_rows)) {
    chosen_rooms_.assign(static_cast<size_t>(pool.num_threads()), ChosenRoom(config_.hidden_size, max_rows, has_bundled_gate()));
  }
  logits_.resize(size_t{max_logit_rows} * config_.vocab_size);
  const MatrixInputs inputs = InputsOf(weights.model(), weights.plan());
  if (inputs.panels && TakesPanels(max_rows)) {
    panels_.resize(TokenPanelFloats(max_rows, LongestInput(config_)));
    panel_scratch_.resize(PanelScratchFloats(LongestInput(config_)) * static_cast<size_t>(pool.num_threads()));
  }
  if (inputs.quantised) {
    const uint64_t size = InputElements(config_, max_rows);
    input_q_.resize(size);
    input_scales_.resize(size / kQuantisedBlock);
  }
}

uint64_t Forward::MemoryBytes(const ModelConfig& config, uint32_t num_threads, uint32_t max_rows, uint32_t max_logit_rows,
                              uint32_t max_context, MatrixInputs inputs) {
  const uint64_t rows = max_rows;
  uint64_t floats = rows * config.hidden_size * 4 + rows * config.query_size() + KvFloats(config, max_rows) +
                    num_threads * ScoreFloats(config, max_rows, max_context) + config.ffn_size +
                    Selector::WordsPerToken(config.ffn_size) * 64 + rows * config.ffn_size + GateFloats(config, max_rows) +
                    num_threads * ProductFloats(config, max_rows) + (rows > 1 ? config.ffn_size * 2 : 0) +
                    uint64_t{max_logit_rows} * config.vocab_size + Rotation::Floats(config.rope, max_rows);
  if (config.has_local_rope) floats += Rotation::Floats(config.local_rope, max_rows);
  if (config.has_projections()) floats += rows * config.embedding_size;
  if (MayGuessEarly(config)) floats += config.hidden_size + config.ffn_size + 2 * Selector::WordsPerToken(config.ffn_size);
  if (inputs.panels && TakesPanels(max_rows)) {
    floats += TokenPanelFloats(max_rows, LongestInput(config)) + num_threads * PanelScratchFloats(LongestInput(config));
  }
  uint64_t bytes = floats * sizeof(float) + rows * Selector::WordsPerToken(config.ffn_size) * sizeof(uint64_t);
  if (HasChosenRooms(config, max_rows)) {
    bytes += num_threads * ChosenRoom::SizeBytes(config.hidden_size, max_rows, config.ffn_layout == FfnLayout::kBundle3);
  }
  if (inputs.quantised) {
    const uint64_t size = InputElements(config, max_rows);
    bytes += size + size / kQuantisedBlock * sizeof(float);
  }
  return bytes;
}

// In a serial block the FFN's buffers are free while attention runs; keys and values lie there where they fit.
uint64_t Forward::KvFloats(const ModelConfig& config, uint32_t max_rows) {
  if (!config.parallel() && config.kv_size() <= config.hidden_size) return 0;
  return uint64_t{2} * max_rows * config.kv_size();
}

DType Forward::MatrixType(uint32_t matrix) const { return weights_.matrix_type(matrix); }

void Forward::PrepareInput(std::initializer_list<DType> types, const float* x, size_t x_stride, uint32_t num_rows,
                           size_t columns) {
  if (TakesPanels(num_rows) && !std::all_of(types.begin(), types.end(), IsQuantised)) {
    pool_.Run(
        static_cast<int>((num_rows + kPanelTokens - 1) / kPanelTokens),
        [&](int panel, int) {
          const size_t first = static_cast<size_t>(panel) * kPanelTokens;
          FillTokenPanels(x, x_stride, first, std::min<size_t>(kPanelTokens, num_rows - first), columns, panels_.data());
        },
        [&] { weights_.Poll(); });
  }
  if (std::none_of(types.begin(), types.end(), IsQuantised)) return;
  ForEachRow(num_rows, [&](uint32_t row) {
    const size_t first = row * columns;
    QuantiseInput(x + row * x_stride, columns, input_q_.data() + first, input_scales_.data() + first / kQuantisedBlock);
  });
}

void Forward::MultiplyTile(const Product& product, const RowBlock& block, uint64_t begin, uint64_t end, const float* x, size_t x_stride,
                           uint32_t num_rows, int worker) {
  const size_t columns = weights_.model().matrices()[product.matrix].columns;
  const DType dtype = MatrixType(product.matrix);
  float* const out = product.out + block.first_row;
  if (IsQuantised(dtype)) {
    const QuantisedInput quantised{input_q_.data(), input_scales_.data()};
    if (block.interleaved) {
      DotInterleavedRows(block.rows.base, block.num_rows, begin, end, columns, quantised, num_rows, out, product.out_stride);
    } else {
      DotRowsQuantised(dtype, block.rows, begin, end, columns, quantised, num_rows, out, product.out_stride);
    }
  } else if (TakesPanels(num_rows)) {
    DotRowsOfPanels(dtype, block.rows, begin, end, columns, panels_.data(), num_rows, PanelScratch(worker), out, product.out_stride);
  } else {
    DotRows(dtype, block.rows, begin, end, columns, x, x_stride, num_rows, out, product.out_stride);
  }
  if (product.bias.empty()) return;
  for (uint32_t row = 0; row < num_rows; ++row) {
    Add(out + row * product.out_stride + begin, product.bias.data() + block.first_row + begin, end - begin);
  }
}

Status Forward::MatMul(std::initializer_list<Product> products, const float* x, size_t x_stride, uint32_t num_rows) {
  CHECK(products.size() <= kMostProducts);
  struct Part {
    const Product* product = nullptr;
    RowBlock block;
    Tiles tiles;
  };
  std::array<Part, kMostProducts> parts;
  const auto run = [&](size_t num_parts) {
    int count = 0;
    for (Part& part : std::span(parts).first(num_parts)) {
      const size_t columns = weights_.model().matrices()[part.product->matrix].columns;
      part.tiles = CutTiles(part.block.num_rows, columns, num_rows, pool_.num_threads());
      count += part.tiles.count;
    }
    pool_.Run(
        count,
        [&](int tile, int worker) {
          const Part* part = parts.data();
          for (; tile >= part->tiles.count; ++part) tile -= part->tiles.count;
          MultiplyTile(*part->product, part->block, part->tiles.begin(tile), part->tiles.end(tile), x, x_stride, num_rows, worker);
        },
        [&] { weights_.Poll(); });
  };
  size_t num_resident = 0;
  for (const Product& product : products) {
    const std::optional<RowBlock> rows = weights_.ResidentRows(product.matrix);
    if (!rows) break;
    parts[num_resident++] = {&product, *rows, {}};
  }
  if (num_resident == products.size()) {
    run(num_resident);
    return {};
  }
  for (const Product& product : products) {
    FRUGAL_TRY(weights_.ForEachRowBlock(product.matrix, [&](const RowBlock& block) {
      parts[0] = {&product, block, {}};
      run(1);
    }));
  }
  return {};
}

void Forward::Normalize(NormVectors norm, const float* x, uint32_t num_rows, float* out) {
  const size_t size = config_.hidden_size;
  const float epsilon = config_.norm_epsilon;
  ForEachRow(num_rows, [&](uint32_t row) {
    if (config_.norm == NormKind::kRms) {
      RmsNorm(x + row * size, norm.weight.data(), epsilon, size, out + row * size);
    } else {
      LayerNorm(x + row * size, norm.weight.data(), norm.bias.data(), epsilon, size, out + row * size);
    }
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

void Forward::ForEachPiece(size_t size, FunctionRef<void(size_t begin, size_t end)> work) {
  const Tiles tiles = CutTilesOf(kPieceFloats, size, pool_.num_threads());
  pool_.Run(
      tiles.count, [&](int tile, int) { work(tiles.begin(tile), tiles.end(tile)); }, [&] { weights_.Poll(); });
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
    FRUGAL_TRY(MatMul({{ids.project_in, {}, residual_.data(), hidden}}, embedding_.data(), config_.embedding_size, num_rows));
  }
  for (size_t row = 0; row < rows.size(); ++row) {
    if (config_.embedding_scale != 1.0f) Scale(residual_.data() + row * hidden, config_.embedding_scale, hidden);
    if (!config_.learned_positions) continue;
    FRUGAL_TRY(weights_.ReadRow(ids.position_embedding, rows[row].position + config_.position_offset, {block_out_.data(), hidden}));
    Add(residual_.data() + row * hidden, block_out_.data(), hidden);
  }
  return {};
}

// Serial:   x += Attention(norm(x)); x += Ffn(norm(x))
// Parallel: x += Attention(norm(x)) + Ffn(norm(x)), and the FFN's reads fly during attention
// Post-norm (OPT-350m): x = norm(x + Attention(x)); x = norm(x + Ffn(x))
Status Forward::RunLayer(uint32_t layer, uint32_t kv_layer, std::span<const BatchRow> rows, const LayerObserver* observer) {
  const uint32_t num_rows = static_cast<uint32_t>(rows.size());
  const uint64_t start = NowNs();
  if (num_rows > kEarlyRows) weights_.PrefetchWhole(layer);
  NormalizeInput(layer, num_rows);
  if (config_.parallel()) {
    NormalizeFfnInput(layer, num_rows);
    PrefetchSelected(layer, num_rows);
  } else {
    if (std::exchange(guessed_layer_, kNoLayer) != layer && GuessesEarly(num_rows)) {
      GuessEarly(layer);
      PrefetchGuess();
      weights_.StartPrefetched();
      guessed_layer_ = kNoLayer;
    }
  }
  FRUGAL_TRY(Attention(layer, kv_layer, rows));
  AddResult(layer, LayerVector::kPostAttnNormWeight, num_rows);
  if (config_.norm_placement == NormPlacement::kPost) {
    Normalize(Norm(layer, LayerVector::kAttnNormWeight, LayerVector::kAttnNormBias), residual_.data(), num_rows, residual_.data());
  }
  const uint64_t middle = NowNs();
  times_.attention_ns += middle - start;
  if (!config_.parallel()) NormalizeFfnInput(layer, num_rows);
  FRUGAL_TRY(Ffn(layer, num_rows, observer));
  AddResult(layer, LayerVector::kPostFfnNormWeight, num_rows);
  if (config_.norm_placement == NormPlacement::kPost) {
    Normalize(Norm(layer, LayerVector::kFfnNormWeight, LayerVector::kFfnNormBias), residual_.data(), num_rows, residual_.data());
  }
  times_.ffn_ns += NowNs() - middle;
  CheckFinite(layer, num_rows);
  return {};
}

void Forward::NormalizeInput(uint32_t layer, uint32_t num_rows) {
  if (config_.norm_placement == NormPlacement::kPost) {
    std::copy_n(residual_.data(), size_t{num_rows} * config_.hidden_size, normed_.data());
    return;
  }
  Normalize(Norm(layer, LayerVector::kAttnNormWeight, LayerVector::kAttnNormBias), residual_.data(), num_rows, normed_.data());
}

void Forward::NormalizeFfnInput(uint32_t layer, uint32_t num_rows) {
  const size_t size = size_t{num_rows} * config_.hidden_size;
  if (config_.norm_placement == NormPlacement::kPost) {
    std::copy_n(residual_.data(), size, ffn_input_.data());
  } else if (!config_.has_ffn_norm) {
    std::copy_n(normed_.data(), size, ffn_input_.data());
  } else {
    Normalize(Norm(layer, LayerVector::kFfnNormWeight, LayerVector::kFfnNormBias), residual_.data(), num_rows, ffn_input_.data());
  }
}

// block_out_, normalised by itself where the model does that (Gemma), is added to the residual stream.
void Forward::AddResult(uint32_t layer, LayerVector post_norm, uint32_t num_rows) {
  if (config_.has_post_norms) Normalize({weights_.vector(layer, post_norm), {}}, block_out_.data(), num_rows, block_out_.data());
  AddToResidual(num_rows);
}

void Forward::CheckFinite(uint32_t layer, uint32_t num_rows) {
  if (first_bad_layer_ < 0 && !AllFinite(residual_.data(), size_t{num_rows} * config_.hidden_size)) {
    first_bad_layer_ = static_cast<int32_t>(layer);
  }
}

Status Forward::Output(std::span<const BatchRow> rows, uint32_t num_logit_rows) {
  const MatrixIds& ids = weights_.model().ids();
  const size_t hidden = config_.hidden_size;
  const float* x = residual_.data() + (rows.size() - num_logit_rows) * hidden;
  size_t x_stride = hidden;
  if (config_.has_final_norm) {
    Normalize({weights_.vector(GlobalVector::kFinalNormWeight), weights_.vector(GlobalVector::kFinalNormBias)}, x, num_logit_rows,
              normed_.data());
    x = normed_.data();
  }
  if (config_.has_projections()) {
    PrepareInput({MatrixType(ids.project_out)}, x, hidden, num_logit_rows, hidden);
    FRUGAL_TRY(MatMul({{ids.project_out, {}, embedding_.data(), config_.embedding_size}}, x, hidden, num_logit_rows));
    x = embedding_.data();
    x_stride = config_.embedding_size;
  }
  PrepareInput({MatrixType(ids.output)}, x, x_stride, num_logit_rows, config_.embedding_size);
  const std::span<const float> bias = weights_.vector(GlobalVector::kOutputBias);
  FRUGAL_TRY(MatMul({{ids.output, bias, logits_.data(), config_.vocab_size}}, x, x_stride, num_logit_rows));
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
