// The FFN of the forward pass from bundles: early prediction, the active sets and their union, rows of up (and gate) with the activation as
// they arrive, the down sum.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "src/base/bytes.h"
#include "src/base/clock.h"
#include "src/kernels/quantised_kernels.h"
#include "src/model/activation.h"
#include "src/model/forward.h"
#include "src/model/tiles.h"
#include "src/select/chosen_counts.h"

namespace frugal {
namespace {

constexpr uint64_t kCountedWords = 16;  // of a tile
constexpr uint32_t kColumnUnit = 64;  // of a tile of the down sum: whole quantised blocks and cache lines

// Those of one row's set whose bits are in words [begin, end), ascending.
void ListChosen(std::span<const uint64_t> active, uint32_t begin, uint32_t end, std::vector<uint32_t>& positions) {
  positions.clear();  // capacity stays
  for (uint32_t word = begin; word < end; ++word) {
    for (uint64_t rest = active[word]; rest != 0; rest &= rest - 1) {
      positions.push_back(word * 64 + static_cast<uint32_t>(std::countr_zero(rest)));
    }
  }
}

}  // namespace

bool Forward::HasChosenRooms(const ModelConfig& config, uint32_t max_rows) {
  return TakesPanels(max_rows) && config.ffn_layout != FfnLayout::kMatrices;
}

uint64_t Forward::ProductFloats(const ModelConfig& config, uint32_t max_rows) {
  if (config.ffn_layout == FfnLayout::kMatrices) return 0;
  return MostTileProducts(config.hidden_size, max_rows) * (config.ffn_layout == FfnLayout::kBundle3 ? 2 : 1);
}

void Forward::ListUnion(uint32_t num_rows) {
  const uint32_t words = Selector::WordsPerToken(config_.ffn_size);
  if (num_rows == 1) {
    ListChosen(active_, 0, words, positions_);
    counts_.assign(positions_.size(), 1);
  } else {
    counts_.resize(size_t{words} * 64);
    const Tiles tiles = CutTilesOf(kCountedWords, words, pool_.num_threads());
    pool_.Run(
        tiles.count,
        [&](int tile, int) {
          for (uint64_t word = tiles.begin(tile); word < tiles.end(tile); ++word) {
            CountChosen(active_.data() + word, words, num_rows, counts_.data() + word * 64);
          }
        },
        [&] { weights_.Poll(); });
    positions_.clear();  // capacity stays
    for (uint32_t position = 0; position < words * 64; ++position) {
      if (counts_[position] == 0) continue;
      counts_[positions_.size()] = counts_[position];  // not behind it
      positions_.push_back(position);
    }
    counts_.resize(positions_.size());
  }
}

void Forward::KeepRecent(uint32_t num_rows) {
  const uint32_t words = Selector::WordsPerToken(config_.ffn_size), num_recent = std::min(num_rows, Weights::kRecentTokens);
  const uint64_t* const recent = active_.data() + size_t{num_rows - num_recent} * words;
  std::vector<uint32_t>&positions = parted_members_, &counts = parted_rows_;  // not in use yet
  size_t size = 0;
  for (uint32_t word = 0; word < words; ++word) {
    std::array<uint32_t, 64> used;
    CountChosen(recent + word, words, num_recent, used.data());
    for (uint32_t bit = 0; bit < 64; ++bit) {
      if (used[bit] == 0) continue;
      positions[size] = word * 64 + bit;
      counts[size++] = used[bit];
    }
  }
  weights_.KeepRecent(std::span(positions).first(size), std::span(counts).first(size));
}

bool Forward::GuessesEarly(uint32_t num_rows) const {
  return early_ != nullptr && !config_.parallel() && weights_.bundles_on_demand() && num_rows <= kEarlyRows;
}

// Early prediction (design.md section 5): reads for the FFN fly before it, during attention at least. It decides nothing but when bytes
// arrive. The residual stream is that before the layer, or, where the layer before waits for its last neurons meanwhile, before that
// layer's FFN (docs/decisions/0011-guess-a-layer-ahead.md).
void Forward::GuessEarly(uint32_t layer) {
  const uint64_t start = NowNs();
  // A sketch knows the rows of the FFN, not how attention's norm would have to be turned into the FFN's.
  const bool guesses_ffn_input = early_ == &selector_;
  if (config_.norm_placement == NormPlacement::kPost) {
    std::copy_n(residual_.data(), config_.hidden_size, early_input_.data());
  } else {
    Normalize(guesses_ffn_input ? Norm(layer, LayerVector::kFfnNormWeight, LayerVector::kFfnNormBias)
                                : Norm(layer, LayerVector::kAttnNormWeight, LayerVector::kAttnNormBias),
              residual_.data(), 1, early_input_.data());
  }
  early_->Select(layer, early_input_.data(), 1, early_active_, pool_, [&](uint32_t) { weights_.Poll(); });
  ListChosen(early_active_, 0, Selector::WordsPerToken(config_.ffn_size), early_positions_);
  guessed_layer_ = layer;
  times_.select_ns += NowNs() - start;
}

void Forward::PrefetchGuess() {
  // A guess that covers the whole layer (a layer without a predictor) says nothing.
  if (early_positions_.size() < config_.ffn_size) weights_.Prefetch(guessed_layer_, early_positions_);
}

// Parallel blocks know the FFN's input before attention: the active set itself, whose reads then fly meanwhile.
void Forward::PrefetchSelected(uint32_t layer, uint32_t num_rows) {
  if (config_.ffn_layout == FfnLayout::kMatrices || selects_by_gates()) return;
  Select(layer, num_rows);
  if (!weights_.bundles_on_demand() || !weights_.plan().overlap || num_rows > kEarlyRows) return;
  if (positions_.size() >= config_.ffn_size) return;
  weights_.Prefetch(layer, positions_);
  weights_.StartPrefetched();
}

// What is absent of the one row's chosen neurons among [begin, end): their reads begin while the others are being chosen.
void Forward::AskForChosen(uint32_t layer, uint32_t begin, uint32_t end) {
  ListChosen(active_, begin / 64, (end + 63) / 64, positions_);
  weights_.Prefetch(layer, positions_, Need::kCertain);
}

void Forward::Select(uint32_t layer, uint32_t num_rows) {
  const uint64_t start = NowNs();
  const bool asks_ahead = num_rows == 1 && !config_.parallel() && weights_.bundles_on_demand() && weights_.plan().overlap &&
                          weights_.plan().cache.bundling == Bundling::kTogether;
  uint32_t num_asked = 0;
  selector_.Select(layer, ffn_input_.data(), num_rows, active_, pool_, [&](uint32_t num_known) {
    if (asks_ahead && num_known > num_asked) {
      AskForChosen(layer, num_asked, num_known);
      num_asked = num_known;
    }
    weights_.Poll();
  });
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
  const BundleInfo& bundle = weights_.model().bundles()[layer];
  const DType gate_type = selects_by_gates() ? MatrixType(weights_.model().layer(layer).gate) : bundle.gate_type;
  PrepareInput({config_.gated ? gate_type : bundle.up_type, bundle.up_type}, ffn_input_.data(), hidden, num_rows, hidden);
  if (selects_by_gates()) {
    FRUGAL_TRY(ComputeGates(layer, num_rows));
    SelectByGates(layer, num_rows);
  } else if (!config_.parallel()) {
    Select(layer, num_rows);
  }
  ForEachRow(num_rows, [&](uint32_t row) { std::fill_n(block_out_.data() + row * hidden, hidden, 0.0f); });
  FRUGAL_TRY(weights_.BeginBundles(layer, positions_, counts_, num_rows));
  if (weights_.scans()) KeepRecent(num_rows);
  while (true) {
    FRUGAL_ASSIGN(const BundleWave wave, weights_.NextWave());
    if (wave.begin == wave.end) break;
    FRUGAL_TRY(ComputeActivations(layer, wave, num_rows));
    FRUGAL_TRY(weights_.FinishWave());
    // Not before: guesses would slow down the reads that the layer waits for.
    if (guessed_layer_ == layer + 1) weights_.StartPrefetched();
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
  const BundleInfo& bundle = weights_.model().bundles()[layer];
  while (true) {
    ReadyBundles ready;
    FRUGAL_ASSIGN(ready.members, weights_.NextReady(&ready.rows));
    if (ready.members.empty()) return {};
    const PartedBundles parted = num_rows == 1 ? PartedBundles{ready, {}} : Part(wave, ready, num_rows);
    // One after the other, a few common neurons would be a tile for one thread alone.
    const size_t num_common = parted.common.members.size(), num_rare = parted.rare.members.size();
    const Tiles common = num_common == 0 ? Tiles() : CutTiles(num_common, config_.hidden_size, num_rows, pool_.num_threads());
    const ChosenTiles rare = CutChosen(bundle, num_rare, num_rows);
    pool_.Run(
        common.count + rare.count(),
        [&](int tile, int worker) {
          if (tile < common.count) {
            ActivateAll(layer, wave, parted.common, common.begin(tile), common.end(tile), num_rows, worker);
          } else {
            ActivateChosen(layer, wave, parted.rare, rare, tile - common.count, worker);
          }
        },
        [&] { weights_.Poll(); });
    // What is still missing is on its way: time to guess for the next layer. A sketch needs the stream of its own layer.
    const bool is_made_later = wave.end < positions_.size() || layer + 1 == config_.num_layers || early_ == &selector_ ||
                               weights_.plan().cache.bundling == Bundling::kHalves;
    if (guessed_layer_ != kNoLayer || is_made_later || !GuessesEarly(num_rows)) continue;
    GuessEarly(layer + 1);
    PrefetchGuess();
  }
}

void Forward::DotUpRows(DType dtype, const RowSet& up, size_t count, uint32_t first_row, uint32_t num_rows, int worker, float* out) {
  const size_t hidden = config_.hidden_size, first = first_row * hidden;
  if (IsQuantised(dtype)) {
    const QuantisedInput input{input_q_.data() + first, input_scales_.data() + first / kQuantisedBlock};
    DotRowsQuantised(dtype, up, 0, count, hidden, input, num_rows, out, count);
  } else if (TakesPanels(num_rows)) {
    DotRowsOfPanels(dtype, up, 0, count, hidden, panels_.data(), num_rows, PanelScratch(worker), out, count);
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
  DotUpRows(bundle.up_type, rows.At(bundle.up_offset_bytes), count, 0, num_rows, worker, tile_products);
  if (has_bundled_gate()) DotUpRows(bundle.gate_type, rows, count, 0, num_rows, worker, tile_gates);
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

// block_out_[row] += sum over the wave's members, in position order, of activation * down row. Threads split the columns into
// long pieces, which the prefetchers follow.
void Forward::SumDown(uint32_t layer, const BundleWave& wave, uint32_t num_rows) {
  if (TakesPanels(num_rows)) return SumDownOfMany(layer, wave, num_rows);
  const BundleInfo& bundle = weights_.model().bundles()[layer];
  const uint32_t hidden = config_.hidden_size, num_threads = static_cast<uint32_t>(pool_.num_threads());
  const uint32_t piece = static_cast<uint32_t>(RoundUp((hidden + num_threads - 1) / num_threads, kColumnUnit));
  pool_.Run(
      static_cast<int>((hidden + piece - 1) / piece),
      [&](int tile, int) {
        const uint32_t begin = static_cast<uint32_t>(tile) * piece, end = std::min(hidden, begin + piece);
        for (uint32_t row = 0; row < num_rows; ++row) {
          AddScaledRows(bundle.down_type, wave.rows.At(bundle.down_offset_bytes), wave.end - wave.begin,
                        activations_.data() + size_t{row} * config_.ffn_size + wave.begin, begin, end,
                        block_out_.data() + size_t{row} * hidden);
        }
      },
      [&] { weights_.Poll(); });
}

}  // namespace frugal
