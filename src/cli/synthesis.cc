#include "src/cli/synthesis.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "src/cli/common.h"
#include "src/engine/engine.h"
#include "src/kernels/kernels.h"
#include "src/train/predictor_writer.h"
#include "src/train/quantised_predictor.h"
#include "src/train/use_counter.h"

namespace frugal {
namespace {

enum class Entries { kAll, kWithoutLast };

std::vector<std::byte> QuantiseRows(DType dtype, std::span<const float> rows, size_t columns) {
  const size_t num_rows = rows.size() / columns;
  const size_t row_bytes = *RowBytes(dtype, columns);
  std::vector<std::byte> bytes(num_rows * row_bytes);
  for (size_t i = 0; i < num_rows; ++i) {
    ConvertFromFloat(dtype, rows.data() + i * columns, columns, bytes.data() + i * row_bytes);
  }
  return bytes;
}

QuantisedPredictor MakePredictor(const SyntheticLayer& layer, uint32_t rank, Entries which, float margin) {
  const SyntheticLayerOptions& options = layer.options;
  QuantisedPredictor predictor;
  predictor.rank = rank;
  predictor.dtype = PredictorDType(options.hidden_size);
  predictor.down =
      QuantiseRows(predictor.dtype, std::span(layer.directions).first(size_t{rank} * options.hidden_size),
                   options.hidden_size);
  std::vector<float> up(size_t{options.ffn_size} * rank);
  const uint32_t num_entries = SyntheticLayer::kEntries - (which == Entries::kAll ? 0 : 1);
  for (size_t neuron = 0; neuron < options.ffn_size; ++neuron) {
    for (uint32_t k = 0; k < num_entries; ++k) {
      const size_t at = neuron * SyntheticLayer::kEntries + k;
      up[neuron * rank + layer.entries[at]] = layer.weights[at];
    }
  }
  predictor.up = QuantiseRows(predictor.dtype, up, rank);
  for (const float bias : layer.bias) predictor.bias.push_back(bias - options.threshold + margin);
  return predictor;
}

PredictorQuality Quality(const QuantisedPredictor* predictor, uint32_t rank, double recall, double predicted,
                         double active) {
  PredictorQuality quality;
  quality.rank = rank;
  quality.size_bytes = predictor == nullptr ? 0 : predictor->size_bytes();
  quality.recall = recall;
  quality.precision = recall * active / predicted;
  quality.false_negative_share = 1 - recall;
  quality.false_positive_share = predicted - recall * active;
  quality.predicted_share = predicted;
  quality.active_share = active;
  return quality;
}

LayerPredictors MakePredictors(const SyntheticLayer& layer) {
  LayerPredictors predictors;
  if (layer.quality.rank > 0) predictors.on_time = MakePredictor(layer, layer.options.rank, Entries::kAll, layer.margin);
  if (layer.quality.early_rank > 0) {
    predictors.early = MakePredictor(layer, layer.options.early_rank, Entries::kWithoutLast, layer.early_margin);
  }
  for (uint32_t neuron = 0; neuron < layer.options.ffn_size; ++neuron) {
    predictors.popularity.push_back(layer.Popularity(neuron));
  }
  return predictors;
}

// On inputs in the order of the text, which both predictors nearly see. Without an early predictor nothing is guessed.
// inputs [num_tokens, hidden_size]
void CountChoices(const SyntheticLayer& layer, std::span<const float> inputs, ThreadPool& pool, PredictorFileHead* head) {
  const SyntheticLayerOptions& options = layer.options;
  if (layer.quality.rank == 0) {
    head->window_misses.emplace_back();  // all are used for every token
    head->early_wrong_shares.push_back(0);
    return;
  }
  const QuantisedPredictor predictor = MakePredictor(layer, options.rank, Entries::kAll, layer.margin);
  const QuantisedPredictor early = MakePredictor(layer, options.early_rank, Entries::kWithoutLast, layer.early_margin);
  constexpr size_t kTokensAtOnce = 64;
  LowRankPredictor selector(options.hidden_size, options.ffn_size, kTokensAtOnce, pool.num_threads(), {predictor.view()});
  LowRankPredictor early_selector(options.hidden_size, options.ffn_size, kTokensAtOnce, pool.num_threads(), {early.view()});
  const size_t words = Selector::WordsPerToken(options.ffn_size);
  std::vector<uint64_t> bits(kTokensAtOnce * words), guesses(kTokensAtOnce * words);
  UseCounter uses(options.ffn_size);
  uint64_t num_wrong = 0;
  const size_t num_tokens = inputs.size() / options.hidden_size;
  for (size_t at = 0; at < num_tokens; at += kTokensAtOnce) {
    const size_t count = std::min(kTokensAtOnce, num_tokens - at);
    const float* const first = inputs.data() + at * options.hidden_size;
    selector.Select(0, first, static_cast<uint32_t>(count), bits, pool, [](uint32_t) {});
    if (layer.quality.early_rank > 0) {
      early_selector.Select(0, first, static_cast<uint32_t>(count), guesses, pool, [](uint32_t) {});
    }
    for (size_t row = 0; row < count; ++row) uses.AddToken(std::span<const uint64_t>(bits).subspan(row * words, words));
    for (size_t i = 0; i < count * words; ++i) num_wrong += static_cast<uint64_t>(std::popcount(guesses[i] & ~bits[i]));
  }
  head->window_misses.push_back(uses.Misses());
  head->early_wrong_shares.push_back(static_cast<float>(num_wrong) / (static_cast<float>(num_tokens) * static_cast<float>(options.ffn_size)));
}

}  // namespace

SynthesisPaths SynthesisPathsOf(const std::string& model_path) {
  const std::string stem =
      model_path.ends_with(".gguf") ? model_path.substr(0, model_path.size() - 5) : model_path;
  return {model_path, DefaultPredictorPath(model_path), stem + ".tokens.txt"};
}

Result<SyntheticReport> WriteSynthesis(const SyntheticOptions& options, SyntheticModel& model, ThreadPool& pool,
                                       FunctionRef<void(double share, std::string_view what)> progress) {
  const SynthesisPaths paths = SynthesisPathsOf(options.output_path);
  FRUGAL_ASSIGN(const SyntheticReport report, model.Write(progress));
  TrainOptions train;
  train.overwrite = options.overwrite;
  train.source = "synthetic";
  train.seed = options.seed;
  PredictorFileHead head;
  head.model_content_hash = report.content_hash;
  constexpr double kMeasuringShare = 0.5;  // of the time; the layers are made twice, as the header comes first
  for (uint32_t layer = 0; layer < options.config.num_layers; ++layer) {
    progress(kMeasuringShare * layer / options.config.num_layers, fmt::format("misses of layer {}", layer));
    CountChoices(model.Layer(layer), model.inputs(), pool, &head);
  }
  for (const SyntheticLayerQuality& layer : report.layers) {
    head.on_time.push_back(
        Quality(nullptr, layer.rank, layer.recall, layer.predicted_share, layer.active_share));
    head.early.push_back(Quality(nullptr, layer.early_rank, layer.early_recall, layer.early_predicted_share,
                                 layer.active_share));
  }
  train.recall_target = report.layers[0].recall;
  train.early_recall_target = report.layers[0].early_recall;
  const auto make_layer = [&](uint32_t layer) -> Result<LayerPredictors> {
    progress(kMeasuringShare + (1 - kMeasuringShare) * layer / options.config.num_layers,
             fmt::format("predictors of layer {}", layer));
    return MakePredictors(model.Layer(layer));
  };
  FRUGAL_TRY(WritePredictorFile(paths.predictor, train, options.config, head, make_layer));
  FRUGAL_TRY(WriteTextFile(paths.tokens, fmt::format("{}\n", fmt::join(model.tokens(), "\n")), options.overwrite));
  return report;
}

}  // namespace frugal
