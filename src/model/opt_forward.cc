#include "src/model/opt_forward.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "src/base/bytes.h"
#include "src/base/clock.h"
#include "src/kernels/quantised_kernels.h"

namespace frugal {
namespace {

// Multiply-adds of a tile: about 0.1 ms at 10 GFLOPS on a slow core, so that reads are reaped often enough.
constexpr uint64_t kTileProducts = 128 * 1024;
// With many rows of input, which pass from the L3 cache once for each tile: a tile of weights has this many rows, fewer where the threads
// would have fewer than kTilesPerThread tiles each.
constexpr uint64_t kRowsOfTile = 48;
constexpr uint64_t kTilesPerThread = 8;
constexpr uint32_t kColumnUnit = 64;  // of a tile of the down sum: whole quantised blocks and cache lines
// Of the down sum of many rows: pieces of 4 KiB of 16-bit weights, 4 MiB of them, which stay in the L3 cache. Narrower pieces in the L2
// cache were slower: bundles lie a power of two apart, so that few of them fit it.
constexpr size_t kDownMembers = 1024;
constexpr uint32_t kDownColumns = 2048;
// A batch whose rows chose less than this share of its products computes the chosen ones alone, which takes about three times as long for
// each: no weight that was loaded serves two rows.
constexpr double kSparseShare = 1.0 / 3;
constexpr size_t kSparseMembers = 64;  // of a tile then: their up rows stay in the L2 cache

struct Tiles {
  uint64_t per_tile = 1;
  int count = 0;
};

// Tiles of at most `most` items, at least one per thread.
Tiles CutTilesOf(uint64_t most, uint64_t items, int num_threads) {
  const uint64_t per_tile = std::clamp<uint64_t>(items / static_cast<uint64_t>(num_threads), 1, most);
  return {per_tile, static_cast<int>((items + per_tile - 1) / per_tile)};
}

// Of matrix rows or bundles, each multiplied with `num_rows` inputs. At least one tile per thread where there are that many items: every
// thread can work.
Tiles CutTiles(uint64_t items, uint64_t columns, uint32_t num_rows, int num_threads) {
  const uint64_t products_per_item = std::max<uint64_t>(1, columns * num_rows);
  const uint64_t by_work = std::max<uint64_t>(1, kTileProducts / products_per_item);
  if (num_rows < kManyTokens) return CutTilesOf(by_work, items, num_threads);
  const uint64_t shared = items / (kTilesPerThread * static_cast<uint64_t>(num_threads));
  Tiles tiles = CutTilesOf(std::max({by_work, kRowsOfManyTokens, std::min(shared, kRowsOfTile)}), items, num_threads);
  tiles.per_tile = RoundUp(tiles.per_tile, kRowsOfManyTokens);
  tiles.count = static_cast<int>((items + tiles.per_tile - 1) / tiles.per_tile);
  return tiles;
}

// At most so many products has a tile of up rows.
uint64_t ProductsOfTile(const ModelConfig& config, uint32_t max_rows) {
  return kTileProducts / config.hidden_size + (kRowsOfTile + kRowsOfManyTokens) * max_rows;
}

void PrefetchFloats(const float* x, size_t size) {
  for (size_t i = 0; i < size; i += 16) __builtin_prefetch(x + i, 0, 2);
}

// Room for up rows that ActivateChosen copies, of the largest type.
uint64_t UpRowFloats(const ModelConfig& config, uint32_t num_threads, uint32_t max_rows) {
  return max_rows < kManyTokens ? 0 : uint64_t{num_threads} * kSparseMembers * config.hidden_size;
}

// The largest input of a batch, in whole quantised blocks.
uint64_t InputElements(const ModelConfig& config, uint32_t max_rows) {
  return uint64_t{max_rows} * RoundUp(std::max(config.hidden_size, config.embedding_size), kQuantisedBlock);
}

}  // namespace

OptForward::OptForward(Weights& weights, Selector& selector, Selector* early, ThreadPool& pool, uint32_t max_rows,
                       uint32_t max_logit_rows, uint32_t max_context)
    : weights_(weights),
      config_(weights.model().config()),
      selector_(selector),
      early_(early),
      pool_(pool),
      max_rows_(max_rows),
      max_context_(max_context),
      products_per_thread_(ProductsOfTile(config_, max_rows)) {
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

uint64_t OptForward::MemoryBytes(const ModelConfig& config, uint32_t num_threads, uint32_t max_rows, uint32_t max_logit_rows,
                                 uint32_t max_context, MatrixInputs inputs) {
  const uint64_t rows = max_rows;
  uint64_t floats = rows * config.hidden_size * 5 + uint64_t{max_context} * num_threads + config.ffn_size * 2 +
                    rows * config.ffn_size + num_threads * ProductsOfTile(config, max_rows) +
                    UpRowFloats(config, num_threads, max_rows) + uint64_t{max_logit_rows} * config.vocab_size;
  if (config.has_projections()) floats += rows * config.embedding_size;
  uint64_t bytes = floats * sizeof(float) + rows * Selector::WordsPerToken(config.ffn_size) * sizeof(uint64_t);
  if (inputs == MatrixInputs::kQuantised) {
    const uint64_t size = InputElements(config, max_rows);
    bytes += size + size / kQuantisedBlock * sizeof(float);
  }
  return bytes;
}

DType OptForward::MatrixType(uint32_t matrix) const { return weights_.matrix_type(matrix); }

void OptForward::PrepareInput(std::initializer_list<DType> types, const float* x, size_t x_stride, uint32_t num_rows,
                              size_t columns) {
  if (std::none_of(types.begin(), types.end(), IsQuantised)) return;
  ForEachRow(num_rows, [&](uint32_t row) {
    const size_t first = row * columns;
    QuantiseInput(x + row * x_stride, columns, input_q_.data() + first, input_scales_.data() + first / kQuantisedBlock);
  });
}

Status OptForward::MatMul(uint32_t matrix, const float* x, size_t x_stride, uint32_t num_rows, std::span<const float> bias,
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

void OptForward::Normalize(std::span<const float> weight, std::span<const float> bias, const float* x, uint32_t num_rows, float* out) {
  const size_t size = config_.hidden_size;
  ForEachRow(num_rows, [&](uint32_t row) {
    LayerNorm(x + row * size, weight.data(), bias.data(), config_.layer_norm_epsilon, size, out + row * size);
  });
}

void OptForward::ForEachRow(uint32_t num_rows, FunctionRef<void(uint32_t row)> work) {
  if (num_rows < kManyTokens) {
    for (uint32_t row = 0; row < num_rows; ++row) work(row);
    return;
  }
  pool_.Run(
      static_cast<int>(num_rows), [&](int row, int) { work(static_cast<uint32_t>(row)); }, [&] { weights_.Poll(); });
}

void OptForward::AddToResidual(uint32_t num_rows) {
  const size_t size = config_.hidden_size;
  ForEachRow(num_rows, [&](uint32_t row) { Add(residual_.data() + row * size, block_out_.data() + row * size, size); });
}

Status OptForward::Embed(std::span<const BatchRow> rows) {
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

void OptForward::ListUnion(uint32_t num_rows) {
  const uint32_t words = Selector::WordsPerToken(config_.ffn_size);
  positions_.clear();  // capacity stays
  counts_.clear();
  for (uint32_t word = 0; word < words; ++word) {
    uint64_t any = 0;
    for (uint32_t row = 0; row < num_rows; ++row) any |= active_[size_t{row} * words + word];
    for (; any != 0; any &= any - 1) {
      const uint32_t bit = static_cast<uint32_t>(std::countr_zero(any));
      uint32_t count = 0;
      for (uint32_t row = 0; row < num_rows; ++row) count += static_cast<uint32_t>((active_[size_t{row} * words + word] >> bit) & 1);
      positions_.push_back(word * 64 + bit);
      counts_.push_back(count);
    }
  }
}

// Early prediction (design.md section 5): reads for the FFN fly during attention. It decides nothing but when bytes arrive.
void OptForward::PrefetchEarly(uint32_t layer, const float* input, uint32_t num_rows) {
  if (early_ == nullptr || !weights_.bundles_on_demand() || num_rows > kEarlyRows) return;
  const uint64_t start = NowNs();
  early_->Select(layer, input, num_rows, active_, pool_, [&] { weights_.Poll(); });
  ListUnion(num_rows);
  times_.select_ns += NowNs() - start;
  // A guess that covers the whole layer (a layer without a predictor) says nothing.
  if (positions_.size() < config_.ffn_size) weights_.Prefetch(layer, positions_);
}

Status OptForward::RunLayer(uint32_t layer, uint32_t kv_layer, std::span<const BatchRow> rows, const LayerObserver* observer) {
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

void OptForward::CheckFinite(uint32_t layer, uint32_t num_rows) {
  if (first_bad_layer_ < 0 && !AllFinite(residual_.data(), size_t{num_rows} * config_.hidden_size)) {
    first_bad_layer_ = static_cast<int32_t>(layer);
  }
}

Status OptForward::Attention(uint32_t layer, uint32_t kv_layer, std::span<const BatchRow> rows) {
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
void OptForward::AttendHead(uint32_t kv_layer, const BatchRow& row, uint32_t row_index, uint32_t head, int worker) {
  float* const q = q_.data() + size_t{row_index} * config_.hidden_size + head * config_.head_dim;
  float* const scores = scores_.data() + size_t(worker) * max_context_;
  const size_t num_positions = row.position + 1;
  const DType dtype = row.kv->dtype();
  DotRows(dtype, row.kv->keys(kv_layer, head), 0, num_positions, config_.head_dim, q, config_.head_dim, 1, scores, num_positions);
  Softmax(scores, num_positions);
  std::fill_n(q, config_.head_dim, 0.0f);
  AddScaledRows(dtype, row.kv->values(kv_layer, head), num_positions, scores, 0, config_.head_dim, q);
}

Status OptForward::Ffn(uint32_t layer, std::span<const BatchRow> rows, const LayerObserver* observer) {
  const uint32_t num_rows = static_cast<uint32_t>(rows.size());
  const size_t hidden = config_.hidden_size;
  if (config_.norm_placement == NormPlacement::kPre) {
    Normalize(weights_.vector(layer, LayerVector::kFfnNormWeight), weights_.vector(layer, LayerVector::kFfnNormBias),
              residual_.data(), num_rows, ffn_input_.data());
  } else {
    std::copy_n(residual_.data(), num_rows * hidden, ffn_input_.data());
  }
  const uint64_t start = NowNs();
  selector_.Select(layer, ffn_input_.data(), num_rows, active_, pool_, [&] { weights_.Poll(); });
  ListUnion(num_rows);
  times_.select_ns += NowNs() - start;

  ForEachRow(num_rows, [&](uint32_t row) { std::fill_n(block_out_.data() + row * hidden, hidden, 0.0f); });
  PrepareInput({weights_.model().bundles()[layer].up_type}, ffn_input_.data(), hidden, num_rows, hidden);
  FRUGAL_TRY(weights_.BeginBundles(layer, positions_, counts_, num_rows));
  while (true) {
    FRUGAL_ASSIGN(const BundleWave wave, weights_.NextWave());
    if (wave.begin == wave.end) break;
    FRUGAL_TRY(ComputeActivations(layer, wave, num_rows));
    FRUGAL_TRY(weights_.FinishWave());
    SumDown(layer, wave, num_rows);
    weights_.EndWave();
  }
  weights_.EndBundles();
  const std::span<const float> down_bias = weights_.vector(layer, LayerVector::kDownBias);
  ForEachRow(num_rows, [&](uint32_t row) { Add(block_out_.data() + row * hidden, down_bias.data(), hidden); });
  if (observer == nullptr) return {};
  LayerObservation observation;
  observation.layer = layer;
  observation.num_rows = num_rows;
  observation.early_input = normed_.data();
  observation.ffn_input = ffn_input_.data();
  observation.positions = positions_;
  observation.active = active_;
  observation.activations = activations_.data();
  observation.activation_stride = config_.ffn_size;
  return (*observer)(observation);
}

// activations_[row][member] = max(up . x + bias, 0) for the rows that chose the neuron, 0 for the others.
Status OptForward::ComputeActivations(uint32_t layer, const BundleWave& wave, uint32_t num_rows) {
  while (true) {
    ReadyBundles ready;
    FRUGAL_ASSIGN(ready.members, weights_.NextReady(&ready.rows));
    if (ready.members.empty()) return {};
    uint64_t num_chosen = 0;
    for (const uint32_t member : ready.members) num_chosen += counts_[wave.begin + member];
    const uint64_t num_products = ready.members.size() * uint64_t{num_rows};
    const bool sparse = static_cast<double>(num_chosen) < kSparseShare * static_cast<double>(num_products);
    Tiles tiles = CutTiles(ready.members.size(), config_.hidden_size, num_rows, pool_.num_threads());
    if (sparse) tiles = CutTilesOf(kSparseMembers, ready.members.size(), pool_.num_threads());
    pool_.Run(
        tiles.count,
        [&](int tile, int worker) {
          const size_t begin = tile * tiles.per_tile;
          const size_t end = std::min<size_t>(ready.members.size(), begin + tiles.per_tile);
          if (sparse) {
            ActivateChosen(layer, wave, ready, begin, end, num_rows, worker);
          } else {
            ActivateAll(layer, wave, ready, begin, end, num_rows, worker);
          }
        },
        [&] { weights_.Poll(); });
  }
}

void OptForward::DotUpRows(DType dtype, const RowSet& up, size_t count, uint32_t first_row, uint32_t num_rows, float* out) const {
  const size_t hidden = config_.hidden_size, first = first_row * hidden;
  if (IsQuantised(dtype)) {
    const QuantisedInput input{input_q_.data() + first, input_scales_.data() + first / kQuantisedBlock};
    DotRowsQuantised(dtype, up, 0, count, hidden, input, num_rows, out, count);
  } else {
    DotRows(dtype, up, 0, count, hidden, ffn_input_.data() + first, hidden, num_rows, out, count);
  }
}

float OptForward::Activate(float product, float bias) {
  const float sum = product + bias;
  // Written so that a NaN stays one; a ReLU by max would hide it.
  return sum <= 0.0f ? 0.0f : sum;
}

bool OptForward::IsChosen(uint32_t row, uint32_t position) const {
  return (active_[size_t{row} * Selector::WordsPerToken(config_.ffn_size) + position / 64] >> (position % 64)) & 1;
}

// Members [begin, end) of those ready, for all rows at once.
void OptForward::ActivateAll(uint32_t layer, const BundleWave& wave, const ReadyBundles& ready, size_t begin, size_t end, uint32_t num_rows,
                             int worker) {
  const std::span<const float> bias = weights_.vector(layer, LayerVector::kUpBias);
  const size_t count = end - begin;
  CHECK(count * num_rows <= products_per_thread_);
  float* const tile_products = products_.data() + static_cast<size_t>(worker) * products_per_thread_;
  DotUpRows(weights_.model().bundles()[layer].up_type, ready.rows.From(begin), count, 0, num_rows, tile_products);
  for (uint32_t row = 0; row < num_rows; ++row) {
    const float* const products = tile_products + row * count;
    float* const out = activations_.data() + size_t{row} * config_.ffn_size + wave.begin;
    for (size_t i = 0; i < count; ++i) {
      const uint32_t member = ready.members[begin + i];
      const uint32_t position = positions_[wave.begin + member];
      out[member] = IsChosen(row, position) ? Activate(products[i], bias[position]) : 0.0f;
    }
  }
}

// The same for each row's chosen members alone. The tile's up rows stay in the L2 cache meanwhile, and a row's input comes while the one
// before it is multiplied.
void OptForward::ActivateChosen(uint32_t layer, const BundleWave& wave, const ReadyBundles& ready, size_t begin, size_t end,
                                uint32_t num_rows, int worker) {
  const std::span<const float> bias = weights_.vector(layer, LayerVector::kUpBias);
  DType dtype = weights_.model().bundles()[layer].up_type;
  RowSet up = ready.rows.From(begin);
  if (num_rows >= kManyTokens && !IsQuantised(dtype)) {
    // Side by side: bundles lie a power of two apart, so only a few of them fit a cache.
    const size_t row_bytes = RowBytes(dtype, config_.hidden_size).value();
    std::byte* const copies = reinterpret_cast<std::byte*>(up_rows_.data()) + static_cast<size_t>(worker) * kSparseMembers * row_bytes;
    for (size_t i = 0; i < end - begin; ++i) std::memcpy(copies + i * row_bytes, up.row(i), row_bytes);
    up = {copies, row_bytes, nullptr};
  }
  uint32_t chosen[kSparseMembers], rows_of_chosen[kSparseMembers];
  float products[kSparseMembers];
  for (uint32_t row = 0; row < num_rows; ++row) {
    float* const out = activations_.data() + size_t{row} * config_.ffn_size + wave.begin;
    size_t num_chosen = 0;
    for (size_t i = begin; i < end; ++i) {
      const uint32_t member = ready.members[i];
      out[member] = 0.0f;
      chosen[num_chosen] = member;
      rows_of_chosen[num_chosen] = up.index != nullptr ? up.index[i - begin] : static_cast<uint32_t>(i - begin);
      num_chosen += IsChosen(row, positions_[wave.begin + member]) ? 1 : 0;
    }
    if (row + 1 < num_rows) PrefetchFloats(ffn_input_.data() + (row + 1) * size_t{config_.hidden_size}, config_.hidden_size);
    if (num_chosen == 0) continue;
    DotUpRows(dtype, {up.base, up.stride_bytes, rows_of_chosen}, num_chosen, row, 1, products);
    for (size_t i = 0; i < num_chosen; ++i) out[chosen[i]] = Activate(products[i], bias[positions_[wave.begin + chosen[i]]]);
  }
}

// block_out_[row] += sum over the wave's members, in position order, of activation * down row. One row: threads split the columns into
// long pieces, which the prefetchers follow. Many rows: a piece of the down rows stays in the L2 cache while all rows pass over it.
void OptForward::SumDown(uint32_t layer, const BundleWave& wave, uint32_t num_rows) {
  const BundleInfo& bundle = weights_.model().bundles()[layer];
  const size_t num_members = wave.end - wave.begin;
  const uint32_t num_threads = static_cast<uint32_t>(pool_.num_threads());
  const bool many = num_rows >= kManyTokens;
  const size_t tile_members = many ? kDownMembers : num_members;
  uint32_t tile_columns = static_cast<uint32_t>(RoundUp((config_.hidden_size + num_threads - 1) / num_threads, kColumnUnit));
  if (many) tile_columns = std::min(tile_columns, kDownColumns);
  pool_.Run(
      static_cast<int>((config_.hidden_size + tile_columns - 1) / tile_columns),
      [&](int tile, int) {
        const uint32_t begin = static_cast<uint32_t>(tile) * tile_columns;
        const uint32_t end = std::min(config_.hidden_size, begin + tile_columns);
        for (size_t first = 0; first < num_members; first += tile_members) {
          RowSet down = wave.rows.From(first);
          down.base += bundle.down_offset_bytes;
          for (uint32_t row = 0; row < num_rows; ++row) {
            AddScaledRows(bundle.down_type, down, std::min(tile_members, num_members - first),
                          activations_.data() + size_t{row} * config_.ffn_size + wave.begin + first, begin, end,
                          block_out_.data() + size_t{row} * config_.hidden_size);
          }
        }
      },
      [&] { weights_.Poll(); });
}

Status OptForward::Output(std::span<const BatchRow> rows, uint32_t num_logit_rows) {
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

Status OptForward::Step(std::span<const BatchRow> rows, uint32_t num_logit_rows, const LayerObserver* observer) {
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
