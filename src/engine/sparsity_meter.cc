#include "src/engine/sparsity_meter.h"

#include "src/kernels/listed_rows.h"

namespace frugal {

void SparsityMeter::Observe(const LayerObservation& observation) {
  for (uint32_t row = 0; row < observation.num_rows; ++row) {
    const float* const activations = observation.activations + row * observation.activation_stride;
    num_active_ += CountNonZero(activations, observation.positions.size());
  }
  num_seen_ += uint64_t{observation.num_rows} * ffn_size_;
  if (observation.layer + 1 == num_layers_) num_tokens_ += observation.num_rows;
}

double SparsityMeter::active_share() const {
  return num_tokens_ == 0 ? -1.0 : static_cast<double>(num_active_) / static_cast<double>(num_seen_);
}

}  // namespace frugal
