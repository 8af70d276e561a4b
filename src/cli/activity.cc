#include "src/cli/activity.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "src/base/check.h"
#include "src/engine/engine.h"
#include "src/model/predictor_file.h"
#include "src/select/low_rank_predictor.h"

namespace frugal {
namespace {

constexpr size_t kMaxWindow = LayerActivity::kMaxWindow;

uint64_t CountBits(std::span<const uint64_t> words) {
  uint64_t count = 0;
  for (const uint64_t word : words) count += static_cast<uint64_t>(std::popcount(word));
  return count;
}

// predicted [num_rows, words]
void CountWindows(std::span<const uint64_t> predicted, size_t num_rows, size_t words, double ffn_size,
                  LayerActivity* layer) {
  std::vector<uint64_t> seen(words);
  for (size_t row = kMaxWindow - 1; row < num_rows; ++row) {
    std::fill(seen.begin(), seen.end(), 0);
    for (size_t k = 1; k <= kMaxWindow; ++k) {
      const uint64_t* const set = predicted.data() + (row - k + 1) * words;
      for (size_t i = 0; i < words; ++i) seen[i] |= set[i];
      layer->aggregated[k] += static_cast<double>(CountBits(seen));
    }
  }
  const double scale = 1.0 / (ffn_size * static_cast<double>(num_rows - kMaxWindow + 1));
  for (double& share : layer->aggregated) share *= scale;
}

class Measurement {
 public:
  Measurement(Engine& engine, const PredictorFile& predictors, uint32_t num_rows, ThreadPool& pool)
      : ffn_size_(engine.config().ffn_size),
        words_(Selector::WordsPerToken(ffn_size_)),
        pool_(pool),
        predictor_(engine.config().hidden_size, ffn_size_, num_rows, pool.num_threads(),
                   predictors.factors(PredictorKind::kOnTime)),
        predicted_(size_t{num_rows} * words_),
        layers_(engine.config().num_layers) {
    for (size_t layer = 0; layer < layers_.size(); ++layer) layers_[layer].has_predictor = predictors.info().layers[layer].rank > 0;
  }

  void Observe(const LayerObservation& observation) {
    // All neurons are computed: a neuron's position is its index.
    CHECK(observation.positions.size() == ffn_size_);
    const size_t num_rows = observation.num_rows;
    predictor_.Select(observation.layer, observation.ffn_input, observation.num_rows, predicted_, pool_,
                      [](uint32_t) {});
    uint64_t num_active = 0, num_found = 0;
    for (size_t row = 0; row < num_rows; ++row) {
      const float* const activations = observation.activations + row * observation.activation_stride;
      const uint64_t* const predicted = predicted_.data() + row * words_;
      for (uint32_t i = 0; i < ffn_size_; ++i) {
        if (activations[i] == 0) continue;
        ++num_active;
        num_found += (predicted[i / 64] >> (i % 64)) & 1;
      }
    }
    const double all = static_cast<double>(num_rows) * ffn_size_;
    LayerActivity& layer = layers_[observation.layer];
    layer.active_share = static_cast<double>(num_active) / all;
    layer.predicted_share = static_cast<double>(CountBits(predicted_)) / all;
    layer.recall = num_active == 0 ? 1.0 : static_cast<double>(num_found) / static_cast<double>(num_active);
    CountWindows(predicted_, num_rows, words_, ffn_size_, &layer);
  }
  std::vector<LayerActivity> TakeLayers() { return std::move(layers_); }

 private:
  const uint32_t ffn_size_;
  const uint32_t words_;
  ThreadPool& pool_;
  LowRankPredictor predictor_;
  std::vector<uint64_t> predicted_;  // [num_rows, words]
  std::vector<LayerActivity> layers_;
};

}  // namespace

Result<std::vector<LayerActivity>> MeasureActivity(const ActivityOptions& options,
                                                   std::span<const int32_t> tokens,
                                                   FunctionRef<void(double share)> progress) {
  if (tokens.size() < options.num_tokens || options.num_tokens <= kMaxWindow) {
    return MakeError(ErrorCode::kUsage, "{} tokens, at least {} are needed", tokens.size(),
                     std::max<size_t>(options.num_tokens, kMaxWindow + 1));
  }
  EngineOptions engine_options;
  engine_options.model_path = options.model_path;
  engine_options.mode = RunMode::kNaive;  // each weight is read once for all tokens
  engine_options.predictor = false;
  engine_options.ram_bytes = options.ram_bytes;
  engine_options.context = options.num_tokens;
  engine_options.max_batch = options.num_tokens;
  engine_options.exact_batch = true;
  engine_options.num_threads = options.num_threads;
  FRUGAL_ASSIGN(const std::unique_ptr<Engine> engine, Engine::Open(engine_options));
  FRUGAL_ASSIGN(const PredictorFile predictors,
                PredictorFile::Open(DefaultPredictorPath(options.model_path), engine->config(),
                                    engine->weights().content_hash(), false));
  FRUGAL_ASSIGN(const std::unique_ptr<ThreadPool> pool, ThreadPool::Create(options.num_threads));
  Measurement measurement(*engine, predictors, options.num_tokens, *pool);
  FRUGAL_ASSIGN(const std::unique_ptr<Session> session, engine->NewSession());
  const auto observe = [&](const LayerObservation& observation) -> Status {
    measurement.Observe(observation);
    progress(static_cast<double>(observation.layer + 1) / engine->config().num_layers);
    return {};
  };
  const LayerObserver observer(observe);
  FRUGAL_TRY(engine->Step(*session, tokens.first(options.num_tokens), 1, &observer));
  return measurement.TakeLayers();
}

LayerActivity MeanActivity(std::span<const LayerActivity> layers) {
  LayerActivity mean;
  double found_share = 0;
  size_t count = 0;
  for (const LayerActivity& layer : layers) {
    if (!layer.has_predictor) continue;
    ++count;
    mean.active_share += layer.active_share;
    mean.predicted_share += layer.predicted_share;
    found_share += layer.active_share * layer.recall;
    for (size_t k = 0; k <= kMaxWindow; ++k) mean.aggregated[k] += layer.aggregated[k];
  }
  const double scale = 1.0 / static_cast<double>(std::max<size_t>(1, count));
  mean.recall = mean.active_share == 0 ? 1.0 : found_share / mean.active_share;
  mean.active_share *= scale;
  mean.predicted_share *= scale;
  for (double& share : mean.aggregated) share *= scale;
  return mean;
}

std::vector<WantedFigure> CompareActivity(std::span<const LayerActivity> layers, const SyntheticActivity& wanted) {
  const LayerActivity mean = MeanActivity(layers);
  std::vector<WantedFigure> active;
  double wanted_mean = 0;
  const uint32_t num_layers = static_cast<uint32_t>(layers.size());
  for (uint32_t layer = 0; layer < num_layers; ++layer) {
    if (!layers[layer].has_predictor) continue;
    active.push_back({"", SyntheticActiveShare(wanted, layer, num_layers), layers[layer].active_share});
    wanted_mean += active.back().wanted;
  }
  CHECK(!active.empty());
  wanted_mean /= static_cast<double>(active.size());
  const size_t k = wanted.window;
  return {{"active neurons, first layer", active.front().wanted, active.front().measured},
          {"active neurons, last layer with a predictor", active.back().wanted, active.back().measured},
          {"active neurons, mean", wanted_mean, mean.active_share},
          {"predicted neurons", wanted.predicted, mean.aggregated[1]},
          {"false negatives, of the active", 0.05, 1 - mean.recall},
          {fmt::format("held by a window of {}", k), wanted.held, mean.aggregated[k]},
          {fmt::format("loaded a token by a window of {}", k), wanted.loaded, mean.aggregated[k + 1] - mean.aggregated[k]}};
}

std::string FormatFigures(std::span<const WantedFigure> figures) {
  std::string text = "| figure | wanted | measured | |\n|---|---|---|---|\n";
  for (const WantedFigure& figure : figures) {
    text += fmt::format("| {} | {:.2f}% | {:.2f}% | {} |\n", figure.name, 100 * figure.wanted,
                        100 * figure.measured, figure.holds() ? "holds" : "OFF");
  }
  return text;
}

}  // namespace frugal
