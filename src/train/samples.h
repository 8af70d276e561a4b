// What one layer showed over the whole text: the inputs of its two predictors and which neurons were active.
// Rows lie in an order that was shuffled once: first those to fit on, then those to choose thresholds on,
// then those to report on, so that a minibatch is a contiguous read.
#pragma once

#include <cstdint>
#include <vector>

#include "src/format/packed_format.h"
#include "src/train/row_store.h"

namespace frugal {

struct RowRange {
  uint64_t begin = 0;
  uint64_t count = 0;
};

// Which row goes where. The held-out rows are of texts that the fit never sees.
struct SampleSplit {
  std::vector<uint32_t> place;  // of each token of the run, in the order of the run // [num_tokens]
  RowRange fit, choose, report;

  uint64_t num_rows() const { return place.size(); }
};

// `lengths`: tokens of each sequence, at least 3 of them. Whole sequences are held out, a tenth of the tokens
// each (at least one sequence), chosen by the seed.
SampleSplit SplitSamples(const std::vector<uint64_t>& lengths, uint64_t seed);

struct LayerSamples {
  RowStore on_time;  // F16 [num_rows, hidden_size]: what the FFN sees
  RowStore
      early;  // F16 [num_rows, hidden_size]: what attention sees; empty when no early predictor is wanted
  RowStore active;  // U64 [num_rows, Selector::WordsPerToken(ffn_size)]

  RowStore& inputs(PredictorKind kind) { return kind == PredictorKind::kOnTime ? on_time : early; }
  const RowStore& inputs(PredictorKind kind) const {
    return kind == PredictorKind::kOnTime ? on_time : early;
  }
};

// Reads F16 rows as floats. `scratch` is resized as needed. // out [count, columns]
Status ReadHalfRows(const RowStore& store, RowRange rows, size_t columns, std::vector<std::byte>& scratch,
                    float* out);
Status WriteHalfRows(RowStore& store, RowRange rows, size_t columns, std::vector<std::byte>& scratch,
                     const float* from);

}  // namespace frugal
