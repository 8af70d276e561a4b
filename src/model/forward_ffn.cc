// The FFN of the forward pass from bundles: early prediction, the active sets and their union, rows of up (and gate) with the activation as
// they arrive, the down sum.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "src/base/bytes.h"
#include "src/base/clock.h"
#include "src/kernels/quantised_kernels.h"
#include "src/model/activation.h"
#include "src/model/forward.h"
#include "src/model/tiles.h"

namespace frugal {
namespace {

constexpr uint32_t kColumnUnit = 64;  // of a tile of the down sum: whole quantised blocks and cache lines
// Of the down sum of many rows: pieces of 4 KiB of 16-bit weights, 4 MiB of them, which stay in the L3 cache. Narrower pieces in the L2
// cache were slower: bundles lie a power of two apart, so that few of them fit it.
constexpr size_t kDownMembers = 1024;
constexpr uint32_t kDownColumns = 2048;
constexpr uint32_t kDownRows = 32;  // of a tile
// A batch whose rows chose less than this share of its products computes the chosen ones alone, which takes about three times as long for
// each: no weight that was loaded serves two rows.
constexpr double kSparseShare = 1.0 / 3;
constexpr size_t kSparseMembers = 64;  // of a tile then: their up rows stay in the L2 cache

void PrefetchFloats(const float* x, size_t size) {
  for (size_t i = 0; i < size; i += 16) __builtin_prefetch(x + i, 0, 2);
}

}  // namespace

// Copies of up rows (and gate rows), of the largest type.
uint64_t Forward::UpRowFloats(const ModelConfig& config, uint32_t num_threads, uint32_t max_rows) {
  if (max_rows < kManyTokens || config.ffn_layout == FfnLayout::kMatrices) return 0;
  const uint64_t parts = config.ffn_layout == FfnLayout::kBundle3 ? 2 : 1;
  return uint64_t{num_threads} * parts * kSparseMembers * config.hidden_size;
}

uint64_t Forward::ProductFloats(const ModelConfig& config, uint32_t max_rows) {
  if (config.ffn_layout == FfnLayout::kMatrices) return 0;
  return MostTileProducts(config.hidden_size, max_rows) * (config.ffn_layout == FfnLayout::kBundle3 ? 2 : 1);
}

void Forward::ListUnion(uint32_t num_rows) {
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
void Forward::PrefetchEarly(uint32_t layer, const float* input, uint32_t num_rows) {
  if (early_ == nullptr || !weights_.bundles_on_demand() || num_rows > kEarlyRows) return;
  const uint64_t start = NowNs();
  early_->Select(layer, input, num_rows, active_, pool_, [&] { weights_.Poll(); });
  ListUnion(num_rows);
  times_.select_ns += NowNs() - start;
  // A guess that covers the whole layer (a layer without a predictor) says nothing.
  if (positions_.size() < config_.ffn_size) weights_.Prefetch(layer, positions_);
}

// Parallel blocks know the FFN's input before attention: the active set itself, whose reads then fly meanwhile.
void Forward::PrefetchSelected(uint32_t layer, uint32_t num_rows) {
  if (config_.ffn_layout == FfnLayout::kMatrices || selects_by_gates()) return;
  Select(layer, num_rows);
  if (!weights_.bundles_on_demand() || !weights_.plan().overlap || num_rows > kEarlyRows) return;
  if (positions_.size() < config_.ffn_size) weights_.Prefetch(layer, positions_);
}

void Forward::Select(uint32_t layer, uint32_t num_rows) {
  const uint64_t start = NowNs();
  selector_.Select(layer, ffn_input_.data(), num_rows, active_, pool_, [&] { weights_.Poll(); });
  ListUnion(num_rows);
  times_.select_ns += NowNs() - start;
}

// A neuron counts where its activated gate is above the threshold in magnitude: with 0, where it is not zero, which is exact. A NaN
// counts, so that it reaches the logits.
void Forward::SelectByGates(uint32_t layer, uint32_t num_rows) {
  const uint64_t start = NowNs();
  const float threshold = gate_thresholds_.empty() ? 0.0f : gate_thresholds_[layer];
  const uint32_t words = Selector::WordsPerToken(config_.ffn_size);
  ForEachRow(num_rows, [&](uint32_t row) {
    const float* const gates = gates_.data() + size_t{row} * config_.ffn_size;
    for (uint32_t word = 0; word < words; ++word) {
      uint64_t bits = 0;
      const uint32_t end = std::min(config_.ffn_size, (word + 1) * 64);
      for (uint32_t i = word * 64; i < end; ++i) bits |= uint64_t{!(std::fabs(gates[i]) <= threshold)} << (i % 64);
      active_[size_t{row} * words + word] = bits;
    }
  });
  ListUnion(num_rows);
  times_.select_ns += NowNs() - start;
}

Status Forward::Ffn(uint32_t layer, uint32_t num_rows, const LayerObserver* observer) {
  if (config_.ffn_layout == FfnLayout::kMatrices) {
    FRUGAL_TRY(DenseFfn(layer, num_rows));
    if (observer != nullptr) Select(layer, num_rows);  // for the observer alone: all neurons
  } else {
    FRUGAL_TRY(BundledFfn(layer, num_rows));
  }
  return observer == nullptr ? Status() : Observe(layer, num_rows, *observer);
}

Status Forward::Observe(uint32_t layer, uint32_t num_rows, const LayerObserver& observer) {
  LayerObservation observation;
  observation.layer = layer;
  observation.num_rows = num_rows;
  observation.early_input = normed_.data();
  observation.ffn_input = ffn_input_.data();
  observation.positions = positions_;
  observation.active = active_;
  observation.activations = activations_.data();
  observation.activation_stride = config_.ffn_size;
  observation.gates = gates_.empty() ? nullptr : gates_.data();
  return observer(observation);
}

Status Forward::BundledFfn(uint32_t layer, uint32_t num_rows) {
  const size_t hidden = config_.hidden_size;
  if (selects_by_gates()) {
    FRUGAL_TRY(ComputeGates(layer, num_rows));
    SelectByGates(layer, num_rows);
  } else if (!config_.parallel()) {
    Select(layer, num_rows);
  }
  ForEachRow(num_rows, [&](uint32_t row) { std::fill_n(block_out_.data() + row * hidden, hidden, 0.0f); });
  const BundleInfo& bundle = weights_.model().bundles()[layer];
  PrepareInput({bundle.gate_type, bundle.up_type}, ffn_input_.data(), hidden, num_rows, hidden);
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
  if (down_bias.empty()) return {};
  ForEachRow(num_rows, [&](uint32_t row) { Add(block_out_.data() + row * hidden, down_bias.data(), hidden); });
  return {};
}

// activations_[row][member] = what down is multiplied with for the rows that chose the neuron, 0 for the others.
Status Forward::ComputeActivations(uint32_t layer, const BundleWave& wave, uint32_t num_rows) {
  while (true) {
    ReadyBundles ready;
    FRUGAL_ASSIGN(ready.members, weights_.NextReady(&ready.rows));
    if (ready.members.empty()) return {};
    uint64_t num_chosen = 0;
    for (const uint32_t member : ready.members) num_chosen += counts_[wave.begin + member];
    const uint64_t num_products = ready.members.size() * uint64_t{num_rows};
    const bool sparse = static_cast<double>(num_chosen) < kSparseShare * static_cast<double>(num_products);
    const Tiles tiles = sparse ? CutTilesOf(kSparseMembers, ready.members.size(), pool_.num_threads())
                               : CutTiles(ready.members.size(), config_.hidden_size, num_rows, pool_.num_threads());
    pool_.Run(
        tiles.count,
        [&](int tile, int worker) {
          const size_t begin = tiles.begin(tile), end = tiles.end(tile);
          if (sparse) {
            ActivateChosen(layer, wave, ready, begin, end, num_rows, worker);
          } else {
            ActivateAll(layer, wave, ready, begin, end, num_rows, worker);
          }
        },
        [&] { weights_.Poll(); });
  }
}

void Forward::DotUpRows(DType dtype, const RowSet& up, size_t count, uint32_t first_row, uint32_t num_rows, float* out) const {
  const size_t hidden = config_.hidden_size, first = first_row * hidden;
  if (IsQuantised(dtype)) {
    const QuantisedInput input{input_q_.data() + first, input_scales_.data() + first / kQuantisedBlock};
    DotRowsQuantised(dtype, up, 0, count, hidden, input, num_rows, out, count);
  } else {
    DotRows(dtype, up, 0, count, hidden, ffn_input_.data() + first, hidden, num_rows, out, count);
  }
}

void Forward::FinishProducts(uint32_t layer, uint32_t row, const BundleWave& wave, const uint32_t* members, size_t count, float* products,
                             float* gates) const {
  const auto add_bias = [&](LayerVector which, float* sums) {
    const std::span<const float> bias = weights_.vector(layer, which);
    if (bias.empty()) return;
    for (size_t i = 0; i < count; ++i) sums[i] += bias[positions_[wave.begin + members[i]]];
  };
  add_bias(LayerVector::kUpBias, products);
  if (!config_.gated) {
    Activate(config_.activation, products, count);
  } else if (has_bundled_gate()) {
    add_bias(LayerVector::kGateBias, gates);
    Activate(config_.activation, gates, count);
    ApplyGate(config_.activation, gates, products, count);
  } else {
    if (config_.activation.kind == ActivationKind::kDRelu) ThresholdRelu(products, 0.0f, count);
    const float* const row_gates = gates_.data() + size_t{row} * config_.ffn_size;
    for (size_t i = 0; i < count; ++i) products[i] *= row_gates[positions_[wave.begin + members[i]]];
  }
}

bool Forward::IsChosen(uint32_t row, uint32_t position) const {
  return (active_[size_t{row} * Selector::WordsPerToken(config_.ffn_size) + position / 64] >> (position % 64)) & 1;
}

// Members [begin, end) of those ready, for all rows at once.
void Forward::ActivateAll(uint32_t layer, const BundleWave& wave, const ReadyBundles& ready, size_t begin, size_t end, uint32_t num_rows,
                          int worker) {
  const BundleInfo& bundle = weights_.model().bundles()[layer];
  const size_t count = end - begin;
  CHECK(count * num_rows <= products_per_thread_);
  float* const tile_products = products_.data() + static_cast<size_t>(worker) * ProductFloats(config_, max_rows_);
  float* const tile_gates = has_bundled_gate() ? tile_products + products_per_thread_ : nullptr;
  const RowSet rows = ready.rows.From(begin);
  DotUpRows(bundle.up_type, rows.At(bundle.up_offset_bytes), count, 0, num_rows, tile_products);
  if (has_bundled_gate()) DotUpRows(bundle.gate_type, rows, count, 0, num_rows, tile_gates);
  for (uint32_t row = 0; row < num_rows; ++row) {
    float* const products = tile_products + row * count;
    float* const gates = has_bundled_gate() ? tile_gates + row * count : nullptr;
    FinishProducts(layer, row, wave, ready.members.data() + begin, count, products, gates);
    float* const out = activations_.data() + size_t{row} * config_.ffn_size + wave.begin;
    for (size_t i = 0; i < count; ++i) {
      const uint32_t member = ready.members[begin + i];
      out[member] = IsChosen(row, positions_[wave.begin + member]) ? products[i] : 0.0f;
    }
  }
}

// The same for each row's chosen members alone. The tile's up rows stay in the L2 cache meanwhile, and a row's input comes while the one
// before it is multiplied.
void Forward::ActivateChosen(uint32_t layer, const BundleWave& wave, const ReadyBundles& ready, size_t begin, size_t end,
                             uint32_t num_rows, int worker) {
  const BundleInfo& bundle = weights_.model().bundles()[layer];
  std::byte* copies = reinterpret_cast<std::byte*>(up_rows_.data() + static_cast<size_t>(worker) * UpRowFloats(config_, 1, max_rows_));
  const auto side_by_side = [&](RowSet rows, DType dtype) -> RowSet {
    if (num_rows < kManyTokens || IsQuantised(dtype)) return rows;
    // Bundles lie a power of two apart, so only a few of them fit a cache.
    const size_t row_bytes = RowBytes(dtype, config_.hidden_size).value();
    std::byte* const first = copies;
    for (size_t i = 0; i < end - begin; ++i, copies += row_bytes) std::memcpy(copies, rows.row(i), row_bytes);
    return {first, row_bytes, nullptr};
  };
  const RowSet rows = ready.rows.From(begin);
  const RowSet up = side_by_side(rows.At(bundle.up_offset_bytes), bundle.up_type);
  const RowSet gate = has_bundled_gate() ? side_by_side(rows, bundle.gate_type) : RowSet{};
  uint32_t chosen[kSparseMembers], rows_of_chosen[kSparseMembers], gates_of_chosen[kSparseMembers];
  float products[kSparseMembers], gates[kSparseMembers];
  for (uint32_t row = 0; row < num_rows; ++row) {
    float* const out = activations_.data() + size_t{row} * config_.ffn_size + wave.begin;
    size_t num_chosen = 0;
    for (size_t i = begin; i < end; ++i) {
      const uint32_t member = ready.members[i];
      out[member] = 0.0f;
      chosen[num_chosen] = member;
      rows_of_chosen[num_chosen] = up.IndexOf(i - begin);
      gates_of_chosen[num_chosen] = gate.IndexOf(i - begin);
      num_chosen += IsChosen(row, positions_[wave.begin + member]) ? 1 : 0;
    }
    if (row + 1 < num_rows) PrefetchFloats(ffn_input_.data() + (row + 1) * size_t{config_.hidden_size}, config_.hidden_size);
    if (num_chosen == 0) continue;
    DotUpRows(bundle.up_type, {up.base, up.stride_bytes, rows_of_chosen}, num_chosen, row, 1, products);
    if (has_bundled_gate()) DotUpRows(bundle.gate_type, {gate.base, gate.stride_bytes, gates_of_chosen}, num_chosen, row, 1, gates);
    FinishProducts(layer, row, wave, chosen, num_chosen, products, gates);
    for (size_t i = 0; i < num_chosen; ++i) out[chosen[i]] = products[i];
  }
}

// block_out_[row] += sum over the wave's members, in position order, of activation * down row. One row: threads split the columns into
// long pieces, which the prefetchers follow. Many rows: a piece of the down rows stays in the L3 cache while all rows pass over it, some in each tile.
void Forward::SumDown(uint32_t layer, const BundleWave& wave, uint32_t num_rows) {
  const BundleInfo& bundle = weights_.model().bundles()[layer];
  const size_t num_members = wave.end - wave.begin;
  const uint32_t num_threads = static_cast<uint32_t>(pool_.num_threads());
  const bool many = num_rows >= kManyTokens;
  const size_t tile_members = many ? kDownMembers : num_members;
  const uint32_t tile_rows = many ? kDownRows : num_rows;
  const uint32_t tile_columns =
      many ? kDownColumns : static_cast<uint32_t>(RoundUp((config_.hidden_size + num_threads - 1) / num_threads, kColumnUnit));
  const uint32_t row_tiles = (num_rows + tile_rows - 1) / tile_rows;
  const uint32_t column_tiles = (config_.hidden_size + tile_columns - 1) / tile_columns;
  pool_.Run(
      static_cast<int>(row_tiles * column_tiles),
      [&](int tile, int) {
        const uint32_t first_row = static_cast<uint32_t>(tile) % row_tiles * tile_rows;
        const uint32_t last_row = std::min(num_rows, first_row + tile_rows);
        const uint32_t begin = static_cast<uint32_t>(tile) / row_tiles * tile_columns;
        const uint32_t end = std::min(config_.hidden_size, begin + tile_columns);
        for (size_t first = 0; first < num_members; first += tile_members) {
          RowSet down = wave.rows.From(first);
          down.base += bundle.down_offset_bytes;
          for (uint32_t row = first_row; row < last_row; ++row) {
            AddScaledRows(bundle.down_type, down, std::min(tile_members, num_members - first),
                          activations_.data() + size_t{row} * config_.ffn_size + wave.begin + first, begin, end,
                          block_out_.data() + size_t{row} * config_.hidden_size);
          }
        }
      },
      [&] { weights_.Poll(); });
}

}  // namespace frugal
