#include "src/pack/synthetic_layer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <numeric>
#include <utility>

#include "src/base/check.h"
#include "src/kernels/kernels.h"
#include "src/kernels/training_kernels.h"

namespace frugal {
namespace {

// Enough for a share of 1.6% to come out within 2%.
constexpr size_t kSamples = 65536;
constexpr uint32_t kNeuronsPerGroup = 64;
constexpr float kSharedEnergy = 0.5f;
enum Purpose : uint64_t { kDirections, kGroups, kNeurons, kNoise, kSampling };

double NormalShare(double z) { return 0.5 * std::erfc(-z * 0.70710678118654752); }

// Random pairs of an input and a neuron.
struct Samples {
  std::vector<float> score;       // combination . directions . input, before rho
  std::vector<float> early;       // the same, as the early predictor sees it
  std::vector<float> popularity;  // standard Gaussian of the neuron
};

// What a value of rho leads to.
struct Fit {
  double threshold = 0;  // middle of the neurons' thresholds
  double margin = 0;
  double active_share = 0, recall = 0;
};

double Spread(const SyntheticLayerOptions& options, double rho) {
  return rho * std::sqrt(options.popularity_share / (1 - options.popularity_share));
}

// The order of the sums does not depend on the number of threads.
double MeanActive(const Samples& samples, double rho, double spread, double threshold, ThreadPool& pool) {
  constexpr size_t kPerTile = 4096;
  static_assert(kSamples % kPerTile == 0);
  const double noise = std::sqrt(1 - rho * rho);
  std::array<double, kSamples / kPerTile> sums = {};
  pool.Run(static_cast<int>(sums.size()), [&](int tile, int) {
    const size_t begin = static_cast<size_t>(tile) * kPerTile;
    double sum = 0;
    for (size_t i = begin; i < begin + kPerTile; ++i) {
      sum += NormalShare((rho * samples.score[i] - spread * samples.popularity[i] - threshold) / noise);
    }
    sums[static_cast<size_t>(tile)] = sum;
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0) / static_cast<double>(kSamples);
}

// The margin at which `share` of the samples are chosen.
double MarginFor(std::vector<float> scores, double share) {
  const size_t rank =
      std::min(scores.size() - 1, static_cast<size_t>(share * static_cast<double>(scores.size())));
  std::nth_element(scores.begin(), scores.begin() + static_cast<ptrdiff_t>(rank), scores.end(),
                   std::greater<>());
  return -scores[rank];
}

Fit FitThresholds(const Samples& samples, const SyntheticLayerOptions& options, double rho,
                  ThreadPool& pool) {
  const double spread = Spread(options, rho);
  const double noise = std::sqrt(1 - rho * rho);
  double low = 0, high = 8;
  for (int i = 0; i < 18; ++i) {
    const double middle = (low + high) / 2;
    (MeanActive(samples, rho, spread, middle, pool) > options.active_share ? low : high) = middle;
  }
  Fit fit;
  fit.threshold = (low + high) / 2;
  std::vector<float> scores(samples.score.size());
  for (size_t i = 0; i < scores.size(); ++i) {
    scores[i] = static_cast<float>(rho * samples.score[i] - spread * samples.popularity[i] - fit.threshold);
  }
  fit.margin = MarginFor(scores, options.predicted_share);
  double active = 0, found = 0;
  for (const float score : scores) {
    const double share = NormalShare(score / noise);
    active += share;
    if (score + fit.margin >= 0) found += share;
  }
  fit.active_share = active / static_cast<double>(scores.size());
  fit.recall = found / active;
  return fit;
}

Samples DrawSamples(const SyntheticLayer& layer, std::span<const float> popularity,
                    std::span<const float> inputs, ThreadPool& pool) {
  const SyntheticLayerOptions& options = layer.options;
  const size_t hidden = options.hidden_size;
  const size_t num_inputs = inputs.size() / hidden;
  std::vector<float> projected(num_inputs * options.rank);  // [num_inputs, rank]
  constexpr size_t kInputsPerTile = 8;
  pool.Run(static_cast<int>((num_inputs + kInputsPerTile - 1) / kInputsPerTile), [&](int tile, int) {
    const size_t begin = static_cast<size_t>(tile) * kInputsPerTile;
    const size_t count = std::min(kInputsPerTile, num_inputs - begin);
    MatMulF32(inputs.data() + begin * hidden, layer.directions.data(),
              projected.data() + begin * options.rank, count, options.rank, hidden);
  });
  Random random(MixSeeds(options.seed, kSampling));
  Samples samples;
  for (size_t i = 0; i < kSamples; ++i) {
    // Every input as often as any other: what differs between tokens averages out as far as it can.
    const float* const x = projected.data() + i % num_inputs * options.rank;
    const size_t neuron = random.Below(options.ffn_size);
    float score = 0, last = 0;
    for (uint32_t k = 0; k < SyntheticLayer::kEntries; ++k) {
      const size_t at = neuron * SyntheticLayer::kEntries + k;
      last = layer.weights[at] * x[layer.entries[at]];
      score += last;
    }
    samples.score.push_back(score);
    samples.early.push_back(score - last);
    samples.popularity.push_back(popularity[neuron]);
  }
  return samples;
}

// Directions and combinations; weights without rho.
void DrawCombinations(SyntheticLayer& layer) {
  const SyntheticLayerOptions& options = layer.options;
  constexpr uint32_t kEntries = SyntheticLayer::kEntries, kShared = SyntheticLayer::kShared;
  const uint32_t num_groups = std::max(1u, options.ffn_size / kNeuronsPerGroup);
  layer.entries.resize(size_t{options.ffn_size} * kEntries);
  layer.weights.resize(layer.entries.size());
  const float shared = std::sqrt(kSharedEnergy / kShared),
              own = std::sqrt((1 - kSharedEnergy) / (kEntries - kShared));
  for (uint32_t neuron = 0; neuron < options.ffn_size; ++neuron) {
    // Neighbours are of different groups: the order of neurons in a file says nothing about them.
    Random group(MixSeeds(options.seed, kGroups, neuron % num_groups));
    Random random(MixSeeds(options.seed, kNeurons, neuron));
    for (uint32_t k = 0; k < kEntries; ++k) {
      Random& source = k < kShared ? group : random;
      const size_t at = size_t{neuron} * kEntries + k;
      // What the early predictor has no room for may be any direction of the on-time one's.
      const uint32_t bound = k + 1 == kEntries ? options.rank : options.early_rank;
      uint32_t entry = 0;
      do {
        entry = static_cast<uint32_t>(source.Below(bound));
      } while (std::find(layer.entries.begin() + static_cast<ptrdiff_t>(at - k),
                         layer.entries.begin() + static_cast<ptrdiff_t>(at),
                         entry) != layer.entries.begin() + static_cast<ptrdiff_t>(at));
      layer.entries[at] = entry;
      const bool negative = (source.Next() >> 63) != 0;
      layer.weights[at] = (negative ? -1.0f : 1.0f) * (k < kShared ? shared : own);
    }
  }
}

// The early predictor chooses what reaches its recall.
void FitEarly(const Samples& samples, double threshold, SyntheticLayer& layer) {
  const double spread = Spread(layer.options, layer.rho), noise = std::sqrt(1 - layer.rho * layer.rho);
  std::vector<std::pair<float, float>> scores;  // early score, share of being active
  double active = 0;
  for (size_t i = 0; i < samples.score.size(); ++i) {
    const double rest = -spread * samples.popularity[i] - threshold;
    const double share = NormalShare((layer.rho * samples.score[i] + rest) / noise);
    active += share;
    scores.emplace_back(static_cast<float>(layer.rho * samples.early[i] + rest), static_cast<float>(share));
  }
  std::sort(scores.begin(), scores.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  double found = 0;
  size_t count = 0;
  while (count < scores.size() && found < layer.options.early_recall * active)
    found += scores[count++].second;
  layer.early_margin = -scores[count - 1].first;
  layer.quality.early_recall = found / active;
  layer.quality.early_predicted_share = static_cast<double>(count) / static_cast<double>(scores.size());
}

// Of the predictors that the layer is made without.
void DropMissing(SyntheticLayer& layer) {
  SyntheticLayerQuality& quality = layer.quality;
  if (!layer.options.has_predictor) {
    quality.rank = 0;
    quality.recall = quality.predicted_share = 1;
  }
  if (!layer.options.has_predictor || !layer.options.has_early) {
    quality.early_rank = 0;
    quality.early_recall = quality.early_predicted_share = 1;
  }
}

}  // namespace

SyntheticLayer MakeSyntheticLayer(const SyntheticLayerOptions& options, const NoisePool& noise,
                                  std::span<const float> inputs, ThreadPool& pool) {
  CHECK(options.early_rank >= 2 * SyntheticLayer::kEntries && options.early_rank <= options.rank);
  CHECK(!inputs.empty() && inputs.size() % options.hidden_size == 0);
  SyntheticLayer layer;
  layer.options = options;
  const size_t hidden = options.hidden_size;
  layer.directions.resize(options.rank * hidden);
  const float unit = 1.0f / std::sqrt(static_cast<float>(hidden));
  for (uint32_t k = 0; k < options.rank; ++k) {
    noise.AddRow(MixSeeds(options.seed, kDirections, k), unit, layer.directions.data() + k * hidden, hidden);
  }
  DrawCombinations(layer);
  std::vector<float> popularity(options.ffn_size + 1);
  Random random(MixSeeds(options.seed, kNeurons, ~uint64_t{0}));
  for (size_t i = 0; i < options.ffn_size; i += 2) TwoGaussians(random, popularity.data() + i);
  const Samples samples = DrawSamples(layer, popularity, inputs, pool);

  // The better the predictor knows the neurons, the more of them it finds among those that it may choose.
  double low = 0.3, high = 0.9995;
  for (int i = 0; i < 14; ++i) {
    const double middle = (low + high) / 2;
    (FitThresholds(samples, options, middle, pool).recall < options.recall ? low : high) = middle;
  }
  const double rho = (low + high) / 2;
  const Fit fit = FitThresholds(samples, options, rho, pool);
  layer.rho = static_cast<float>(rho);
  layer.margin = static_cast<float>(fit.margin);
  layer.quality.rank = options.rank;
  layer.quality.early_rank = options.early_rank;
  layer.quality.active_share = fit.active_share;
  layer.quality.recall = fit.recall;
  layer.quality.predicted_share = options.predicted_share;
  layer.noise_scale = static_cast<float>(std::sqrt(1 - rho * rho)) * unit;
  FitEarly(samples, fit.threshold, layer);
  DropMissing(layer);
  for (float& weight : layer.weights) weight *= layer.rho;
  const double spread = Spread(options, rho);
  layer.bias.resize(options.ffn_size);
  for (size_t i = 0; i < options.ffn_size; ++i) {
    layer.bias[i] = static_cast<float>(-spread * popularity[i] - fit.threshold) + options.threshold;
  }
  return layer;
}

void SyntheticLayer::FiringRow(uint32_t neuron, const NoisePool& noise, float* out) const {
  const size_t hidden = options.hidden_size;
  std::fill_n(out, hidden, 0.0f);
  const RowSet rows{reinterpret_cast<const std::byte*>(directions.data()), hidden * sizeof(float),
                    entries.data() + size_t{neuron} * kEntries};
  AddScaledRows(DType::kF32, rows, kEntries, weights.data() + size_t{neuron} * kEntries, 0, hidden, out);
  noise.AddRow(MixSeeds(options.seed, kNoise, neuron), noise_scale, out, hidden);
}

float SyntheticLayer::Popularity(uint32_t neuron) const {
  if (!options.has_predictor) return 1.0f;
  return static_cast<float>(NormalShare((bias[neuron] - options.threshold + margin) / rho));
}

uint64_t SyntheticLayer::MemoryBytes(const SyntheticLayerOptions& options, size_t num_inputs) {
  return uint64_t{options.rank} * (options.hidden_size + num_inputs) * sizeof(float) +
         uint64_t{options.ffn_size} * (2 * kEntries + 2) * sizeof(float) + kSamples * 8 * sizeof(float);
}

}  // namespace frugal
