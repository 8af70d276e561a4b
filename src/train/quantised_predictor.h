// A fitted predictor as it will run: factors on plain inputs, quantised, the threshold folded into the bias;
// how many neurons it chooses at which recall, and how good it is.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "src/base/thread_pool.h"
#include "src/select/low_rank_predictor.h"
#include "src/train/predictor_fit.h"
#include "src/train/samples.h"
#include "src/train/train.h"
#include "src/train/use_counter.h"
#include "src/train/whitening.h"

namespace frugal {

struct QuantisedPredictor {
  uint32_t rank = 0;
  DType dtype = DType::kQ8_0;
  std::vector<std::byte> down;  // A [rank, hidden_size]
  std::vector<std::byte> up;    // B [ffn_size, rank]
  std::vector<float> bias;      // [ffn_size]

  LowRankFactors view() const { return {rank, dtype, down.data(), up.data(), bias.data()}; }
  uint64_t size_bytes() const { return down.size() + up.size() + bias.size() * sizeof(float); }
};

// Q8_0, or F16 where hidden_size is no multiple of its blocks.
DType PredictorDType(uint32_t hidden_size);
// Bytes of factors and bias.
uint64_t PredictorBytes(uint32_t hidden_size, uint32_t ffn_size, uint32_t rank);

// Takes the whitening into the factors.
QuantisedPredictor Quantise(ThreadPool& pool, const WhiteFactors& factors, const Whitening& whitening);

// Counts of scores, of active neurons and of all, from which a threshold is chosen. Bins are 2^-11 wide,
// relatively.
class ScoreCounts {
 public:
  ScoreCounts();
  void Add(float score, bool active) {
    const size_t bin = BinOf(score);
    ++all_[bin];
    if (active) ++active_[bin];
  }
  void Add(const ScoreCounts& other);

  struct Choice {
    float threshold = 0.0f;
    double recall = 1.0;
    double predicted_share = 0.0;
    double active_share = 0.0;
  };
  // The highest threshold (neurons with a score at or above it are chosen) that reaches the recall. When
  // nothing is active: one that chooses nothing.
  Choice Choose(double recall) const;
  // The recall to ask for here, so that `recall` is reached elsewhere in spite of chance: one standard
  // deviation more, which matters only where few neurons are active.
  double RecallWithMargin(double recall) const;

 private:
  static constexpr int kDroppedBits = 12;
  static size_t BinOf(float score);
  static float LowerEdge(size_t bin);

  std::vector<uint32_t> all_, active_;  // [2^20]
};

// Of the predictor on some rows of plain inputs.
Result<ScoreCounts> CountScores(ThreadPool& pool, const QuantisedPredictor& predictor, const RowStore& inputs,
                                const RowStore& active, RowRange rows);
// `uses` counts what was chosen, where it is not nullptr; the rows are then in the order of the text.
Result<PredictorQuality> MeasureQuality(ThreadPool& pool, const QuantisedPredictor& predictor,
                                        const RowStore& inputs, const RowStore& active, RowRange rows,
                                        UseCounter* uses);
// Share of the neurons that `early` chooses on its inputs and `on_time` does not on its own, of the same rows.
Result<float> MeasureEarlyWrong(ThreadPool& pool, const QuantisedPredictor& on_time, const QuantisedPredictor& early,
                                const LayerSamples& samples, RowRange rows);
uint64_t CountScoresBytes(int num_threads);

}  // namespace frugal
