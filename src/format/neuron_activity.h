// How a text used the neurons of a packed model, layer by layer: optional keys of the file, from which `plan` expects what a run without
// predictors reads (src/engine/neuron_use.h). They hold for any order of the neurons.
#pragma once

#include <optional>
#include <vector>

#include "src/base/result.h"
#include "src/format/gguf_reader.h"
#include "src/format/gguf_writer.h"
#include "src/format/packed_format.h"

namespace frugal {

// Shares of a layer's neurons. Active is what an exact selector of the file's layout chooses: with gate+bundle2 where the gate is not
// zero, else where what down is multiplied with is not.
struct NeuronActivity {
  std::vector<float> active_shares;         // for a token // [num_layers]
  std::vector<WindowMisses> window_misses;  // as of a predictor file (kPredictorWindowMissesKey) // [num_layers]; empty: not measured
};

void AddActivityKeys(const NeuronActivity& activity, GgufWriter& keys);
// Whether the key is one of those that AddActivityKeys writes.
bool IsActivityKey(std::string_view key);
// Nothing where the file has none. kBadModel naming the key for another number of entries or a share outside 0 to 1.
Result<std::optional<NeuronActivity>> ReadActivityKeys(const GgufReader& gguf, uint32_t num_layers);

}  // namespace frugal
