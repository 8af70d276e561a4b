#include "src/engine/gate_sketch_load.h"

#include <numeric>

namespace frugal {
namespace {

constexpr size_t kRowsOfTile = 16;

// One layer of all neurons. `positions`, `counts` [ffn_size].
Status FillLayer(Weights& weights, ThreadPool& pool, uint32_t layer, std::span<const uint32_t> positions, std::span<const uint32_t> counts,
                 GateSketch& sketch) {
  // As if two tokens wanted every neuron: a batch that needs a whole layer streams it past the cache where the plan has buffers for that.
  FRUGAL_TRY(weights.BeginBundles(layer, positions, counts, 2));
  while (true) {
    FRUGAL_ASSIGN(const BundleWave wave, weights.NextWave());
    if (wave.begin == wave.end) break;
    while (true) {
      RowSet rows;
      FRUGAL_ASSIGN(const std::span<const uint32_t> members, weights.NextReady(&rows));
      if (members.empty()) break;
      pool.Run(
          static_cast<int>((members.size() + kRowsOfTile - 1) / kRowsOfTile),
          [&](int tile, int worker) {
            const size_t begin = static_cast<size_t>(tile) * kRowsOfTile;
            for (size_t i = begin; i < std::min(members.size(), begin + kRowsOfTile); ++i) {
              sketch.Encode(layer, positions[wave.begin + members[i]], rows.row(i), worker);
            }
          },
          [&] { weights.Poll(); });
    }
    FRUGAL_TRY(weights.FinishWave());
    weights.EndWave();
  }
  weights.EndBundles();
  return {};
}

}  // namespace

GateSketchOptions SketchOptionsOf(const ModelFile& model, SelectorKind selector, uint32_t max_rows, int num_threads) {
  const ModelConfig& config = model.config();
  GateSketchOptions options;
  options.hidden_size = config.hidden_size;
  options.ffn_size = config.ffn_size;
  options.max_tokens = max_rows;
  options.num_threads = num_threads;
  options.threshold = config.activation.kind == ActivationKind::kFatRelu ? config.activation.threshold : 0.0f;
  options.precision = selector == SelectorKind::kGate ? SketchPrecision::kExact : SketchPrecision::kFourBits;
  for (const BundleInfo& bundle : model.bundles()) options.row_types.push_back(config.gated ? bundle.gate_type : bundle.up_type);
  return options;
}

uint64_t GateSketchBytes(const GateSketchOptions& options) {
  return GateSketch::MemoryBytes(options) + 2 * uint64_t{options.ffn_size} * sizeof(uint32_t);
}

Result<std::unique_ptr<GateSketch>> LoadGateSketch(Weights& weights, ThreadPool& pool, const EnginePlan& plan) {
  const ModelConfig& config = weights.model().config();
  std::vector<std::span<const float>> biases;
  for (uint32_t layer = 0; layer < config.num_layers; ++layer) {
    biases.push_back(weights.vector(layer, config.gated ? LayerVector::kGateBias : LayerVector::kUpBias));
  }
  FRUGAL_ASSIGN(std::unique_ptr<GateSketch> sketch,
                GateSketch::Create(SketchOptionsOf(weights.model(), plan.selector, plan.max_rows, pool.num_threads()), std::move(biases)));
  std::vector<uint32_t> positions(config.ffn_size);
  std::iota(positions.begin(), positions.end(), 0u);
  const std::vector<uint32_t> counts(config.ffn_size, 2);
  for (uint32_t layer = 0; layer < config.num_layers; ++layer) FRUGAL_TRY(FillLayer(weights, pool, layer, positions, counts, *sketch));
  return sketch;
}

}  // namespace frugal
