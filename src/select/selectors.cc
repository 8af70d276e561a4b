#include <algorithm>

#include "src/base/check.h"
#include "src/kernels/kernels.h"
#include "src/kernels/quantised_kernels.h"
#include "src/select/low_rank_predictor.h"
#include "src/select/selector.h"

namespace frugal {
namespace {

constexpr uint32_t kRankRowsPerTile = 16;
// Neurons of a tile, multiples of 64: tiles never share a word of the bitmap. Few tokens: long streams of short rows.
constexpr uint32_t kNeuronsOfManyTokens = 256;
constexpr uint32_t kNeuronsOfFewTokens = 1024;

uint32_t MaxRank(const std::vector<LowRankFactors>& layers) {
  uint32_t max_rank = 0;
  for (const LowRankFactors& layer : layers) max_rank = std::max(max_rank, layer.rank);
  return max_rank;
}

void SetAll(uint32_t ffn_size, uint32_t num_tokens, std::span<uint64_t> active) {
  const uint32_t words = Selector::WordsPerToken(ffn_size);
  CHECK(active.size() >= size_t{num_tokens} * words);
  std::fill_n(active.begin(), size_t{num_tokens} * words, ~uint64_t{0});
  if (ffn_size % 64 == 0) return;
  for (uint32_t t = 0; t < num_tokens; ++t) active[(t + 1) * words - 1] = (uint64_t{1} << (ffn_size % 64)) - 1;
}

}  // namespace

void AllSelector::Select(uint32_t, const float*, uint32_t num_tokens, std::span<uint64_t> active, ThreadPool&,
                         FunctionRef<void(uint32_t)>) {
  SetAll(ffn_size_, num_tokens, active);
}

LowRankPredictor::LowRankPredictor(uint32_t hidden_size, uint32_t ffn_size, uint32_t max_tokens, int num_threads,
                                   std::vector<LowRankFactors> layers)
    : hidden_size_(hidden_size),
      ffn_size_(ffn_size),
      max_tokens_(max_tokens),
      layers_(std::move(layers)),
      projected_(size_t{max_tokens} * MaxRank(layers_)),
      projected_q_(projected_.size()),
      projected_scales_(projected_.size() / kQuantisedBlock),
      scores_(static_cast<size_t>(num_threads) * ScoresPerThread(max_tokens)),
      tiles_done_(WordsPerToken(ffn_size)) {}

uint64_t LowRankPredictor::ScoresPerThread(uint32_t max_tokens) {
  const uint64_t most_of_few = std::min<uint64_t>(max_tokens, kManyTokens - 1);
  return std::max(most_of_few * kNeuronsOfFewTokens, uint64_t{max_tokens} * kNeuronsOfManyTokens);
}

uint64_t LowRankPredictor::ScratchBytes(uint32_t ffn_size, uint32_t max_rank, uint32_t max_tokens, int num_threads) {
  const uint64_t projected = uint64_t{max_tokens} * max_rank;
  const uint64_t num_floats = projected + projected / kQuantisedBlock + static_cast<uint64_t>(num_threads) * ScoresPerThread(max_tokens);
  return num_floats * sizeof(float) + projected + TilesDone::MemoryBytes(WordsPerToken(ffn_size));
}

void LowRankPredictor::Select(uint32_t layer, const float* x, uint32_t num_tokens, std::span<uint64_t> active, ThreadPool& pool,
                              FunctionRef<void(uint32_t)> between_tiles) {
  CHECK(num_tokens <= max_tokens_);
  const LowRankFactors& factors = layers_[layer];
  if (factors.rank == 0) {
    SetAll(ffn_size_, num_tokens, active);
    return;
  }
  const uint32_t rank = factors.rank;
  const RowSet down{factors.down, static_cast<size_t>(*RowBytes(factors.dtype, hidden_size_)), nullptr};
  const RowSet up{factors.up, static_cast<size_t>(*RowBytes(factors.dtype, rank)), nullptr};
  const int rank_tiles = static_cast<int>((rank + kRankRowsPerTile - 1) / kRankRowsPerTile);
  pool.Run(
      rank_tiles,
      [&](int tile, int) {
        const uint32_t begin = tile * kRankRowsPerTile;
        DotRows(factors.dtype, down, begin, std::min(rank, begin + kRankRowsPerTile), hidden_size_, x, hidden_size_, num_tokens,
                projected_.data(), rank);
      },
      [&] { between_tiles(0); });
  const bool quantised = IsQuantised(factors.dtype);
  if (quantised) QuantiseInput(projected_.data(), size_t{num_tokens} * rank, projected_q_.data(), projected_scales_.data());
  const uint32_t words = WordsPerToken(ffn_size_);
  const uint32_t shared = ffn_size_ / static_cast<uint32_t>(pool.num_threads()) / 64 * 64;
  const uint32_t per_tile = num_tokens < kManyTokens ? std::clamp(shared, 64u, kNeuronsOfFewTokens) : kNeuronsOfManyTokens;
  const uint32_t num_tiles = (ffn_size_ + per_tile - 1) / per_tile;
  tiles_done_.Begin(num_tiles);
  pool.Run(
      static_cast<int>(num_tiles),
      [&](int tile, int worker) {
        const uint32_t begin = tile * per_tile;
        const uint32_t count = std::min(ffn_size_ - begin, per_tile);
        float* const tile_scores = scores_.data() + static_cast<size_t>(worker) * ScoresPerThread(max_tokens_);
        if (quantised) {
          DotRowsQuantised(factors.dtype, up.From(begin), 0, count, rank, {projected_q_.data(), projected_scales_.data()}, num_tokens,
                           tile_scores, per_tile);
        } else {
          DotRows(factors.dtype, up.From(begin), 0, count, rank, projected_.data(), rank, num_tokens, tile_scores, per_tile);
        }
        const float* const bias = factors.bias + begin;
        for (uint32_t t = 0; t < num_tokens; ++t) {
          const float* const scores = tile_scores + size_t{t} * per_tile;
          for (uint32_t first = 0; first < count; first += 64) {
            uint64_t word = 0;
            for (uint32_t i = first; i < std::min(count, first + 64); ++i) {
              // Written so that a NaN score selects the neuron: the NaN then shows in the logits, where it is caught.
              word |= uint64_t{!(scores[i] + bias[i] < 0.0f)} << (i % 64);
            }
            active[size_t{t} * words + (begin + first) / 64] = word;
          }
        }
        tiles_done_.Note(static_cast<uint32_t>(tile));
      },
      [&] { between_tiles(std::min(ffn_size_, tiles_done_.NumFirst() * per_tile)); });
}

}  // namespace frugal
