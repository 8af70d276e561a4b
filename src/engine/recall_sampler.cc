#include "src/engine/recall_sampler.h"

#include "src/base/bytes.h"
#include "src/kernels/quantised_kernels.h"
#include "src/model/activation.h"

namespace frugal {

Result<RecallSampler> RecallSampler::Create(Weights& weights, uint32_t every, uint64_t seed) {
  CHECK(every > 0);
  RecallSampler sampler(weights, every, seed);
  FRUGAL_ASSIGN(sampler.scratch_, AlignedBuffer::Allocate(weights.model().bundles()[0].stride_bytes));
  const uint32_t hidden_size = weights.model().config().hidden_size;
  sampler.input_q_.resize(hidden_size);
  sampler.input_scales_.resize(hidden_size / kQuantisedBlock);
  return sampler;
}

float RecallSampler::Product(uint32_t layer, uint32_t position, const std::byte* row, DType type, LayerVector bias, const float* x) const {
  const size_t hidden_size = input_q_.size();
  float product = 0;
  const RowSet rows{row, 0, nullptr};
  if (IsQuantised(type)) {
    DotRowsQuantised(type, rows, 0, 1, hidden_size, {input_q_.data(), input_scales_.data()}, 1, &product, 1);
  } else {
    DotRows(type, rows, 0, 1, hidden_size, x, 0, 1, &product, 1);
  }
  const std::span<const float> biases = weights_->vector(layer, bias);
  return biases.empty() ? product : product + biases[position];
}

// Where its activation is not zero: a gated neuron's where its gate is not, and with dReLU where up is above zero too.
bool RecallSampler::IsActive(uint32_t layer, uint32_t position, const std::byte* bundle, const float* x) const {
  const BundleInfo& info = weights_->model().bundles()[layer];
  const ModelConfig& config = weights_->model().config();
  const auto up = [&] { return Product(layer, position, bundle + info.up_offset_bytes, info.up_type, LayerVector::kUpBias, x); };
  float product = config.gated ? Product(layer, position, bundle, info.gate_type, LayerVector::kGateBias, x) : up();
  Activate(config.activation, &product, 1);
  if (product == 0.0f) return false;
  return config.activation.kind != ActivationKind::kDRelu || !(up() <= 0.0f);
}

Status RecallSampler::Observe(const LayerObservation& observation) {
  const uint32_t num_layers = weights_->model().config().num_layers;
  if (observation.num_rows != 1 || step_ % every_ != 0 || step_ / every_ % num_layers != observation.layer) return {};
  const uint32_t ffn_size = weights_->model().config().ffn_size;
  const auto chosen = [&](uint32_t position) { return (observation.active[position / 64] >> (position % 64)) & 1; };
  for (size_t i = 0; i < observation.positions.size(); ++i) {
    if (observation.activations[i] != 0.0f) found_active_ += 1;
  }
  const BundleInfo& bundle = weights_->model().bundles()[observation.layer];
  if (IsQuantised(bundle.up_type) || IsQuantised(bundle.gate_type)) {
    QuantiseInput(observation.ffn_input, input_q_.size(), input_q_.data(), input_scales_.data());
  }
  // Every step-th position, from a random one: of an order by popularity too, each is as likely as all others.
  const uint32_t step = (ffn_size + kMostLookedAt - 1) / kMostLookedAt;
  uint32_t num_absent = 0;
  for (uint32_t position = static_cast<uint32_t>(random_.Below(step)); position < ffn_size; position += step) {
    if (chosen(position)) continue;
    const std::byte* bytes = weights_->PeekBundle(observation.layer, position);
    if (bytes == nullptr) {
      num_absent += step;
    } else if (IsActive(observation.layer, position, bytes, observation.ffn_input)) {
      missed_active_ += static_cast<double>(step);
    }
  }
  ++num_samples_;
  if (num_absent == 0) return {};
  uint32_t num_read = 0, num_active = 0;
  for (uint32_t tries = 0; num_read < kReadsPerSample && tries < 64 * kReadsPerSample; ++tries) {
    const uint32_t position = static_cast<uint32_t>(random_.Below(ffn_size));
    if (chosen(position) || weights_->PeekBundle(observation.layer, position) != nullptr) continue;
    FRUGAL_TRY(weights_->ReadBundle(observation.layer, position, scratch_.bytes()));
    ++num_read;
    if (IsActive(observation.layer, position, scratch_.data(), observation.ffn_input)) ++num_active;
  }
  if (num_read > 0) missed_active_ += static_cast<double>(num_absent) * num_active / num_read;
  return {};
}

double RecallSampler::recall() const {
  if (num_samples_ == 0) return -1.0;
  const double active = found_active_ + missed_active_;
  return active == 0 ? 1.0 : found_active_ / active;
}

}  // namespace frugal
