// Runs the model over the text, one layer at a time: the residual stream of all tokens is kept between
// layers, so that a layer's weights are needed once and no others with them.
#pragma once

#include <atomic>
#include <vector>

#include "src/base/function_ref.h"
#include "src/base/thread_pool.h"
#include "src/model/model_file.h"
#include "src/model/forward.h"
#include "src/model/weights.h"
#include "src/train/row_store.h"

namespace frugal {

using TokenSequences = std::vector<std::vector<int32_t>>;

constexpr uint32_t kRunRows = 64;  // of a batch

// The plan of one layer's weights, all of them resident.
WeightPlan OneLayerPlan(uint32_t layer);

// hidden: F32 [tokens, hidden_size], in the order of the sequences; becomes token plus position embedding.
Status EmbedText(Weights& weights, const TokenSequences& text, RowStore& hidden);

// Sees a layer's inputs and activity for the rows of the run from first_row on.
using RowsObserver = FunctionRef<Status(const LayerObservation& seen, uint64_t first_row)>;

// Advances `hidden` by one layer. `observer` may be nullptr; its error ends the run.
Status RunLayerOverText(Weights& weights, ThreadPool& pool, uint32_t layer, const TokenSequences& text,
                        uint32_t max_sequence, RowStore& hidden, const RowsObserver* observer,
                        const std::atomic<bool>* cancel, FunctionRef<void(double share)> progress);

// The rows whose products decide which neurons are active, as floats: the gate's, or up's where there is none. // [ffn_size, hidden_size]
Result<std::vector<float>> ReadDecidingRows(Weights& weights, uint32_t layer);
// What is added to them: a neuron is active where the sum is above 0. // [ffn_size]
std::vector<float> DecidingBias(const Weights& weights, uint32_t layer);

}  // namespace frugal
