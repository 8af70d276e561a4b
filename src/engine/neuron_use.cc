#include "src/engine/neuron_use.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "src/format/byte_source.h"
#include "src/format/gguf_reader.h"
#include "src/format/neuron_activity.h"
#include "src/format/packed_format.h"

namespace frugal {
namespace {

// Of a product with a row in Q4_0, in standard deviations of the products: the weights' 4 bits and the input's 8. On models/tale the
// sketch marks 1.216 times the neurons that are active (docs/decisions/0009-gate-sketch.md), this says 1.22.
constexpr double kSketchError = 0.09;

// Up's sign tells nothing of the gate's: of the neurons that a dReLU's gate lets through, about half are active.
constexpr double kActiveOfDReluGates = 0.5;

// Of the neurons that a token uses, those that none of the 1, 2, 4, ... tokens before it did. With a window of about 4 tokens the models of
// "LLM in a flash" load from 0.24 (OPT-6.7B) to 0.32 (Phi-2) of what they mark; of those that are active in models/tale 0.47 are new.
constexpr std::array<double, kNumWindows> kUsualMisses = {0.68, 0.52, 0.37, 0.24, 0.14, 0.07, 0.035};

// Guesses of a sketch before attention that are wrong, as a share of what it chooses behind it: in models/tale, whose wrong ones are in
// memory about as often as others (docs/selectors.md).
constexpr double kWrongEarlyGuesses = 0.7;

struct UsualActivity {
  double passed;  // share of the neurons that the gate (or up, without gate) lets through
  const char* activation;
};

// Without gate and of FATReLU as in "LLM in a flash" (its table 3); gated ReLU: ReluLLaMA's authors give 33%, ProSparse's 11%.
UsualActivity UsualActivityOf(const ModelConfig& config) {
  switch (config.activation.kind) {
    case ActivationKind::kRelu:
      return config.gated ? UsualActivity{0.3, "a gated ReLU"} : UsualActivity{0.08, "a ReLU"};
    case ActivationKind::kRelu2:
      return {0.08, "a squared ReLU"};
    case ActivationKind::kFatRelu:
      return {0.1, "a FATReLU"};
    case ActivationKind::kDRelu:
      return {0.3, "the gate of a dReLU"};
    default:
      return {1.0, "this activation"};
  }
}

double NormalBelow(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }

// The x above which a standard normal variable is with that probability.
double NormalQuantile(double above) {
  double low = -9, high = 9;
  for (int step = 0; step < 60; ++step) {
    const double middle = (low + high) / 2;
    (1 - NormalBelow(middle) > above ? low : high) = middle;
  }
  return low;
}

// What is said of one layer before the selector is looked at.
struct LayerUse {
  double passed = 0, active = 0;  // shares of the neurons
  std::array<double, kNumWindows> misses{};  // of those that pass, as shares of them
};

LayerUse UsualUse(double passed) {
  LayerUse use{passed, passed, kUsualMisses};
  // Text uses neurons again more often than chance does.
  for (size_t i = 0; i < kNumWindows; ++i) use.misses[i] = std::min(use.misses[i], std::pow(1 - passed, static_cast<double>(1 << i)));
  return use;
}

LayerUse LayerUseOf(const ModelConfig& config, const std::optional<KnownActivity>& known, uint32_t layer) {
  const bool drelu = config.activation.kind == ActivationKind::kDRelu;
  if (!known) {
    LayerUse use = UsualUse(UsualActivityOf(config).passed);
    if (drelu) use.active *= kActiveOfDReluGates;
    return use;
  }
  const double share = static_cast<double>(known->activity.active_shares[layer]);
  LayerUse use = UsualUse(drelu && !known->of_gates ? std::min(1.0, share / kActiveOfDReluGates) : share);
  use.active = drelu && known->of_gates ? share * kActiveOfDReluGates : share;
  const std::vector<WindowMisses>& misses = known->activity.window_misses;
  if (misses.empty() || share <= 0) return use;
  for (size_t i = 0; i < kNumWindows; ++i) use.misses[i] = std::min(1.0, static_cast<double>(misses[layer][i]) / share);
  return use;
}

std::string BasisOf(const ModelConfig& config, const std::optional<KnownActivity>& known) {
  if (!known) {
    const UsualActivity usual = UsualActivityOf(config);
    return fmt::format(
        "assumed, not measured: {:.0f}% of the neurons a token, as is usual for {}; `frugal pack --calibrate TEXT` measures it",
        100 * usual.passed, usual.activation);
  }
  if (known->activity.window_misses.empty()) return "activity as the file says; how much of it comes back from token to token is assumed";
  return "for a text like the one that the file was calibrated on";
}

}  // namespace

NeuronUse AllNeuronsUsed(const ModelConfig& config) {
  NeuronUse use;
  use.shares.assign(size_t{config.num_layers} * config.ffn_size, 1.0f);
  use.active = static_cast<double>(use.shares.size());
  return use;
}

Result<NeuronUse> LoadNeuronUse(const PredictorInfo& predictor, const ModelConfig& config) {
  FRUGAL_ASSIGN(auto source, OpenFileSource(predictor.path));
  FRUGAL_ASSIGN(const GgufReader gguf, GgufReader::Open(std::move(source)));
  FRUGAL_ASSIGN(source, OpenFileSource(predictor.path));
  NeuronUse use = AllNeuronsUsed(config);
  use.active = 0;
  if (!predictor.window_misses.empty()) use.window_misses.assign(kNumWindows, 0.0);
  for (uint32_t layer = 0; layer < config.num_layers; ++layer) {
    const PredictorLayerInfo& quality = predictor.layers[layer];
    use.early_wrong += static_cast<double>(quality.early_wrong_share) * config.ffn_size;
    const double found = quality.rank == 0 ? 1.0 : static_cast<double>(quality.recall);
    use.active += static_cast<double>(quality.active_share) * found * config.ffn_size;
    if (quality.rank == 0) continue;
    const std::span<float> of_layer =
        std::span(use.shares).subspan(size_t{layer} * config.ffn_size, config.ffn_size);
    for (size_t i = 0; i < use.window_misses.size(); ++i) {
      use.window_misses[i] += static_cast<double>(predictor.window_misses[layer][i]) * config.ffn_size;
    }
    const std::string name = PredictorTensorName(layer, PredictorKind::kOnTime, "popularity");
    const TensorInfo* info = gguf.FindTensor(name);
    if (info == nullptr || info->dtype != DType::kF32 || info->extent.size_bytes != of_layer.size_bytes()) {
      return BadModel("{}: {}: expected F32 [{}]", predictor.path, name, config.ffn_size);
    }
    FRUGAL_TRY(source->Read(info->extent.offset_bytes, std::as_writable_bytes(of_layer)));
    for (size_t i = 0; i < of_layer.size(); ++i) {
      if (of_layer[i] >= 0.0f && of_layer[i] <= 1.0f) continue;
      return BadModel("{}: {}[{}] is {}, expected 0 to 1", predictor.path, name, i, of_layer[i]);
    }
    const double mean = std::accumulate(of_layer.begin(), of_layer.end(), 0.0) / static_cast<double>(of_layer.size());
    if (mean <= 0) continue;
    const float scale = static_cast<float>(predictor.layers[layer].predicted_share / mean);
    for (float& share : of_layer) share = std::min(1.0f, share * scale);
  }
  return use;
}

double SketchedShare(double active) {
  if (active <= 0 || active >= 1) return active;
  // Marked: gate + error + one standard deviation of the error is above the threshold.
  const double threshold = NormalQuantile(active) - kSketchError;
  return 1 - NormalBelow(threshold / std::sqrt(1 + kSketchError * kSketchError));
}

Result<std::optional<KnownActivity>> FindActivity(const ModelFile& model) {
  if (!model.is_packed() || model.is_checkpoint()) return std::optional<KnownActivity>();  // a checkpoint as if it were packed
  FRUGAL_ASSIGN(std::optional<NeuronActivity> stored, ReadActivityKeys(model.gguf(), model.config().num_layers));
  if (!stored) return std::optional<KnownActivity>();
  return std::optional(KnownActivity{*std::move(stored), model.config().ffn_layout == FfnLayout::kGateAndBundle2});
}

NeuronUse ExpectGateUse(const ModelConfig& config, const std::optional<KnownActivity>& known, const EnginePlan& plan) {
  const bool sketched = plan.selector == SelectorKind::kSketch && !plan.exact;
  NeuronUse use;
  use.basis = BasisOf(config, known);
  use.assumed = !known;
  use.window_misses.assign(kNumWindows, 0.0);
  for (uint32_t layer = 0; layer < config.num_layers; ++layer) {
    const LayerUse of_layer = LayerUseOf(config, known, layer);
    const double chosen = sketched ? SketchedShare(of_layer.passed) : of_layer.passed;
    use.shares.insert(use.shares.end(), config.ffn_size, static_cast<float>(chosen));
    use.active += of_layer.active * config.ffn_size;
    for (size_t i = 0; i < kNumWindows; ++i) use.window_misses[i] += of_layer.misses[i] * chosen * config.ffn_size;
    if (plan.use_early) use.early_wrong += kWrongEarlyGuesses * chosen * config.ffn_size;
  }
  return use;
}

NeuronUse NeuronsLeft(const ModelConfig& config, const GateThresholds& thresholds) {
  NeuronUse use = AllNeuronsUsed(config);
  std::fill(use.shares.begin(), use.shares.end(), 1.0f - thresholds.share);
  use.active *= 1.0 - static_cast<double>(thresholds.share);
  use.basis = "as many neurons as the thresholds were calibrated to leave, all of them alike";
  return use;
}

Result<NeuronUse> ExpectNeuronUse(const ModelFile& model, const PredictorInfo* predictor, const GateThresholds* thresholds,
                                  const EnginePlan& plan) {
  if (plan.use_predictor()) {
    FRUGAL_ASSIGN(NeuronUse use, LoadNeuronUse(*predictor, model.config()));
    use.basis = "for a text like the one that the predictors were trained on";
    return use;
  }
  if (plan.sparsified && thresholds != nullptr) return NeuronsLeft(model.config(), *thresholds);
  const bool all = plan.selector == SelectorKind::kAll || !model.config().activation.is_sparse();
  if (all || !model.has_bundles()) return AllNeuronsUsed(model.config());
  FRUGAL_ASSIGN(const std::optional<KnownActivity> known, FindActivity(model));
  return ExpectGateUse(model.config(), known, plan);
}

}  // namespace frugal
