// A model's predictors, read from NAME.predict.gguf (docs/predictor.md) into RAM, every hash checked. The file belongs to one model: another
// model's is refused (kBadModel). Immutable after Open.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "src/base/aligned_buffer.h"
#include "src/format/packed_format.h"
#include "src/model/config.h"
#include "src/select/low_rank_predictor.h"

namespace frugal {

struct PredictorLayerInfo {
  uint32_t rank = 0;        // of the on-time predictor
  uint32_t early_rank = 0;  // 0: none
  float recall = 0, precision = 0;            // on the held-out part
  float predicted_share = 0, active_share = 0;  // of all neurons
  float early_wrong_share = 0;  // of all neurons: chosen by the early predictor only; 0 where the file does not say
};

struct PredictorInfo {
  std::string path;
  uint64_t model_content_hash = 0;
  std::vector<PredictorLayerInfo> layers;
  std::vector<WindowMisses> window_misses;  // [num_layers]; empty where the file does not say
  uint32_t max_rank = 0;             // of both kinds
  uint64_t on_time_bytes = 0;        // RAM for the on-time factors, biases and popularity
  uint64_t early_bytes = 0;          // RAM for the early ones
};

class PredictorFile {
 public:
  // Header only; no weight is read. kBadModel when it is no predictor file or its sizes disagree with the config.
  static Result<PredictorInfo> Inspect(const std::string& path, const ModelConfig& config);
  // `content_hash` of the model (Weights::content_hash()) must be the file's. with_early: the early factors are read too.
  static Result<PredictorFile> Open(const std::string& path, const ModelConfig& config, uint64_t content_hash, bool with_early);

  const PredictorInfo& info() const { return info_; }
  // Views into this object. kind kEarly: empty factors (rank 0) where there are none.
  std::vector<LowRankFactors> factors(PredictorKind kind) const;
  // Share of the training tokens for which the on-time predictor chose the neuron. // [ffn_size]
  std::span<const float> popularity(uint32_t layer) const;

 private:
  PredictorInfo info_;
  AlignedBuffer memory_;
  std::vector<LowRankFactors> on_time_, early_;
  std::vector<std::span<const float>> popularity_;
};

}  // namespace frugal
