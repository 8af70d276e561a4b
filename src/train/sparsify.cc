#include "src/train/sparsify.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "src/base/bytes.h"
#include "src/base/clock.h"
#include "src/engine/plan.h"
#include "src/engine/selector_choice.h"
#include "src/train/magnitude_histogram.h"
#include "src/train/text_cut.h"
#include "src/train/text_sampler.h"
#include "src/train/train_plan.h"

namespace frugal {
namespace {

using Progress = FunctionRef<void(double share, std::string_view what)>;

constexpr size_t kHeldOutEvery = 4;
constexpr double kSampleShare = 0.5;       // of the whole run, for the progress
constexpr uint64_t kSmallParts = 2 * kMiB;  // text, headers, what malloc keeps

class Sparsifier {
 public:
  Sparsifier(const TrainOptions& options, float share, ModelFile model, Progress progress)
      : options_(options), share_(share), model_(std::move(model)), config_(model_.config()), progress_(progress) {}

  Result<SparsifyReport> Run();

 private:
  Status PlanMemory();
  Status MakeText();
  Status RunLayer(uint32_t layer);
  double text_share() const { return options_.sequences.empty() ? kSampleShare : 0.0; }

  const TrainOptions& options_;
  const float share_;
  const ModelFile model_;
  const ModelConfig& config_;
  const Progress progress_;
  TextSize size_;  // of the whole text
  SamplingPlan sampling_;
  std::unique_ptr<ThreadPool> pool_;
  TokenSequences text_;  // to calibrate on, once the held-out sequences are taken out
  RowStore hidden_;
  SparsifyReport report_;
};

Status Sparsifier::PlanMemory() {
  if (options_.sequences.empty()) {
    size_ = SampledTextSize(options_, config_);
  } else {
    FRUGAL_ASSIGN(text_, CutText(options_, config_));
    size_.num_sequences = text_.size();
    for (const std::vector<int32_t>& sequence : text_) {
      size_.num_tokens += sequence.size();
      size_.longest = std::max(size_.longest, static_cast<uint32_t>(sequence.size()));
    }
  }
  const uint64_t process_bytes = ProcessBytes(options_.num_threads) + kSmallParts + size_.num_tokens * 2 * sizeof(int32_t);
  const uint64_t layer_bytes = LayerRunBytes(model_, options_.weights, options_.num_threads, size_, MagnitudeHistogram::MemoryBytes());
  uint64_t smallest = process_bytes + layer_bytes;
  if (options_.sequences.empty()) {
    const uint64_t available = options_.ram_bytes > process_bytes ? options_.ram_bytes - process_bytes : 0;
    sampling_ = PlanSampling(model_, options_, size_, available);
    smallest = std::max(smallest, process_bytes + sampling_.size_bytes);
  }
  if (options_.ram_bytes < smallest) {
    return MakeError(ErrorCode::kDoesNotFit, "{}: calibrating does not fit in {}; the smallest budget that works is {}", model_.path(),
                     FormatSize(options_.ram_bytes), FormatSize(RoundUp(smallest, kMiB)));
  }
  const uint64_t hidden_bytes = size_.num_tokens * config_.hidden_size * sizeof(float);
  report_.spilled = hidden_bytes > options_.ram_bytes - process_bytes - layer_bytes;
  MemoryLedger& ledger = report_.memory;
  ledger.Add("program", process_bytes, "code, stacks, text, small parts");
  ledger.Add("one layer", layer_bytes, "its weights, running it, the magnitudes of its gates");
  ledger.Add("hidden states", report_.spilled ? 0 : hidden_bytes,
             report_.spilled ? fmt::format("{} in a temporary file", FormatSize(hidden_bytes)) : "");
  return {};
}

Status Sparsifier::MakeText() {
  if (options_.sequences.empty()) {
    FRUGAL_ASSIGN(const auto weights, Weights::Open(model_, sampling_.weights, options_.weights));
    FRUGAL_ASSIGN(text_, SampleText(*weights, *pool_, size_.num_sequences, size_.longest, sampling_.batch, options_.seed, options_.cancel,
                                    [&](double share) { progress_(kSampleShare * share, "sampling text"); }));
  }
  TokenSequences calibrated;
  uint64_t num_tokens = 0;
  for (size_t i = 0; i < text_.size(); ++i) {
    const bool held_out = (i + 1) % kHeldOutEvery == 0 || (i + 1 == text_.size() && report_.held_out.empty());
    (held_out ? report_.num_held_out_tokens : num_tokens) += text_[i].size();
    (held_out ? report_.held_out : calibrated).push_back(std::move(text_[i]));
  }
  text_ = std::move(calibrated);
  report_.thresholds.num_tokens = num_tokens;
  return {};
}

Status Sparsifier::RunLayer(uint32_t layer) {
  const auto show = [&](double share) {
    progress_(text_share() + (1.0 - text_share()) * (layer + share) / config_.num_layers, fmt::format("layer {}", layer));
  };
  FRUGAL_ASSIGN(const auto weights, Weights::Open(model_, OneLayerPlan(layer), options_.weights));
  if (layer == 0) FRUGAL_TRY(EmbedText(*weights, text_, hidden_));
  MagnitudeHistogram magnitudes;
  const auto record = [&](const LayerObservation& seen, uint64_t) -> Status {
    magnitudes.Add({seen.gates, size_t{seen.num_rows} * config_.ffn_size});
    return {};
  };
  const RowsObserver observer(record);
  FRUGAL_TRY(RunLayerOverText(*weights, *pool_, layer, text_, size_.longest, hidden_, &observer, options_.cancel, show));
  const float threshold = magnitudes.Threshold(static_cast<double>(share_));
  if (!std::isfinite(threshold)) {
    return BadModel("{}: layer {}: {:.4g} of the activated gates are not finite; `frugal check` finds the weight", model_.path(), layer,
                    1 - static_cast<double>(share_));
  }
  report_.thresholds.thresholds.push_back(threshold);
  show(1.0);
  return {};
}

Result<SparsifyReport> Sparsifier::Run() {
  const uint64_t start_ns = NowNs();
  FRUGAL_TRY(PlanMemory());
  FRUGAL_ASSIGN(report_.thresholds.model_content_hash, model_.ReadContentHash());
  report_.thresholds.share = share_;
  report_.thresholds.source = options_.source;
  FRUGAL_ASSIGN(pool_, ThreadPool::Create(options_.num_threads));
  FRUGAL_TRY(MakeText());
  FRUGAL_ASSIGN(hidden_, RowStore::Create(report_.thresholds.num_tokens, config_.hidden_size * sizeof(float),
                                          report_.spilled ? Placement::kSpilled : Placement::kMemory, options_.output_path));
  for (uint32_t layer = 0; layer < config_.num_layers; ++layer) FRUGAL_TRY(RunLayer(layer));
  report_.seconds = static_cast<double>(NowNs() - start_ns) / 1e9;
  return std::move(report_);
}

}  // namespace

Result<SparsifyReport> CalibrateThresholds(const TrainOptions& options, float share, Progress progress) {
  if (!(share > 0.0f && share < 1.0f)) {
    return MakeError(ErrorCode::kUsage,
                     "--sparsify: {} is out of range: expected a share of the neurons between 0 and 1, such as 0.5 or 50%", share);
  }
  FRUGAL_ASSIGN(ModelFile model, ModelFile::Open(options.model_path));
  FRUGAL_TRY(RequireSparsifiable(model));
  return Sparsifier(options, share, std::move(model), progress).Run();
}

}  // namespace frugal
