#include "src/train/layer_fit.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "src/base/bytes.h"
#include "src/kernels/kernels.h"
#include "src/kernels/training_kernels.h"
#include "src/train/linear_algebra.h"

namespace frugal {
namespace {

constexpr uint64_t kRankTrialRows = 2048;  // of the choosing rows; enough to compare ranks
// The part of the wrongly chosen neurons that fine-tuning gets rid of: 0.1 to 0.3 on tale, less at higher
// ranks.
constexpr double kFineTuningGain = 0.2;
constexpr float kMaxPositiveWeight = 256.0f;

class LayerFitter {
 public:
  LayerFitter(ThreadPool& pool, const TrainOptions& options, uint32_t layer, const SampleSplit& split,
              LayerSamples& samples, LayerWeights weights)
      : pool_(pool),
        options_(options),
        layer_(layer),
        split_(split),
        samples_(samples),
        hidden_(weights.hidden_size),
        ffn_(weights.ffn_size),
        layer_bytes_(static_cast<double>(weights.bundle_bytes) * weights.ffn_size) {
    target_.hidden_size = hidden_;
    target_.ffn_size = ffn_;
    target_.weight = std::move(weights.up);
    target_.bias = std::move(weights.bias);
    target_.variance.resize(ffn_);
  }

  Result<LayerPredictors> Run(FunctionRef<void(double share)> progress);

 private:
  struct Start {
    uint32_t rank = 0;
    float positive_weight = 1.0f;  // active and inactive neurons weigh the same at the threshold
  };
  struct Fitted {
    QuantisedPredictor predictor;
    PredictorQuality quality;
  };

  Status Whiten(PredictorKind kind, Whitening* whitening);
  // The target on whitened on-time inputs.
  void AimAtOnTime(const Whitening& whitening);
  Result<Fitted> FitKind(PredictorKind kind, const Whitening& whitening, double recall,
                         FunctionRef<void(double share)> progress);
  Result<Start> ChooseStart(PredictorKind kind, const Whitening& whitening, std::span<const float> directions,
                            double recall);
  // In shares of the layer's bundles. A right guess of the early predictor saves no read, it only makes it
  // earlier.
  double ByteCost(PredictorKind kind, uint32_t rank) const {
    const double bytes = static_cast<double>(PredictorBytes(hidden_, ffn_, rank));
    return options_.predictor_byte_cost * (kind == PredictorKind::kEarly ? 2.0 : 1.0) * bytes / layer_bytes_;
  }

  ThreadPool& pool_;
  const TrainOptions& options_;
  const uint32_t layer_;
  const SampleSplit& split_;
  LayerSamples& samples_;
  const uint32_t hidden_, ffn_;
  const double layer_bytes_;
  LinearTarget target_;
};

Status LayerFitter::Whiten(PredictorKind kind, Whitening* whitening) {
  FRUGAL_ASSIGN(*whitening, MeasureWhitening(pool_, samples_.inputs(kind), split_.fit, hidden_));
  return WhitenRows(pool_, *whitening, split_.fit, samples_.inputs(kind));
}

void LayerFitter::AimAtOnTime(const Whitening& whitening) {
  std::vector<float> mean(ffn_);
  MatMulF32(whitening.mean.data(), target_.weight.data(), mean.data(), 1, ffn_, hidden_);
  Add(target_.bias.data(), mean.data(), ffn_);
  MultiplyInPlace(pool_, target_.weight.data(), whitening.factor.data(), ffn_, hidden_);
  for (size_t i = 0; i < ffn_; ++i) {
    const float* const row = target_.weight.data() + i * hidden_;
    double variance = 0.0;
    for (size_t j = 0; j < hidden_; ++j) variance += static_cast<double>(row[j]) * row[j];
    target_.variance[i] = static_cast<float>(variance);
  }
}

// By the closed form, which costs next to nothing.
Result<LayerFitter::Start> LayerFitter::ChooseStart(PredictorKind kind, const Whitening& whitening,
                                                    std::span<const float> directions, double recall) {
  const RowRange rows = {split_.choose.begin, std::min(kRankTrialRows, split_.choose.count)};
  Start best;
  double best_cost = std::numeric_limits<double>::infinity();
  for (const uint32_t rank : CandidateRanks(options_, hidden_)) {
    if (ByteCost(kind, rank) >= best_cost) break;
    const QuantisedPredictor trial =
        Quantise(pool_, ClosedForm(pool_, target_, directions, rank, 1.0f), whitening);
    FRUGAL_ASSIGN(const ScoreCounts counts,
                  CountScores(pool_, trial, samples_.inputs(kind), samples_.active, rows));
    const ScoreCounts::Choice choice = counts.Choose(recall);
    const double wrong_share = std::max(0.0, choice.predicted_share - choice.active_share);
    const double cost = choice.predicted_share - kFineTuningGain * wrong_share + ByteCost(kind, rank);
    if (cost >= best_cost) continue;
    best_cost = cost;
    best.rank = rank;
    best.positive_weight = std::clamp(std::exp(-choice.threshold), 1.0f, kMaxPositiveWeight);
  }
  return best;
}

Result<LayerFitter::Fitted> LayerFitter::FitKind(PredictorKind kind, const Whitening& whitening,
                                                 double recall, FunctionRef<void(double share)> progress) {
  const uint64_t seed = (options_.seed * 65536 + layer_) * 2 + (kind == PredictorKind::kEarly ? 1 : 0);
  const RowStore& inputs = samples_.inputs(kind);
  FitOptions fit;
  fit.num_epochs = options_.num_epochs;
  fit.seed = seed;
  fit.cancel = options_.cancel;
  WhiteFactors factors;
  {
    const std::vector<float> directions =
        LeadingDirections(pool_, target_, CandidateRanks(options_, hidden_).back(), seed);
    FRUGAL_ASSIGN(const Start start, ChooseStart(kind, whitening, directions, recall));
    fit.positive_weight = start.positive_weight;
    factors = ClosedForm(pool_, target_, directions, start.rank, start.positive_weight);
  }
  FRUGAL_TRY(FineTune(pool_, inputs, samples_.active, split_.fit, fit, factors, progress));

  Fitted fitted;
  fitted.predictor = Quantise(pool_, factors, whitening);
  FRUGAL_ASSIGN(const ScoreCounts counts,
                CountScores(pool_, fitted.predictor, inputs, samples_.active, split_.choose));
  const ScoreCounts::Choice choice = counts.Choose(counts.RecallWithMargin(recall));
  for (float& bias : fitted.predictor.bias) bias -= choice.threshold;
  FRUGAL_ASSIGN(fitted.quality,
                MeasureQuality(pool_, fitted.predictor, inputs, samples_.active, split_.report, nullptr));
  return fitted;
}

Result<LayerPredictors> LayerFitter::Run(FunctionRef<void(double share)> progress) {
  const double on_time_share = options_.early ? 0.5 : 1.0;
  LayerPredictors result;
  Whitening whitening;
  FRUGAL_TRY(Whiten(PredictorKind::kOnTime, &whitening));
  AimAtOnTime(whitening);
  FRUGAL_ASSIGN(Fitted on_time, FitKind(PredictorKind::kOnTime, whitening, options_.recall_target,
                                        [&](double share) { progress(share * on_time_share); }));
  UseCounter uses(ffn_);
  const RowRange held_out = {split_.choose.begin, split_.choose.count + split_.report.count};
  FRUGAL_ASSIGN(const PredictorQuality unused, MeasureQuality(pool_, on_time.predictor, samples_.on_time,
                                                              samples_.active, held_out, &uses));
  static_cast<void>(unused);
  result.popularity = uses.Popularity();
  result.window_misses = uses.Misses();
  result.on_time = std::move(on_time.predictor);
  result.on_time_quality = on_time.quality;
  if (!options_.early) return result;

  FRUGAL_TRY(Whiten(PredictorKind::kEarly, &whitening));
  {
    // Both inputs are white: the regression of the one on the other is their covariance.
    FRUGAL_ASSIGN(const std::vector<float> regression,
                  CrossCovariance(pool_, samples_.on_time, samples_.early, split_.fit, hidden_));
    MultiplyInPlace(pool_, target_.weight.data(), regression.data(), ffn_, hidden_);
  }
  FRUGAL_ASSIGN(Fitted early,
                FitKind(PredictorKind::kEarly, whitening, options_.early_recall_target,
                        [&](double share) { progress(on_time_share + share * (1.0 - on_time_share)); }));
  FRUGAL_ASSIGN(result.early_wrong_share, MeasureEarlyWrong(pool_, result.on_time, early.predictor, samples_, split_.report));
  result.early = std::move(early.predictor);
  result.early_quality = early.quality;
  return result;
}

}  // namespace

std::vector<uint32_t> CandidateRanks(const TrainOptions& options, uint32_t hidden_size) {
  const uint32_t largest = static_cast<uint32_t>(RoundUp(hidden_size, 32));
  std::vector<uint32_t> ranks;
  for (const uint32_t rank : options.ranks) {
    if (rank <= largest) ranks.push_back(rank);
  }
  std::sort(ranks.begin(), ranks.end());
  ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
  if (ranks.empty()) ranks.push_back(largest);
  return ranks;
}

uint64_t FitLayerBytes(const TrainOptions& options, uint32_t hidden_size, uint32_t ffn_size) {
  const uint64_t hidden = hidden_size;
  const uint64_t ffn = ffn_size;
  const uint32_t rank = CandidateRanks(options, hidden_size).back();
  const uint64_t factors = (hidden + ffn) * rank;
  // The target; factor and inverse of the whitening with one square more; eigenvectors; factors, and again
  // twice while they are quantised; rows in flight; the panels of the Cholesky factor.
  const uint64_t floats = hidden * ffn + 4 * ffn + 4 * hidden * hidden + 2 * (rank + 16) * hidden +
                          3 * factors + 3 * 512 * hidden +
                          static_cast<uint64_t>(options.num_threads) * 48 * (2 * hidden + 512) +
                          2 * 64 * hidden;
  return floats * sizeof(float) +
         FineTuneBytes(hidden, ffn, rank, FitOptions().batch_rows, options.num_threads) +
         CountScoresBytes(options.num_threads) + 2 * PredictorBytes(hidden_size, ffn_size, rank);
}

Result<LayerPredictors> FitLayer(ThreadPool& pool, const TrainOptions& options, uint32_t layer,
                                 const SampleSplit& split, LayerSamples& samples, LayerWeights weights,
                                 FunctionRef<void(double share)> progress) {
  return LayerFitter(pool, options, layer, split, samples, std::move(weights)).Run(progress);
}

}  // namespace frugal
