// Keeps what a layer shows while it runs over the text, each row where the split wants it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "src/model/config.h"
#include "src/model/forward.h"
#include "src/train/samples.h"

namespace frugal {

class SampleRecorder {
 public:
  // `split` and `samples` outlive this.
  SampleRecorder(const ModelConfig& config, const SampleSplit& split, LayerSamples& samples);

  // Rows of the run from first_row on.
  Status Record(const LayerObservation& seen, uint64_t first_row);

 private:
  Status WriteInput(const float* x, uint64_t place, RowStore& store);

  const size_t hidden_, words_;
  const SampleSplit& split_;
  LayerSamples& samples_;
  std::vector<std::byte> half_;  // F16 [hidden]
  std::vector<uint64_t> bits_;   // [words]
};

// Sets the bits of the neurons that fired for the row. // bits [Selector::WordsPerToken(ffn_size)],
// overwritten
void ListActive(const LayerObservation& seen, uint32_t row, std::span<uint64_t> bits);

}  // namespace frugal
