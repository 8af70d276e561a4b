// Writes NAME.predict.gguf (docs/predictor.md draws it) from finished layers.
#pragma once

#include <string>
#include <vector>

#include "src/base/function_ref.h"
#include "src/model/config.h"
#include "src/train/layer_fit.h"
#include "src/train/train.h"

namespace frugal {

struct PredictorFileHead {
  uint64_t model_content_hash = 0;
  uint64_t num_tokens = 0;
  std::vector<PredictorQuality> on_time, early;  // [num_layers]
  std::vector<WindowMisses> window_misses;       // [num_layers]
  std::vector<float> early_wrong_shares;         // [num_layers]
};

// `layer(i)` is asked for once for each layer, in order. Returns the size of the file.
Result<uint64_t> WritePredictorFile(const std::string& path, const TrainOptions& options,
                                    const ModelConfig& config, const PredictorFileHead& head,
                                    FunctionRef<Result<LayerPredictors>(uint32_t layer)> layer);

}  // namespace frugal
