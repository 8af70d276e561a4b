#include "src/cli/recall_comparison.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdlib>

#include "src/io/nameless_file.h"
#include "src/select/selector.h"

namespace frugal {
namespace {

}  // namespace

Result<ActiveSetFile> ActiveSetFile::Create(const std::string& directory, uint32_t num_layers,
                                            uint32_t ffn_size) {
  ActiveSetFile file;
  FRUGAL_ASSIGN(file.fd_, OpenNamelessFile(directory));
  file.directory_ = directory;
  file.num_layers_ = num_layers;
  file.words_per_set_ = Selector::WordsPerToken(ffn_size);
  return file;
}

Status ActiveSetFile::Put(uint64_t token, uint32_t layer, std::span<const uint64_t> words) {
  const std::byte* from = reinterpret_cast<const std::byte*>(words.data());
  uint64_t offset = OffsetBytes(token, layer);
  for (size_t left = words.size_bytes(); left > 0;) {
    const ssize_t written = pwrite(fd_.get(), from, left, static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0)
      return MakeError(ErrorCode::kIo, "{}: temporary file: {}", directory_, ErrnoText(errno));
    from += written;
    offset += static_cast<uint64_t>(written);
    left -= static_cast<size_t>(written);
  }
  return {};
}

Status ActiveSetFile::Get(uint64_t token, uint32_t layer, std::span<uint64_t> words) const {
  std::byte* to = reinterpret_cast<std::byte*>(words.data());
  uint64_t offset = OffsetBytes(token, layer);
  for (size_t left = words.size_bytes(); left > 0;) {
    const ssize_t got = pread(fd_.get(), to, left, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return MakeError(ErrorCode::kIo, "{}: temporary file: {}", directory_, ErrnoText(errno));
    if (got == 0)
      return MakeError(ErrorCode::kFailed, "the exact run had no token {} in layer {}", token, layer);
    to += got;
    offset += static_cast<uint64_t>(got);
    left -= static_cast<size_t>(got);
  }
  return {};
}

Status ActiveSetRecorder::Observe(const StepPlace& place, const LayerObservation& observation) {
  for (uint32_t row = 0; row < observation.num_rows; ++row) {
    std::fill(words_.begin(), words_.end(), uint64_t{0});
    const float* activations = observation.activations + row * observation.activation_stride;
    for (size_t i = 0; i < observation.positions.size(); ++i) {
      const uint32_t position = observation.positions[i];
      if (activations[i] != 0.0f) words_[position / 64] |= uint64_t{1} << (position % 64);
    }
    FRUGAL_TRY(file_.Put(place.first_token + row, observation.layer, words_));
  }
  return {};
}

Status RecallComparison::Observe(const StepPlace& place, const LayerObservation& observation) {
  LayerRecall& layer = layers_[observation.layer];
  for (uint32_t row = 0; row < observation.num_rows; ++row) {
    if (place.first_position + row < skip_) continue;
    FRUGAL_TRY(file_.Get(place.first_token + row, observation.layer, words_));
    const std::span<const uint64_t> chosen = observation.active.subspan(row * words_.size(), words_.size());
    ++layer.num_tokens;
    for (size_t i = 0; i < words_.size(); ++i) {
      layer.active += static_cast<uint64_t>(std::popcount(words_[i]));
      layer.chosen += static_cast<uint64_t>(std::popcount(chosen[i]));
      layer.found += static_cast<uint64_t>(std::popcount(words_[i] & chosen[i]));
    }
  }
  return {};
}

RecallSummary Summarize(std::span<const LayerRecall> layers, uint32_t ffn_size) {
  RecallSummary summary;
  LayerRecall all;
  double sum = 0;
  for (uint32_t i = 0; i < layers.size(); ++i) {
    const LayerRecall& layer = layers[i];
    all.num_tokens += layer.num_tokens;
    all.active += layer.active;
    all.found += layer.found;
    all.chosen += layer.chosen;
    sum += layer.recall();
    if (layer.recall() < summary.worst) {
      summary.worst = layer.recall();
      summary.worst_layer = i;
    }
  }
  if (!layers.empty()) summary.mean = sum / static_cast<double>(layers.size());
  summary.pooled = all.recall();
  if (all.num_tokens == 0) return summary;
  const double neurons = static_cast<double>(all.num_tokens) * ffn_size;
  summary.active_share = static_cast<double>(all.active) / neurons;
  summary.chosen_share = static_cast<double>(all.chosen) / neurons;
  return summary;
}

}  // namespace frugal
