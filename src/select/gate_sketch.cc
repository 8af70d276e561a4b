#include "src/select/gate_sketch.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "src/base/bytes.h"
#include "src/base/check.h"
#include "src/kernels/kernels.h"
#include "src/kernels/quantised_kernels.h"

namespace frugal {
namespace {

// A tile: about 0.1 ms of 4096 columns. Neurons are multiples of 64, so that tiles never share a word of the bitmap. Of many tokens the
// rows of a tile stay in the L2 cache while its pieces of tokens pass over them.
constexpr uint32_t kNeuronsOfFewTokens = 256;
constexpr uint32_t kNeuronsOfManyTokens = 64;
constexpr uint32_t kTokensOfTile = 4 * kRowsOfManyTokens;
constexpr size_t kTileScores = std::max<size_t>(kNeuronsOfFewTokens * (kManyTokens - 1), kNeuronsOfManyTokens * kTokensOfTile);
constexpr uint64_t kCacheLine = 64;

// Tiles of neurons times tiles of tokens of the largest batch.
uint32_t MostTiles(const GateSketchOptions& options) {
  const uint32_t of_few = (options.ffn_size + kNeuronsOfFewTokens - 1) / kNeuronsOfFewTokens;
  if (options.max_tokens < kManyTokens) return of_few;
  const uint32_t neuron_tiles = (options.ffn_size + kNeuronsOfManyTokens - 1) / kNeuronsOfManyTokens;
  return neuron_tiles * ((options.max_tokens + kTokensOfTile - 1) / kTokensOfTile);
}

// Of the margin, in standard deviations of a product's error.
constexpr float kMarginDeviations = 1.0f;

}  // namespace

DType GateSketch::TypeOf(DType row_type, uint32_t hidden_size, SketchPrecision precision) {
  const std::optional<uint64_t> four_bits = RowBytes(DType::kQ4_0, hidden_size);
  if (precision == SketchPrecision::kExact || !four_bits || *RowBytes(row_type, hidden_size) <= *four_bits) return row_type;
  return DType::kQ4_0;
}

bool GateSketch::IsExact(const GateSketchOptions& options) {
  return std::all_of(options.row_types.begin(), options.row_types.end(),
                     [&](DType type) { return TypeOf(type, options.hidden_size, options.precision) == type; });
}

bool GateSketch::HasQuantisedRows(const GateSketchOptions& options) {
  return std::any_of(options.row_types.begin(), options.row_types.end(),
                     [&](DType type) { return IsQuantised(TypeOf(type, options.hidden_size, options.precision)); });
}

uint64_t GateSketch::RowsBytes(const GateSketchOptions& options) {
  uint64_t bytes = 0;
  for (const DType type : options.row_types) {
    const DType copy = TypeOf(type, options.hidden_size, options.precision);
    bytes += RoundUp(options.ffn_size * *RowBytes(copy, options.hidden_size), kCacheLine);
  }
  return bytes;
}

uint64_t GateSketch::MemoryBytes(const GateSketchOptions& options) {
  const uint64_t hidden = options.hidden_size, tokens = options.max_tokens, threads = static_cast<uint64_t>(options.num_threads);
  uint64_t num_floats = options.row_types.size() * uint64_t{options.ffn_size} + threads * (2 * hidden + kTileScores) + tokens;
  if (HasQuantisedRows(options)) num_floats += tokens * hidden / 4 + tokens * hidden / kQuantisedBlock;
  return RoundUp(RowsBytes(options), 4096) + num_floats * sizeof(float) + TilesDone::MemoryBytes(MostTiles(options));
}

GateSketch::GateSketch(GateSketchOptions options, std::vector<std::span<const float>> biases)
    : options_(std::move(options)),
      margins_(options_.row_types.size() * options_.ffn_size),
      scratch_(static_cast<size_t>(options_.num_threads) * 2 * options_.hidden_size),
      lengths_(options_.max_tokens),
      scores_(static_cast<size_t>(options_.num_threads) * kTileScores),
      tiles_done_(MostTiles(options_)) {
  uint64_t offset_bytes = 0;
  for (size_t i = 0; i < options_.row_types.size(); ++i) {
    const DType type = TypeOf(options_.row_types[i], options_.hidden_size, options_.precision);
    const size_t row_bytes = static_cast<size_t>(*RowBytes(type, options_.hidden_size));
    layers_.push_back({type, row_bytes, offset_bytes, biases[i]});
    offset_bytes += RoundUp(options_.ffn_size * row_bytes, kCacheLine);
  }
  if (!HasQuantisedRows(options_)) return;
  input_q_.resize(size_t{options_.max_tokens} * options_.hidden_size);
  input_scales_.resize(input_q_.size() / kQuantisedBlock);
}

Result<std::unique_ptr<GateSketch>> GateSketch::Create(GateSketchOptions options, std::vector<std::span<const float>> biases) {
  CHECK(biases.size() == options.row_types.size());
  const uint64_t rows_bytes = RowsBytes(options);
  std::unique_ptr<GateSketch> sketch(new GateSketch(std::move(options), std::move(biases)));
  FRUGAL_ASSIGN(sketch->rows_, AlignedBuffer::Allocate(rows_bytes));
  return sketch;
}

void GateSketch::Encode(uint32_t layer_index, uint32_t position, const std::byte* row, int worker) {
  const Layer& layer = layers_[layer_index];
  const DType row_type = options_.row_types[layer_index];
  const size_t hidden = options_.hidden_size;
  std::byte* const copy = rows_.data() + layer.offset_bytes + position * layer.row_bytes;
  float& margin = margins_[size_t{layer_index} * options_.ffn_size + position];
  margin = 0.0f;
  if (layer.type == row_type) {
    std::memcpy(copy, row, layer.row_bytes);
    return;
  }
  float* const exact = scratch_.data() + static_cast<size_t>(worker) * 2 * hidden;
  float* const copied = exact + hidden;
  ConvertToFloat(row_type, row, hidden, exact);
  if (!AllFinite(exact, hidden)) {
    // Has no sketch: it is always chosen, so that the forward pass meets it and says so.
    std::memset(copy, 0, layer.row_bytes);
    margin = std::numeric_limits<float>::infinity();
    return;
  }
  ConvertFromFloat(layer.type, exact, hidden, copy);
  ConvertToFloat(layer.type, copy, hidden, copied);
  double square = 0;
  for (size_t i = 0; i < hidden; ++i) {
    const double difference = static_cast<double>(exact[i]) - static_cast<double>(copied[i]);
    square += difference * difference;
  }
  margin = kMarginDeviations * static_cast<float>(std::sqrt(square / static_cast<double>(hidden)));
}

void GateSketch::SelectTile(uint32_t layer_index, const float* x, uint32_t begin, uint32_t count, uint32_t first, uint32_t num_tokens,
                            uint64_t* active, float* scores) const {
  const Layer& layer = layers_[layer_index];
  const size_t hidden = options_.hidden_size, words = WordsPerToken(options_.ffn_size);
  const RowSet rows = RowSet{rows_.data() + layer.offset_bytes, layer.row_bytes, nullptr}.From(begin);
  if (IsQuantised(layer.type)) {
    const QuantisedInput input{input_q_.data() + first * hidden, input_scales_.data() + first * hidden / kQuantisedBlock};
    DotRowsQuantised(layer.type, rows, 0, count, hidden, input, num_tokens, scores, count);
  } else {
    DotRows(layer.type, rows, 0, count, hidden, x + first * hidden, hidden, num_tokens, scores, count);
  }
  const float* const margins = margins_.data() + size_t{layer_index} * options_.ffn_size + begin;
  for (uint32_t t = 0; t < num_tokens; ++t) {
    float* const sums = scores + size_t{t} * count;
    if (!layer.bias.empty()) {
      for (uint32_t i = 0; i < count; ++i) sums[i] += layer.bias[begin + i];
    }
    const float length = lengths_[first + t];
    for (uint32_t at = 0; at < count; at += 64) {
      uint64_t word = 0;
      for (uint32_t i = at; i < std::min(count, at + 64); ++i) {
        // Written so that a NaN selects the neuron: it then shows in the logits, where it is caught.
        word |= uint64_t{!(sums[i] + margins[i] * length <= options_.threshold)} << (i % 64);
      }
      active[(first + t) * words + (begin + at) / 64] = word;
    }
  }
}

void GateSketch::Select(uint32_t layer, const float* x, uint32_t num_tokens, std::span<uint64_t> active, ThreadPool& pool,
                        FunctionRef<void(uint32_t)> between_tiles) {
  const uint32_t ffn_size = options_.ffn_size;
  const size_t hidden = options_.hidden_size;
  CHECK(num_tokens <= options_.max_tokens && active.size() >= size_t{num_tokens} * WordsPerToken(ffn_size));
  const bool quantised = IsQuantised(layers_[layer].type);
  pool.Run(
      static_cast<int>(num_tokens),
      [&](int token, int) {
        const size_t first = static_cast<size_t>(token) * hidden;
        float square = 0;
        const RowSet row{reinterpret_cast<const std::byte*>(x + first), 0, nullptr};
        DotRows(DType::kF32, row, 0, 1, hidden, x + first, hidden, 1, &square, 1);
        lengths_[static_cast<size_t>(token)] = std::sqrt(square);
        if (quantised) QuantiseInput(x + first, hidden, input_q_.data() + first, input_scales_.data() + first / kQuantisedBlock);
      },
      [&] { between_tiles(0); });
  const bool many = num_tokens >= kManyTokens;
  const uint32_t tile_neurons = many ? kNeuronsOfManyTokens : kNeuronsOfFewTokens;
  const uint32_t tile_tokens = many ? kTokensOfTile : num_tokens;
  const uint32_t token_tiles = (num_tokens + tile_tokens - 1) / tile_tokens;
  const uint32_t neuron_tiles = (ffn_size + tile_neurons - 1) / tile_neurons;
  tiles_done_.Begin(neuron_tiles * token_tiles);
  pool.Run(
      static_cast<int>(neuron_tiles * token_tiles),
      [&](int tile, int worker) {
        const uint32_t begin = static_cast<uint32_t>(tile) / token_tiles * tile_neurons;
        const uint32_t first = static_cast<uint32_t>(tile) % token_tiles * tile_tokens;
        const uint32_t count = std::min(tile_neurons, ffn_size - begin);
        float* const scores = scores_.data() + static_cast<size_t>(worker) * kTileScores;
        SelectTile(layer, x, begin, count, first, std::min(tile_tokens, num_tokens - first), active.data(), scores);
        tiles_done_.Note(static_cast<uint32_t>(tile));
      },
      [&] { between_tiles(std::min(ffn_size, tiles_done_.NumFirst() / token_tiles * tile_neurons)); });
}

}  // namespace frugal
