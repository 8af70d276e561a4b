// Compares a predictor run with the exact run of the same forced ids: which neurons were truly active
// (activation above zero in the exact run), and were they computed? The exact run's active sets lie in a
// temporary file without a name, so that the two engines can be opened one after the other and each may use
// the whole budget.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "src/base/unique_fd.h"
#include "src/cli/evaluation.h"
#include "src/model/forward.h"

namespace frugal {

// A bitmap of ffn_size bits for each token and layer.
class ActiveSetFile {
 public:
  // In `directory`. kIo names it.
  static Result<ActiveSetFile> Create(const std::string& directory, uint32_t num_layers, uint32_t ffn_size);

  // words: [words_per_set()]
  Status Put(uint64_t token, uint32_t layer, std::span<const uint64_t> words);
  // kFailed when that set was not put.
  Status Get(uint64_t token, uint32_t layer, std::span<uint64_t> words) const;
  size_t words_per_set() const { return words_per_set_; }
  uint32_t num_layers() const { return num_layers_; }

 private:
  ActiveSetFile() = default;
  uint64_t OffsetBytes(uint64_t token, uint32_t layer) const {
    return (token * num_layers_ + layer) * words_per_set_ * sizeof(uint64_t);
  }

  UniqueFd fd_;
  std::string directory_;
  uint32_t num_layers_ = 0;
  size_t words_per_set_ = 0;
};

// Observer of the exact run.
class ActiveSetRecorder {
 public:
  explicit ActiveSetRecorder(ActiveSetFile& file) : file_(file), words_(file.words_per_set()) {}
  Status Observe(const StepPlace& place, const LayerObservation& observation);

 private:
  ActiveSetFile& file_;
  std::vector<uint64_t> words_;
};

struct LayerRecall {
  uint64_t num_tokens = 0;
  uint64_t active = 0;  // neurons, all tokens together
  uint64_t found = 0;   // active and chosen
  uint64_t chosen = 0;
  // A layer that is never active misses nothing.
  double recall() const {
    return active == 0 ? 1.0 : static_cast<double>(found) / static_cast<double>(active);
  }
};

struct RecallSummary {
  double pooled = 1;  // of all truly active neurons of all layers
  double mean = 1;    // over layers
  double worst = 1;
  uint32_t worst_layer = 0;
  double active_share = 0;  // of all neurons
  double chosen_share = 0;
};
RecallSummary Summarize(std::span<const LayerRecall> layers, uint32_t ffn_size);

// Observer of the predictor run. Tokens before position `skip` of their piece are left out.
class RecallComparison {
 public:
  RecallComparison(const ActiveSetFile& file, uint32_t skip)
      : file_(file), skip_(skip), words_(file.words_per_set()), layers_(file.num_layers()) {}
  Status Observe(const StepPlace& place, const LayerObservation& observation);
  const std::vector<LayerRecall>& layers() const { return layers_; }

 private:
  const ActiveSetFile& file_;
  const uint32_t skip_;
  std::vector<uint64_t> words_;
  std::vector<LayerRecall> layers_;
};

}  // namespace frugal
