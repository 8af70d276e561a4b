#include "src/train/train.h"

#include <sys/stat.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "src/base/clock.h"
#include "src/engine/engine.h"
#include "src/format/byte_source.h"
#include "src/format/packed_format.h"
#include "src/model/model_file.h"
#include "src/train/layer_fit.h"
#include "src/train/layer_record.h"
#include "src/train/layer_run.h"
#include "src/train/partial_file.h"
#include "src/train/predictor_writer.h"
#include "src/train/sample_recorder.h"
#include "src/train/text_cut.h"
#include "src/train/text_sampler.h"
#include "src/train/train_plan.h"

namespace frugal {
namespace {

// Part of the fingerprint: changes whenever the same options give another result.
constexpr int kTrainVersion = 3;
// Of the whole run, for the progress: sampling, and of a layer, running it.
constexpr double kSampleShare = 0.15;
constexpr double kRunShare = 0.25;
constexpr uint32_t kLargestRank = 8192;

using Progress = FunctionRef<void(double share, std::string_view what)>;

double SecondsSince(uint64_t start_ns) { return static_cast<double>(NowNs() - start_ns) * 1e-9; }

Status CheckOptions(const TrainOptions& options) {
  const auto usage = [](std::string message) { return Error{ErrorCode::kUsage, std::move(message)}; };
  for (const double recall : {options.recall_target, options.early_recall_target}) {
    if (!(recall > 0.0 && recall <= 1.0))
      return usage(fmt::format("recall target {}: expected above 0 and at most 1", recall));
  }
  for (const uint32_t rank : options.ranks) {
    if (rank == 0 || rank % 32 != 0 || rank > kLargestRank) {
      return usage(fmt::format("rank {}: expected a multiple of 32 up to {}", rank, kLargestRank));
    }
  }
  if (options.num_tokens < 256 || options.num_tokens > uint64_t{1} << 31) {
    return usage(fmt::format("{} tokens: expected 256 to 2^31", options.num_tokens));
  }
  if (options.sequence_tokens < 16)
    return usage(fmt::format("sequences of {} tokens: expected at least 16", options.sequence_tokens));
  if (options.num_epochs > 1000)
    return usage(fmt::format("{} epochs: expected at most 1000", options.num_epochs));
  if (!(options.predictor_byte_cost >= 0.0)) return usage("the cost of a predictor's byte is negative");
  return {};
}

uint64_t Fingerprint(const TrainOptions& options, uint64_t content_hash) {
  std::string text =
      fmt::format("{} {:016x} {} {} {} {} {} {} {} {} {} {}", kTrainVersion, content_hash, options.num_tokens,
                  options.sequence_tokens, options.seed, options.recall_target, options.early_recall_target,
                  options.early, options.predictor_byte_cost, options.num_epochs,
                  fmt::join(options.ranks, ","), options.source);
  for (const std::vector<int32_t>& sequence : options.sequences) {
    text += fmt::format(" {:016x}", HashBytes(std::as_bytes(std::span<const int32_t>(sequence))));
  }
  return HashBytes(std::as_bytes(std::span<const char>(text)));
}

class Trainer {
 public:
  Trainer(const TrainOptions& options, ModelFile model, Progress progress)
      : options_(options), model_(std::move(model)), config_(model_.config()), progress_(progress) {}

  Result<TrainReport> Run();

 private:
  Status Prepare();
  Status MakeText();
  Status RunLayers();
  Status RunLayer(uint32_t layer);
  Result<LayerPredictors> FitLayerNow(uint32_t layer, std::vector<float> up, std::vector<float> bias);
  Status WriteOutput();
  bool finished(uint32_t layer) const { return partial_->num_records() > layer + 1; }
  // The share of the whole run at `share` of a layer.
  void ReportLayer(uint32_t layer, double share) {
    const double before = options_.sequences.empty() ? kSampleShare : 0.0;
    progress_(before + (1.0 - before) * (layer + share) / config_.num_layers, fmt::format("layer {}", layer));
  }

  const TrainOptions& options_;
  const ModelFile model_;
  const ModelConfig& config_;
  Progress progress_;
  std::string output_path_;
  uint64_t content_hash_ = 0;
  TrainPlan plan_;
  std::unique_ptr<ThreadPool> pool_;
  std::optional<PartialFile> partial_;  // record 0: the text; then the layers
  TokenSequences cut_text_;
  TokenSequences text_;
  SampleSplit split_;
  uint32_t longest_ = 0;
  RowStore hidden_;
  LayerSamples samples_;
  std::vector<PredictorQuality> on_time_, early_;
  std::vector<WindowMisses> window_misses_;
  std::vector<float> early_wrong_shares_;
  TrainReport report_;
};

Status Trainer::Prepare() {
  output_path_ = options_.output_path.empty() ? DefaultPredictorPath(model_.path()) : options_.output_path;
  struct stat status = {};
  if (options_.overwrite == Overwrite::kNo && lstat(output_path_.c_str(), &status) == 0) {
    return MakeError(ErrorCode::kUsage, "{}: the file exists already", output_path_);
  }
  TextSize size;
  if (options_.sequences.empty()) {
    size = SampledTextSize(options_, config_);
  } else {
    FRUGAL_ASSIGN(cut_text_, CutText(options_, config_));
    size.num_sequences = cut_text_.size();
    for (const std::vector<int32_t>& sequence : cut_text_) {
      size.num_tokens += sequence.size();
      size.longest = std::max(size.longest, static_cast<uint32_t>(sequence.size()));
    }
  }
  longest_ = size.longest;
  FRUGAL_ASSIGN(plan_, PlanTraining(model_, options_, size));
  FRUGAL_ASSIGN(content_hash_, model_.ReadContentHash());
  FRUGAL_ASSIGN(pool_, ThreadPool::Create(options_.num_threads));
  FRUGAL_ASSIGN(partial_, PartialFile::Open(output_path_ + ".partial", Fingerprint(options_, content_hash_)));
  return {};
}

Status Trainer::MakeText() {
  const uint64_t start = NowNs();
  if (partial_->num_records() > 0) {
    FRUGAL_ASSIGN(const std::vector<std::byte> bytes, partial_->Read(0));
    FRUGAL_ASSIGN(text_, DecodeText(bytes));
  } else {
    if (options_.sequences.empty()) {
      const TextSize size = SampledTextSize(options_, config_);
      FRUGAL_ASSIGN(const auto weights, Weights::Open(model_, plan_.sample_weights, options_.weights));
      FRUGAL_ASSIGN(text_, SampleText(*weights, *pool_, size.num_sequences, size.longest, plan_.sample_batch,
                                      options_.seed, options_.cancel, [&](double share) {
                                        progress_(kSampleShare * share, "sampling text");
                                      }));
    } else {
      text_ = std::move(cut_text_);
    }
    FRUGAL_TRY(partial_->Append(EncodeText(text_)));
  }
  report_.sample_seconds = SecondsSince(start);
  std::vector<uint64_t> lengths;
  for (const std::vector<int32_t>& sequence : text_) lengths.push_back(sequence.size());
  split_ = SplitSamples(lengths, options_.seed);
  return {};
}

Status Trainer::RunLayers() {
  const uint64_t num_rows = split_.num_rows();
  const uint64_t input_bytes = uint64_t{config_.hidden_size} * sizeof(uint16_t);
  const uint64_t active_bytes = Selector::WordsPerToken(config_.ffn_size) * sizeof(uint64_t);
  if (!finished(config_.num_layers - 1)) {
    FRUGAL_ASSIGN(
        hidden_, RowStore::Create(num_rows, config_.hidden_size * sizeof(float), plan_.hidden, output_path_));
    FRUGAL_ASSIGN(samples_.on_time, RowStore::Create(num_rows, input_bytes, plan_.samples, output_path_));
    if (options_.early) {
      FRUGAL_ASSIGN(samples_.early, RowStore::Create(num_rows, input_bytes, plan_.samples, output_path_));
    }
    FRUGAL_ASSIGN(samples_.active, RowStore::Create(num_rows, active_bytes, plan_.samples, output_path_));
  }
  for (uint32_t layer = 0; layer < config_.num_layers; ++layer) FRUGAL_TRY(RunLayer(layer));
  hidden_ = {};
  samples_ = {};
  return {};
}

Status Trainer::RunLayer(uint32_t layer) {
  const uint64_t start = NowNs();
  const bool fit = !finished(layer);
  if (!finished(config_.num_layers - 1)) {
    std::vector<float> up, bias;
    {
      FRUGAL_ASSIGN(const auto weights, Weights::Open(model_, OneLayerPlan(layer), options_.weights));
      if (layer == 0) FRUGAL_TRY(EmbedText(*weights, text_, hidden_));
      SampleRecorder recorder(config_, split_, samples_);
      const auto record = [&recorder](const LayerObservation& seen, uint64_t first_row) {
        return recorder.Record(seen, first_row);
      };
      const RowsObserver observer(record);
      FRUGAL_TRY(RunLayerOverText(*weights, *pool_, layer, text_, longest_, hidden_,
                                  fit ? &observer : nullptr, options_.cancel,
                                  [&](double share) { ReportLayer(layer, share * kRunShare); }));
      if (fit) {
        FRUGAL_ASSIGN(up, ReadDecidingRows(*weights, layer));
        bias = DecidingBias(*weights, layer);
      }
    }
    if (fit) {
      FRUGAL_ASSIGN(const LayerPredictors predictors, FitLayerNow(layer, std::move(up), std::move(bias)));
      FRUGAL_TRY(partial_->Append(EncodeLayer(predictors)));
      if (options_.after_layer_for_test) FRUGAL_TRY(options_.after_layer_for_test(layer));
    }
  }
  FRUGAL_ASSIGN(const std::vector<std::byte> record, partial_->Read(layer + 1));
  FRUGAL_ASSIGN(const LayerPredictors predictors, DecodeLayer(record));
  on_time_.push_back(predictors.on_time_quality);
  early_.push_back(predictors.early_quality);
  window_misses_.push_back(predictors.window_misses);
  early_wrong_shares_.push_back(predictors.early_wrong_share);
  report_.layers.push_back({predictors.on_time_quality, predictors.early_quality, SecondsSince(start), !fit});
  ReportLayer(layer, 1.0);
  return {};
}

Result<LayerPredictors> Trainer::FitLayerNow(uint32_t layer, std::vector<float> up, std::vector<float> bias) {
  LayerWeights weights;
  weights.hidden_size = config_.hidden_size;
  weights.ffn_size = config_.ffn_size;
  weights.bundle_bytes = model_.bundles()[layer].stride_bytes;
  weights.up = std::move(up);
  weights.bias = std::move(bias);
  return FitLayer(*pool_, options_, layer, split_, samples_, std::move(weights),
                  [&](double share) { ReportLayer(layer, kRunShare + share * (1.0 - kRunShare)); });
}

Status Trainer::WriteOutput() {
  PredictorFileHead head;
  head.model_content_hash = content_hash_;
  head.num_tokens = split_.num_rows();
  head.on_time = on_time_;
  head.early = early_;
  head.window_misses = window_misses_;
  head.early_wrong_shares = early_wrong_shares_;
  const auto layer = [&](uint32_t i) -> Result<LayerPredictors> {
    FRUGAL_ASSIGN(const std::vector<std::byte> record, partial_->Read(i + 1));
    return DecodeLayer(record);
  };
  FRUGAL_ASSIGN(report_.file_bytes, WritePredictorFile(output_path_, options_, config_, head, layer));
  return partial_->Remove();
}

Result<TrainReport> Trainer::Run() {
  const uint64_t start = NowNs();
  FRUGAL_TRY(Prepare());
  if (Status made = MakeText(); !made) {
    // Nothing is finished that a later run could use.
    if (partial_->num_records() == 0) FRUGAL_TRY(partial_->Remove());
    return std::move(made).error();
  }
  FRUGAL_TRY(RunLayers());
  FRUGAL_TRY(WriteOutput());
  report_.output_path = output_path_;
  report_.num_tokens = split_.num_rows();
  report_.num_fit_tokens = split_.fit.count;
  report_.num_choose_tokens = split_.choose.count;
  report_.num_report_tokens = split_.report.count;
  report_.spilled = plan_.spilled();
  report_.memory = plan_.ledger;
  report_.seconds = SecondsSince(start);
  return std::move(report_);
}

}  // namespace

Result<TrainReport> Train(const TrainOptions& options, Progress progress) {
  FRUGAL_TRY(CheckOptions(options));
  FRUGAL_ASSIGN(ModelFile model, ModelFile::Open(options.model_path));
  FRUGAL_TRY(model.RequireBundles());
  if (!model.config().activation.is_sparse()) {
    return MakeError(ErrorCode::kUsage, "{}: its activation is {}, which is never zero: there is nothing to predict; --sparsify 0.5 finds "
                     "thresholds below which neurons may be left out",
                     options.model_path, ActivationName(model.config().activation));
  }
  if (model.config().ffn_layout == FfnLayout::kGateAndBundle2) {
    return MakeError(ErrorCode::kUsage, "{}: its layout is \"{}\": the gates choose the neurons exactly, there is nothing to predict",
                     options.model_path, FfnLayoutName(model.config().ffn_layout));
  }
  return Trainer(options, std::move(model), progress).Run();
}

}  // namespace frugal
