#include "src/train/calibration.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "src/base/clock.h"
#include "src/engine/plan.h"
#include "src/format/byte_source.h"
#include "src/format/packed_format.h"
#include "src/model/model_file.h"
#include "src/model/predictor_file.h"
#include "src/select/low_rank_predictor.h"
#include "src/train/co_activation.h"
#include "src/train/sample_recorder.h"
#include "src/train/train_plan.h"
#include "src/train/use_counter.h"

namespace frugal {
namespace {

using Progress = FunctionRef<void(double share, std::string_view what)>;

constexpr uint64_t kHeldOutPart = 8;  // one of as many parts of the text
// Of a layer: more do not make the order better and take longer. OPT-6.7B's layers miss some hundred neurons
// a token.
constexpr uint64_t kMostMisses = uint64_t{4} << 20;
constexpr uint64_t kSmallParts = 2 * kMiB;  // text, places, headers, what malloc keeps
constexpr double kRunShare = 0.9;           // of a layer, for the progress

// What one layer used and missed, token after token.
class MissRecorder {
 public:
  // `predictor` may be nullptr: what fires counts, or, where the gates choose, what they let through.
  MissRecorder(const ModelConfig& config, double cached_share, uint64_t first_held_out_row, Selector* predictor,
               ThreadPool& pool)
      : replay_(config.ffn_size, cached_share),
        gates_choose_(config.ffn_layout == FfnLayout::kGateAndBundle2),
        first_held_out_row_(first_held_out_row),
        predictor_(predictor),
        pool_(pool),
        words_(Selector::WordsPerToken(config.ffn_size)),
        chosen_(predictor == nullptr ? 0 : words_ * kRunRows),
        active_(words_),
        uses_(config.ffn_size),
        activity_(config.ffn_size),
        fitted_(config.ffn_size),
        held_out_(config.ffn_size) {}

  Status Record(const LayerObservation& seen, uint64_t first_row) {
    if (predictor_ != nullptr) predictor_->Select(seen.layer, seen.ffn_input, seen.num_rows, chosen_, pool_, [](uint32_t) {});
    for (uint32_t row = 0; row < seen.num_rows; ++row) {
      if (gates_choose_) {
        std::copy_n(seen.active.begin() + static_cast<std::ptrdiff_t>(row * words_), words_, active_.begin());
      } else {
        ListActive(seen, row, active_);
      }
      activity_.AddToken(active_);
      const std::span<const uint64_t> used = predictor_ != nullptr ? std::span(chosen_).subspan(row * words_, words_) : std::span(active_);
      RecordToken(used, first_row + row);
    }
    return {};
  }

  const TokenSets& fitted() const { return fitted_; }
  const TokenSets& held_out() const { return held_out_; }
  std::span<const uint32_t> uses() const { return uses_; }
  const UseCounter& activity() const { return activity_; }

 private:
  void RecordToken(std::span<const uint64_t> bits, uint64_t row) {
    used_.clear();
    for (uint32_t word = 0; word < bits.size(); ++word) {
      for (uint64_t left = bits[word]; left != 0; left &= left - 1) {
        used_.push_back(word * 64 + static_cast<uint32_t>(std::countr_zero(left)));
      }
    }
    const std::span<const uint32_t> misses = replay_.Step(used_);
    if (row >= first_held_out_row_) {
      if (replay_.was_full()) held_out_.Add(misses);
      return;
    }
    for (const uint32_t neuron : used_) ++uses_[neuron];
    if (replay_.was_full() && fitted_.num_members() + misses.size() <= kMostMisses) fitted_.Add(misses);
  }

  MissReplay replay_;
  const bool gates_choose_;
  const uint64_t first_held_out_row_;
  Selector* const predictor_;
  ThreadPool& pool_;
  const size_t words_;
  std::vector<uint64_t> chosen_;  // by the predictor, where there is one // [kRunRows, words]
  std::vector<uint64_t> active_;  // for one token // [words]
  std::vector<uint32_t> used_;
  std::vector<uint32_t> uses_;  // [ffn_size]
  UseCounter activity_;
  TokenSets fitted_, held_out_;
};

class Calibrator {
 public:
  Calibrator(const CalibrationOptions& options, ModelFile model, Progress progress)
      : options_(options), model_(std::move(model)), config_(model_.config()), progress_(progress) {}

  Result<CalibrationReport> Run();

 private:
  Status MeasureText();
  Status Plan();
  Status OpenPredictor();
  Status RunLayer(uint32_t layer);
  void OrderLayer(const MissRecorder& recorder, std::span<const uint32_t> source_order);
  Result<std::vector<uint32_t>> ReadSourceOrder(uint32_t layer) const;
  void ReportLayer(uint32_t layer, double share) {
    progress_((layer + share) / config_.num_layers, fmt::format("layer {}", layer));
  }

  const CalibrationOptions& options_;
  const ModelFile model_;
  const ModelConfig& config_;
  const Progress progress_;
  TextSize size_;
  Placement placement_ = Placement::kMemory;
  std::optional<PredictorInfo> predictor_info_;
  std::optional<PredictorFile> predictor_file_;
  std::unique_ptr<LowRankPredictor> predictor_;
  std::unique_ptr<ThreadPool> pool_;
  RowStore hidden_;
  uint64_t num_held_out_ = 0, misses_ = 0, source_reads_ = 0, reads_ = 0;
  CalibrationReport report_;
};

Status Calibrator::MeasureText() {
  for (const std::vector<int32_t>& sequence : options_.sequences) {
    size_.num_tokens += sequence.size();
    size_.longest = std::max(size_.longest, static_cast<uint32_t>(sequence.size()));
    for (const int32_t id : sequence) {
      if (id >= 0 && static_cast<uint32_t>(id) < config_.vocab_size) continue;
      return MakeError(ErrorCode::kUsage, "the text holds token {}, the vocabulary has {} tokens", id,
                       config_.vocab_size);
    }
  }
  size_.num_sequences = options_.sequences.size();
  if (size_.longest > config_.max_context) {
    return MakeError(ErrorCode::kUsage, "a sequence of {} tokens: the model's context has {}", size_.longest,
                     config_.max_context);
  }
  if (size_.num_tokens < 2 * kHeldOutPart) {
    return MakeError(ErrorCode::kUsage, "the text has {} tokens, expected at least {}", size_.num_tokens,
                     2 * kHeldOutPart);
  }
  report_.num_tokens = size_.num_tokens;
  return {};
}

Status Calibrator::Plan() {
  const uint64_t ffn_size = config_.ffn_size;
  uint64_t predictor_bytes = 0;
  if (!options_.predictor_path.empty()) {
    FRUGAL_ASSIGN(predictor_info_, PredictorFile::Inspect(options_.predictor_path, config_));
    predictor_bytes = predictor_info_->on_time_bytes +
                      LowRankPredictor::ScratchBytes(config_.ffn_size, predictor_info_->max_rank, kRunRows, options_.num_threads);
  }
  const uint64_t layer_bytes = LayerRunBytes(model_, options_.weights, options_.num_threads, size_, 0);
  const uint64_t most_misses = std::min(kMostMisses, size_.num_tokens * ffn_size);
  const uint64_t held_out_misses = (size_.num_tokens / kHeldOutPart + 1) * ffn_size;
  // Lists may be twice as long as what is in them.
  const uint64_t miss_bytes =
      2 * (most_misses + std::min(held_out_misses, kMostMisses) + 2 * size_.num_tokens) * sizeof(uint32_t) +
      ffn_size * 32 + (kRunRows + 1) * Selector::WordsPerToken(config_.ffn_size) * sizeof(uint64_t);
  const uint64_t order_bytes = OrderByMissesBytes(config_.ffn_size, most_misses, options_.num_threads);
  MemoryLedger& ledger = report_.memory;
  ledger.Add("program", ProcessBytes(options_.num_threads) + kSmallParts, "code, stacks, text, small parts");
  ledger.Add("predictors", predictor_bytes, "on-time, and their scratch");
  ledger.Add("orders", config_.num_layers * ffn_size * sizeof(uint32_t), "of all layers");
  ledger.Add("misses", miss_bytes, "of one layer");
  ledger.Add("one layer", std::max(layer_bytes, order_bytes),
             fmt::format("the larger of running it ({}) and ordering it ({})", FormatSize(layer_bytes),
                         FormatSize(order_bytes)));
  const uint64_t smallest_bytes = ledger.total_bytes();
  if (smallest_bytes > options_.ram_bytes) {
    return MakeError(
        ErrorCode::kDoesNotFit, "{}: calibrating does not fit in {}; the smallest budget that works is {}",
        model_.path(), FormatSize(options_.ram_bytes), FormatSize(RoundUp(smallest_bytes, kMiB)));
  }
  const uint64_t hidden_bytes = size_.num_tokens * config_.hidden_size * sizeof(float);
  report_.spilled = hidden_bytes > options_.ram_bytes - smallest_bytes;
  placement_ = report_.spilled ? Placement::kSpilled : Placement::kMemory;
  ledger.Add("hidden states", report_.spilled ? 0 : hidden_bytes,
             report_.spilled ? fmt::format("{} in a temporary file", FormatSize(hidden_bytes)) : "");
  return {};
}

Status Calibrator::OpenPredictor() {
  if (!predictor_info_) return {};
  FRUGAL_ASSIGN(const uint64_t content_hash, model_.ReadContentHash());
  FRUGAL_ASSIGN(predictor_file_, PredictorFile::Open(options_.predictor_path, config_, content_hash, false));
  predictor_ = std::make_unique<LowRankPredictor>(config_.hidden_size, config_.ffn_size, kRunRows, pool_->num_threads(),
                                                  predictor_file_->factors(PredictorKind::kOnTime));
  return {};
}

// The checkpoint's neuron of each position of the file.
Result<std::vector<uint32_t>> Calibrator::ReadSourceOrder(uint32_t layer) const {
  const std::string name = BundleOrderName(layer);
  const TensorInfo* info = model_.gguf().FindTensor(name);
  if (info == nullptr || info->dtype != DType::kI32 ||
      info->shape != std::vector<uint64_t>{config_.ffn_size}) {
    return BadModel("{}: {}: expected a tensor I32 [{}]", model_.path(), name, config_.ffn_size);
  }
  FRUGAL_ASSIGN(const auto source, OpenFileSource(model_.path()));
  std::vector<uint32_t> order(config_.ffn_size);
  FRUGAL_TRY(source->Read(info->extent.offset_bytes, std::as_writable_bytes(std::span(order))));
  const std::string problem = WhyNoPermutation(order);
  if (!problem.empty())
    return BadModel("{}: {}: {}: this is no order of neurons", model_.path(), name, problem);
  return order;
}

void Calibrator::OrderLayer(const MissRecorder& recorder, std::span<const uint32_t> source_order) {
  std::vector<uint32_t> order = OrderByMisses(recorder.fitted(), recorder.uses(), *pool_);
  std::vector<uint32_t> as_it_is(order.size());
  std::iota(as_it_is.begin(), as_it_is.end(), 0u);
  const TokenSets& held_out = recorder.held_out();
  num_held_out_ = std::max<uint64_t>(num_held_out_, held_out.num_tokens());
  misses_ += held_out.num_members();
  source_reads_ += CountReads(held_out, as_it_is);
  reads_ += CountReads(held_out, order);
  for (uint32_t& position : order) position = source_order[position];
  report_.orders.push_back(std::move(order));
}

Status Calibrator::RunLayer(uint32_t layer) {
  FRUGAL_ASSIGN(const std::vector<uint32_t> source_order, ReadSourceOrder(layer));
  const uint64_t first_held_out_row = size_.num_tokens - size_.num_tokens / kHeldOutPart;
  MissRecorder recorder(config_, options_.cached_share, first_held_out_row, predictor_.get(), *pool_);
  {
    FRUGAL_ASSIGN(const auto weights, Weights::Open(model_, OneLayerPlan(layer), options_.weights));
    if (layer == 0) FRUGAL_TRY(EmbedText(*weights, options_.sequences, hidden_));
    const auto record = [&recorder](const LayerObservation& seen, uint64_t first_row) {
      return recorder.Record(seen, first_row);
    };
    const RowsObserver observer(record);
    FRUGAL_TRY(RunLayerOverText(*weights, *pool_, layer, options_.sequences, size_.longest, hidden_,
                                &observer, options_.cancel,
                                [&](double share) { ReportLayer(layer, kRunShare * share); }));
  }
  report_.activity.active_shares.push_back(recorder.activity().ChosenShare());
  report_.activity.window_misses.push_back(recorder.activity().Misses());
  OrderLayer(recorder, source_order);
  ReportLayer(layer, 1.0);
  return {};
}

Result<CalibrationReport> Calibrator::Run() {
  const uint64_t start_ns = NowNs();
  FRUGAL_TRY(MeasureText());
  FRUGAL_TRY(Plan());
  FRUGAL_ASSIGN(pool_, ThreadPool::Create(options_.num_threads));
  FRUGAL_TRY(OpenPredictor());
  FRUGAL_ASSIGN(hidden_, RowStore::Create(size_.num_tokens, config_.hidden_size * sizeof(float), placement_,
                                          options_.spill_near_path));
  for (uint32_t layer = 0; layer < config_.num_layers; ++layer) FRUGAL_TRY(RunLayer(layer));
  if (num_held_out_ > 0) {
    const double tokens = static_cast<double>(num_held_out_);
    report_.misses_per_token = static_cast<double>(misses_) / tokens;
    report_.source_reads_per_token = static_cast<double>(source_reads_) / tokens;
    report_.reads_per_token = static_cast<double>(reads_) / tokens;
  }
  report_.seconds = static_cast<double>(NowNs() - start_ns) / 1e9;
  return std::move(report_);
}

}  // namespace

Result<CalibrationReport> Calibrate(const CalibrationOptions& options, Progress progress) {
  if (!(options.cached_share > 0 && options.cached_share < 1)) {
    return MakeError(ErrorCode::kUsage, "a cached share of {}: expected one between 0 and 1",
                     options.cached_share);
  }
  FRUGAL_ASSIGN(ModelFile model, ModelFile::Open(options.model_path));
  FRUGAL_TRY(model.RequireBundles());
  if (!model.config().activation.is_sparse()) {
    return MakeError(ErrorCode::kUsage, "{}: its activation is {}, which is never zero: every token uses all neurons, in whatever order",
                     options.model_path, ActivationName(model.config().activation));
  }
  return Calibrator(options, std::move(model), progress).Run();
}

}  // namespace frugal
