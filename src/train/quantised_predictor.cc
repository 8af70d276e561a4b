#include "src/train/quantised_predictor.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

#include "src/kernels/kernels.h"
#include "src/kernels/quantised_kernels.h"
#include "src/train/linear_algebra.h"

namespace frugal {
namespace {

constexpr uint64_t kRowsAtOnce = 64;
constexpr size_t kNeuronsPerTile = 256;

// out[i] = row i . x, as LowRankPredictor's first product is computed.
void Project(DType dtype, std::span<const std::byte> rows, size_t num_rows, size_t columns, const float* x,
             size_t num_tokens, float* out) {
  const RowSet set{rows.data(), static_cast<size_t>(*RowBytes(dtype, columns)), nullptr};
  DotRows(dtype, set, 0, num_rows, columns, x, columns, num_tokens, out, num_rows);
}

// The same as its second product: where the rows are quantised, so is x.
void Score(DType dtype, std::span<const std::byte> rows, size_t num_rows, size_t rank, const float* x, size_t num_tokens, float* out) {
  if (!IsQuantised(dtype)) return Project(dtype, rows, num_rows, rank, x, num_tokens, out);
  std::vector<int8_t> q(num_tokens * rank);
  std::vector<float> scales(q.size() / kQuantisedBlock);
  QuantiseInput(x, q.size(), q.data(), scales.data());
  const RowSet set{rows.data(), static_cast<size_t>(*RowBytes(dtype, rank)), nullptr};
  DotRowsQuantised(dtype, set, 0, num_rows, rank, {q.data(), scales.data()}, num_tokens, out, num_rows);
}

std::vector<std::byte> QuantiseRows(DType dtype, const float* rows, size_t num_rows, size_t columns) {
  const size_t row_bytes = *RowBytes(dtype, columns);
  std::vector<std::byte> bytes(num_rows * row_bytes);
  for (size_t i = 0; i < num_rows; ++i)
    ConvertFromFloat(dtype, rows + i * columns, columns, bytes.data() + i * row_bytes);
  return bytes;
}

double Share(uint64_t part, uint64_t whole, double empty) {
  return whole == 0 ? empty : static_cast<double>(part) / static_cast<double>(whole);
}

}  // namespace

DType PredictorDType(uint32_t hidden_size) { return hidden_size % 32 == 0 ? DType::kQ8_0 : DType::kF16; }

uint64_t PredictorBytes(uint32_t hidden_size, uint32_t ffn_size, uint32_t rank) {
  const DType dtype = PredictorDType(hidden_size);
  return rank * *RowBytes(dtype, hidden_size) + ffn_size * *RowBytes(dtype, rank) + ffn_size * sizeof(float);
}

QuantisedPredictor Quantise(ThreadPool& pool, const WhiteFactors& factors, const Whitening& whitening) {
  const size_t hidden = whitening.mean.size();
  const size_t ffn = factors.bias.size();
  const size_t rank = factors.rank;
  QuantisedPredictor predictor;
  predictor.rank = factors.rank;
  predictor.dtype = PredictorDType(static_cast<uint32_t>(hidden));

  std::vector<float> down(rank * hidden), plain(rank * hidden);
  for (size_t i = 0; i < hidden; ++i) {
    for (size_t k = 0; k < rank; ++k) down[k * hidden + i] = factors.down_transposed[i * rank + k];
  }
  Multiply(pool, down.data(), whitening.inverse.data(), plain.data(), rank, hidden, hidden);
  predictor.down = QuantiseRows(predictor.dtype, plain.data(), rank, hidden);

  std::vector<float> up(ffn * rank);
  for (size_t begin = 0; begin < ffn; begin += kNeuronsPerBlock) {
    const size_t width = std::min(kNeuronsPerBlock, ffn - begin);
    const float* const block = factors.up.data() + begin * rank;
    for (size_t i = 0; i < width; ++i) {
      for (size_t k = 0; k < rank; ++k) up[(begin + i) * rank + k] = block[k * width + i];
    }
  }
  predictor.up = QuantiseRows(predictor.dtype, up.data(), ffn, rank);

  // With the factors as they were rounded: their error on the mean input, which outliers make large, then
  // cancels.
  std::vector<float> projected(rank), offset(ffn);
  Project(predictor.dtype, predictor.down, rank, hidden, whitening.mean.data(), 1, projected.data());
  Score(predictor.dtype, predictor.up, ffn, rank, projected.data(), 1, offset.data());
  predictor.bias.resize(ffn);
  for (size_t i = 0; i < ffn; ++i) predictor.bias[i] = factors.bias[i] - offset[i];
  return predictor;
}

ScoreCounts::ScoreCounts() : all_(size_t{1} << (32 - kDroppedBits)), active_(all_.size()) {}

// Bits of a float in the order of its value.
size_t ScoreCounts::BinOf(float score) {
  const uint32_t bits = std::bit_cast<uint32_t>(score);
  return ((bits >> 31) != 0 ? ~bits : bits | 0x80000000u) >> kDroppedBits;
}

float ScoreCounts::LowerEdge(size_t bin) {
  const uint32_t ordered = static_cast<uint32_t>(bin) << kDroppedBits;
  return std::bit_cast<float>((ordered >> 31) != 0 ? ordered & 0x7fffffffu : ~ordered);
}

void ScoreCounts::Add(const ScoreCounts& other) {
  for (size_t i = 0; i < all_.size(); ++i) {
    all_[i] += other.all_[i];
    active_[i] += other.active_[i];
  }
}

ScoreCounts::Choice ScoreCounts::Choose(double recall) const {
  uint64_t num_all = 0, num_active = 0;
  size_t last = 0;
  for (size_t i = 0; i < all_.size(); ++i) {
    num_all += all_[i];
    num_active += active_[i];
    if (all_[i] > 0) last = i;
  }
  Choice choice;
  choice.active_share = Share(num_active, num_all, 0.0);
  choice.threshold = LowerEdge(std::min(last + 1, all_.size() - 1));
  uint64_t chosen = 0, chosen_active = 0;
  for (size_t bin = last + 1;
       bin-- > 0 && static_cast<double>(chosen_active) < recall * static_cast<double>(num_active);) {
    chosen += all_[bin];
    chosen_active += active_[bin];
    choice.threshold = LowerEdge(bin);
  }
  choice.recall = Share(chosen_active, num_active, 1.0);
  choice.predicted_share = Share(chosen, num_all, 0.0);
  return choice;
}

double ScoreCounts::RecallWithMargin(double recall) const {
  const double num_active = static_cast<double>(std::accumulate(active_.begin(), active_.end(), uint64_t{0}));
  return std::min(1.0, recall + std::sqrt(recall * (1.0 - recall) / std::max(1.0, num_active)));
}

uint64_t CountScoresBytes(int num_threads) {
  return (uint64_t{1} << 20) * 2 * sizeof(uint32_t) * (static_cast<uint64_t>(num_threads) + 1);
}

Result<ScoreCounts> CountScores(ThreadPool& pool, const QuantisedPredictor& predictor, const RowStore& inputs,
                                const RowStore& active, RowRange rows) {
  const size_t hidden = inputs.row_bytes() / sizeof(uint16_t);
  const size_t ffn = predictor.bias.size();
  const size_t words = active.row_bytes() / sizeof(uint64_t);
  const size_t up_row_bytes = *RowBytes(predictor.dtype, predictor.rank);
  std::vector<ScoreCounts> counts(static_cast<size_t>(pool.num_threads()));
  std::vector<float> x(kRowsAtOnce * hidden), projected(kRowsAtOnce * predictor.rank);
  std::vector<float> scores(counts.size() * kRowsAtOnce * kNeuronsPerTile);
  std::vector<uint64_t> labels(kRowsAtOnce * words);
  std::vector<std::byte> scratch;
  for (uint64_t at = 0; at < rows.count; at += kRowsAtOnce) {
    const RowRange part = {rows.begin + at, std::min(kRowsAtOnce, rows.count - at)};
    FRUGAL_TRY(ReadHalfRows(inputs, part, hidden, scratch, x.data()));
    FRUGAL_TRY(active.Read(part.begin, std::as_writable_bytes(std::span(labels).first(part.count * words))));
    Project(predictor.dtype, predictor.down, predictor.rank, hidden, x.data(), part.count, projected.data());
    pool.Run(static_cast<int>((ffn + kNeuronsPerTile - 1) / kNeuronsPerTile), [&](int tile, int worker) {
      const size_t begin = tile * kNeuronsPerTile;
      const size_t width = std::min(kNeuronsPerTile, ffn - begin);
      float* const out = scores.data() + static_cast<size_t>(worker) * kRowsAtOnce * kNeuronsPerTile;
      Score(predictor.dtype, std::span(predictor.up).subspan(begin * up_row_bytes), width, predictor.rank, projected.data(), part.count,
            out);
      ScoreCounts& count = counts[static_cast<size_t>(worker)];
      for (size_t row = 0; row < part.count; ++row) {
        for (size_t i = 0; i < width; ++i) {
          const size_t neuron = begin + i;
          const bool is_active = ((labels[row * words + neuron / 64] >> (neuron % 64)) & 1) != 0;
          count.Add(out[row * width + i] + predictor.bias[neuron], is_active);
        }
      }
    });
  }
  for (size_t i = 1; i < counts.size(); ++i) counts[0].Add(counts[i]);
  return std::move(counts[0]);
}

Result<PredictorQuality> MeasureQuality(ThreadPool& pool, const QuantisedPredictor& predictor,
                                        const RowStore& inputs, const RowStore& active, RowRange rows,
                                        UseCounter* uses) {
  const uint32_t hidden = static_cast<uint32_t>(inputs.row_bytes() / sizeof(uint16_t));
  const uint32_t ffn = static_cast<uint32_t>(predictor.bias.size());
  const size_t words = active.row_bytes() / sizeof(uint64_t);
  LowRankPredictor selector(hidden, ffn, kRowsAtOnce, pool.num_threads(), {predictor.view()});
  std::vector<float> x(kRowsAtOnce * hidden);
  std::vector<uint64_t> labels(kRowsAtOnce * words), bits(kRowsAtOnce * words);
  std::vector<std::byte> scratch;
  uint64_t num_active = 0, num_chosen = 0, num_both = 0;
  for (uint64_t at = 0; at < rows.count; at += kRowsAtOnce) {
    const RowRange part = {rows.begin + at, std::min(kRowsAtOnce, rows.count - at)};
    FRUGAL_TRY(ReadHalfRows(inputs, part, hidden, scratch, x.data()));
    FRUGAL_TRY(active.Read(part.begin, std::as_writable_bytes(std::span(labels).first(part.count * words))));
    selector.Select(0, x.data(), static_cast<uint32_t>(part.count), bits, pool, [](uint32_t) {});
    for (size_t i = 0; i < part.count * words; ++i) {
      num_active += static_cast<uint64_t>(std::popcount(labels[i]));
      num_chosen += static_cast<uint64_t>(std::popcount(bits[i]));
      num_both += static_cast<uint64_t>(std::popcount(labels[i] & bits[i]));
    }
    for (size_t row = 0; uses != nullptr && row < part.count; ++row) {
      uses->AddToken(std::span<const uint64_t>(bits).subspan(row * words, words));
    }
  }
  const uint64_t num_all = rows.count * ffn;
  PredictorQuality quality;
  quality.rank = predictor.rank;
  quality.size_bytes = predictor.size_bytes();
  quality.recall = Share(num_both, num_active, 1.0);
  quality.precision = Share(num_both, num_chosen, 1.0);
  quality.false_negative_share = Share(num_active - num_both, num_active, 0.0);
  quality.false_positive_share = Share(num_chosen - num_both, num_all, 0.0);
  quality.predicted_share = Share(num_chosen, num_all, 0.0);
  quality.active_share = Share(num_active, num_all, 0.0);
  return quality;
}

Result<float> MeasureEarlyWrong(ThreadPool& pool, const QuantisedPredictor& on_time, const QuantisedPredictor& early,
                                const LayerSamples& samples, RowRange rows) {
  const uint32_t hidden = static_cast<uint32_t>(samples.on_time.row_bytes() / sizeof(uint16_t));
  const uint32_t ffn = static_cast<uint32_t>(on_time.bias.size());
  const size_t words = Selector::WordsPerToken(ffn);
  LowRankPredictor on_time_selector(hidden, ffn, kRowsAtOnce, pool.num_threads(), {on_time.view()});
  LowRankPredictor early_selector(hidden, ffn, kRowsAtOnce, pool.num_threads(), {early.view()});
  std::vector<float> x(kRowsAtOnce * hidden);
  std::vector<uint64_t> wanted(kRowsAtOnce * words), guessed(kRowsAtOnce * words);
  std::vector<std::byte> scratch;
  uint64_t num_wrong = 0;
  for (uint64_t at = 0; at < rows.count; at += kRowsAtOnce) {
    const RowRange part = {rows.begin + at, std::min(kRowsAtOnce, rows.count - at)};
    FRUGAL_TRY(ReadHalfRows(samples.on_time, part, hidden, scratch, x.data()));
    on_time_selector.Select(0, x.data(), static_cast<uint32_t>(part.count), wanted, pool, [](uint32_t) {});
    FRUGAL_TRY(ReadHalfRows(samples.early, part, hidden, scratch, x.data()));
    early_selector.Select(0, x.data(), static_cast<uint32_t>(part.count), guessed, pool, [](uint32_t) {});
    for (size_t i = 0; i < part.count * words; ++i) num_wrong += static_cast<uint64_t>(std::popcount(guessed[i] & ~wanted[i]));
  }
  return static_cast<float>(Share(num_wrong, rows.count * ffn, 0.0));
}

}  // namespace frugal
