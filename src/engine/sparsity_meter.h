// Whether a model that is said to be sparse is: the share of active neurons in its first tokens. A wrong --activation, or a model that was
// never trained for it, shows here. Allocates nothing; changes no result.
#pragma once

#include <cstdint>

#include "src/model/forward.h"

namespace frugal {

class SparsityMeter {
 public:
  // Enough for a share within some percent: every token has thousands of neurons.
  static constexpr uint32_t kTokens = 32;
  // Published models are below: OPT 3 to 10%, relufied Falcon and Phi-2 5 to 20%, ReluLLaMA 33%. Of a gate that knows no ReLU about half is
  // positive.
  static constexpr double kMostActive = 0.4;

  SparsityMeter(uint32_t num_layers, uint32_t ffn_size) : num_layers_(num_layers), ffn_size_(ffn_size) {}

  bool done() const { return num_tokens_ >= kTokens; }
  void Observe(const LayerObservation& observation);
  // Active among all neurons of the layers seen; with a predictor, of those it chose. Negative before the first token.
  double active_share() const;

 private:
  uint32_t num_layers_, ffn_size_;
  uint32_t num_tokens_ = 0;  // whose last layer was seen
  uint64_t num_active_ = 0, num_seen_ = 0;
};

}  // namespace frugal
