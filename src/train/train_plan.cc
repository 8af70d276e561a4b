#include "src/train/train_plan.h"

#include <algorithm>

#include "src/base/bytes.h"
#include "src/engine/plan.h"
#include "src/model/kv_cache.h"
#include "src/model/forward.h"
#include "src/train/layer_fit.h"
#include "src/train/layer_run.h"

namespace frugal {
namespace {

constexpr uint32_t kMostSampledTogether = 32;
constexpr uint64_t kSmallParts = 2 * kMiB;  // text, places, headers, what malloc keeps

uint64_t WeightsBytes(const ModelFile& model, const WeightPlan& plan, const WeightsOptions& options) {
  const BlockLayout layout = LayOutBlocks(model, plan);
  return layout.resident_bytes + layout.stream_buffer_bytes * plan.num_stream_buffers +
         Weights::VectorBytes(model) + Weights::HashTableBytes(model, plan) + Weights::ScratchBytes(model) +
         Weights::ReaderBytes(options);
}

uint64_t SampleRunBytes(const ModelFile& model, const TrainOptions& options, const TextSize& text,
                        uint32_t batch) {
  const ModelConfig& config = model.config();
  return batch * KvCache::SizeBytes(config, config.num_layers, text.longest, DType::kF16) +
         Forward::MemoryBytes(config, static_cast<uint32_t>(options.num_threads), batch, batch,
                                 text.longest, Forward::InputsOf(model, WeightPlan())) +
         config.vocab_size * sizeof(float);
}

}  // namespace

SamplingPlan PlanSampling(const ModelFile& model, const TrainOptions& options, const TextSize& text, uint64_t available_bytes) {
  const uint32_t most = static_cast<uint32_t>(std::min<uint64_t>(kMostSampledTogether, text.num_sequences));
  const auto resident = [&](uint32_t) { return WeightPlan{}; };
  const auto streamed = [&](uint32_t batch) {
    WeightPlan plan;
    plan.resident_bytes = 0;
    const uint64_t needed =
        SampleRunBytes(model, options, text, batch) + WeightsBytes(model, plan, options.weights);
    if (needed < available_bytes) plan.resident_bytes = available_bytes - needed;
    return plan;
  };
  SamplingPlan sampling;
  const auto try_plans = [&](auto make_plan) {
    for (uint32_t batch = most; batch > 0; batch /= 2) {
      sampling = {batch, make_plan(batch), 0};
      sampling.size_bytes = SampleRunBytes(model, options, text, batch) +
                            WeightsBytes(model, sampling.weights, options.weights);
      if (sampling.size_bytes <= available_bytes) return true;
    }
    return false;
  };
  if (!try_plans(resident)) static_cast<void>(try_plans(streamed));
  return sampling;  // the smallest, when none fits
}

uint64_t LayerRunBytes(const ModelFile& model, const WeightsOptions& options, int num_threads,
                       const TextSize& text, uint64_t behind_run_bytes) {
  const ModelConfig& config = model.config();
  uint64_t most = 0;
  for (uint32_t layer = 0; layer < config.num_layers; ++layer) {
    most = std::max(most, WeightsBytes(model, OneLayerPlan(layer), options));
  }
  const uint64_t embedding_bytes =
      (uint64_t{config.hidden_size} * text.longest + text.num_tokens * 4 +
       (config.has_projections() ? uint64_t{config.hidden_size} * config.embedding_size : 0)) *
      sizeof(float);
  const uint64_t run_bytes =
      Forward::MemoryBytes(config, static_cast<uint32_t>(num_threads), kRunRows, 0, text.longest,
                              Forward::InputsOf(model, WeightPlan())) +
      KvCache::SizeBytes(config, 1, text.longest, DType::kF16) + behind_run_bytes;
  return most + std::max(embedding_bytes, run_bytes);
}

Result<TrainPlan> PlanTraining(const ModelFile& model, const TrainOptions& options, const TextSize& text) {
  const ModelConfig& config = model.config();
  const uint64_t process_bytes = ProcessBytes(options.num_threads) + kSmallParts;
  const uint64_t hidden_bytes = text.num_tokens * config.hidden_size * sizeof(float);
  const uint64_t sample_row_bytes =
      uint64_t{config.hidden_size} * sizeof(uint16_t) * (options.early ? 2 : 1) +
      Selector::WordsPerToken(config.ffn_size) * sizeof(uint64_t);
  const uint64_t samples_bytes = text.num_tokens * sample_row_bytes;
  const uint64_t up_bytes = uint64_t{config.ffn_size} * config.hidden_size * sizeof(float);
  const uint64_t run_bytes = LayerRunBytes(model, options.weights, options.num_threads, text, up_bytes);
  const uint64_t fit_bytes = FitLayerBytes(options, config.hidden_size, config.ffn_size);
  const uint64_t layer_bytes = std::max(run_bytes, fit_bytes);

  TrainPlan plan;
  uint64_t sampling_bytes = 0;
  if (options.sequences.empty()) {
    const uint64_t available = options.ram_bytes > process_bytes ? options.ram_bytes - process_bytes : 0;
    const SamplingPlan sampling = PlanSampling(model, options, text, available);
    plan.sample_batch = sampling.batch;
    plan.sample_weights = sampling.weights;
    sampling_bytes = sampling.size_bytes;
  }
  const uint64_t smallest = process_bytes + std::max(layer_bytes, sampling_bytes);
  if (options.ram_bytes < smallest) {
    return MakeError(ErrorCode::kDoesNotFit,
                     "{}: training does not fit in {}; the smallest budget that works is {}", model.path(),
                     FormatSize(options.ram_bytes), FormatSize(RoundUp(smallest, kMiB)));
  }
  const uint64_t for_rows = options.ram_bytes - process_bytes - layer_bytes;
  if (hidden_bytes + samples_bytes > for_rows) plan.hidden = Placement::kSpilled;
  if (plan.hidden == Placement::kSpilled && samples_bytes > for_rows) plan.samples = Placement::kSpilled;

  plan.ledger.Add("program", process_bytes, "code, stacks, text, small parts");
  const auto add_rows = [&](const char* name, Placement placement, uint64_t size_bytes) {
    const bool in_memory = placement == Placement::kMemory;
    plan.ledger.Add(name, in_memory ? size_bytes : 0,
                    in_memory ? "" : fmt::format("{} in a temporary file", FormatSize(size_bytes)));
  };
  add_rows("hidden states", plan.hidden, hidden_bytes);
  add_rows("layer inputs and activity", plan.samples, samples_bytes);
  plan.ledger.Add("one layer", layer_bytes,
                  fmt::format("the larger of running it ({}) and fitting ({})", FormatSize(run_bytes),
                              FormatSize(fit_bytes)));
  const uint64_t rows_and_layer = plan.ledger.total_bytes() - process_bytes;
  if (sampling_bytes > rows_and_layer) {
    plan.ledger.Add(
        "sampling", sampling_bytes - rows_and_layer,
        fmt::format("what it needs above the rows and the layer, which come after it: {} sequences together",
                    plan.sample_batch));
  }
  return plan;
}

}  // namespace frugal
