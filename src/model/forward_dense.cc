// The FFN of the forward pass from matrices: all neurons, as an ordinary GGUF has them; and the gate where it alone is a matrix.
#include <algorithm>

#include "src/kernels/layer_kernels.h"
#include "src/model/activation.h"
#include "src/model/forward.h"

namespace frugal {

uint64_t Forward::GateFloats(const ModelConfig& config, uint32_t max_rows) {
  const bool is_matrix = config.ffn_layout == FfnLayout::kMatrices || config.ffn_layout == FfnLayout::kGateAndBundle2;
  return config.gated && is_matrix ? uint64_t{max_rows} * config.ffn_size : 0;
}

Status Forward::ComputeGates(uint32_t layer, uint32_t num_rows) {
  const uint32_t gate = weights_.model().layer(layer).gate;
  const size_t hidden = config_.hidden_size, size = config_.ffn_size;
  FRUGAL_TRY(MatMul({{gate, weights_.vector(layer, LayerVector::kGateBias), gates_.data(), size}}, ffn_input_.data(), hidden, num_rows));
  ForEachPiece(num_rows * size, [&](size_t begin, size_t end) { Activate(config_.activation, gates_.data() + begin, end - begin); });
  return {};
}

Status Forward::DenseFfn(uint32_t layer, uint32_t num_rows) {
  const LayerMatrices& matrices = weights_.model().layer(layer);
  const size_t hidden = config_.hidden_size, size = config_.ffn_size;
  const DType up_type = MatrixType(matrices.up), gate_type = config_.gated ? MatrixType(matrices.gate) : up_type;
  PrepareInput({gate_type, up_type}, ffn_input_.data(), hidden, num_rows, hidden);
  if (config_.gated) FRUGAL_TRY(ComputeGates(layer, num_rows));
  const std::span<const float> up_bias = weights_.vector(layer, LayerVector::kUpBias);
  FRUGAL_TRY(MatMul({{matrices.up, up_bias, activations_.data(), size}}, ffn_input_.data(), hidden, num_rows));
  ForEachPiece(num_rows * size, [&](size_t begin, size_t end) {
    float* const activations = activations_.data() + begin;
    if (config_.gated) {
      ApplyGate(config_.activation, gates_.data() + begin, activations, end - begin);
    } else {
      Activate(config_.activation, activations, end - begin);
    }
  });
  PrepareInput({MatrixType(matrices.down)}, activations_.data(), size, num_rows, size);
  const std::span<const float> down_bias = weights_.vector(layer, LayerVector::kDownBias);
  return MatMul({{matrices.down, down_bias, block_out_.data(), hidden}}, activations_.data(), size, num_rows);
}

}  // namespace frugal
