#include "src/train/sample_recorder.h"

#include <algorithm>

#include "src/kernels/kernels.h"

namespace frugal {

void ListActive(const LayerObservation& seen, uint32_t row, std::span<uint64_t> bits) {
  std::fill(bits.begin(), bits.end(), uint64_t{0});
  const float* const activations = seen.activations + row * seen.activation_stride;
  for (size_t i = 0; i < seen.positions.size(); ++i) {
    if (activations[i] != 0.0f) bits[seen.positions[i] / 64] |= uint64_t{1} << (seen.positions[i] % 64);
  }
}

SampleRecorder::SampleRecorder(const ModelConfig& config, const SampleSplit& split, LayerSamples& samples)
    : hidden_(config.hidden_size),
      words_(Selector::WordsPerToken(config.ffn_size)),
      split_(split),
      samples_(samples),
      half_(hidden_ * sizeof(uint16_t)),
      bits_(words_) {}

Status SampleRecorder::Record(const LayerObservation& seen, uint64_t first_row) {
  for (uint32_t row = 0; row < seen.num_rows; ++row) {
    const uint64_t place = split_.place[first_row + row];
    FRUGAL_TRY(WriteInput(seen.ffn_input + row * hidden_, place, samples_.on_time));
    if (samples_.early.num_rows() > 0)
      FRUGAL_TRY(WriteInput(seen.early_input + row * hidden_, place, samples_.early));
    ListActive(seen, row, bits_);
    FRUGAL_TRY(samples_.active.Write(place, std::as_bytes(std::span<const uint64_t>(bits_))));
  }
  return {};
}

Status SampleRecorder::WriteInput(const float* x, uint64_t place, RowStore& store) {
  ConvertFromFloat(DType::kF16, x, hidden_, half_.data());
  return store.Write(place, half_);
}

}  // namespace frugal
