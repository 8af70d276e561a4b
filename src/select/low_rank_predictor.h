// The paper's predictor (section 3.1, figure 3): two matrices a layer, hidden_size x rank and rank x ffn_size. Neuron i
// is active when  B[i] . (A x) + bias[i] >= 0; training folds the threshold into the bias. Where B is quantised, A x is quantised for its
// product (kernels/quantised_kernels.h); x, which has outliers, is not.
#pragma once

#include <memory>
#include <vector>

#include "src/base/aligned_vector.h"
#include "src/select/selector.h"
#include "src/select/tiles_done.h"
#include "src/tensor/dtype.h"

namespace frugal {

// Views of one layer's factors; the owner (a loaded predictor file) outlives the selector.
struct LowRankFactors {
  uint32_t rank = 0;                 // 0: the layer has no predictor, all its neurons are active
  DType dtype = DType::kQ8_0;
  const std::byte* down = nullptr;   // A [rank, hidden_size]
  const std::byte* up = nullptr;     // B [ffn_size, rank]
  const float* bias = nullptr;       // [ffn_size]
};

class LowRankPredictor : public Selector {
 public:
  LowRankPredictor(uint32_t hidden_size, uint32_t ffn_size, uint32_t max_tokens, int num_threads,
                   std::vector<LowRankFactors> layers);
  void Select(uint32_t layer, const float* x, uint32_t num_tokens, std::span<uint64_t> active, ThreadPool& pool,
              FunctionRef<void(uint32_t)> between_tiles) override;
  bool selects_all() const override { return false; }

  // Bytes of its scratch, for the ledger.
  static uint64_t ScratchBytes(uint32_t ffn_size, uint32_t max_rank, uint32_t max_tokens, int num_threads);

 private:
  static uint64_t ScoresPerThread(uint32_t max_tokens);

  const uint32_t hidden_size_;
  const uint32_t ffn_size_;
  const uint32_t max_tokens_;
  const std::vector<LowRankFactors> layers_;
  AlignedVector<float> projected_;         // [max_tokens, max_rank]: A x
  AlignedVector<int8_t> projected_q_;      // [max_tokens, max_rank]
  AlignedVector<float> projected_scales_;  // [max_tokens, max_rank / 32]
  AlignedVector<float> scores_;            // [num_threads, ScoresPerThread]: of a tile of neurons, for each token
  TilesDone tiles_done_;                   // of the second product
};

}  // namespace frugal
