#include "src/train/layer_run.h"

#include <algorithm>
#include <numeric>

#include "src/kernels/kernels.h"
#include "src/kernels/training_kernels.h"

namespace frugal {
namespace {

struct TokenPlace {
  int32_t token = 0;
  uint32_t position = 0;
  uint64_t row = 0;
};

// project_in as floats, empty when the model has none. // [hidden_size, embedding_size]
Result<std::vector<float>> ReadProjectIn(Weights& weights) {
  const ModelConfig& config = weights.model().config();
  std::vector<float> matrix;
  if (!config.has_projections()) return matrix;
  matrix.resize(size_t{config.hidden_size} * config.embedding_size);
  for (size_t row = 0; row < config.hidden_size; ++row) {
    FRUGAL_TRY(
        weights.ReadRow(weights.model().ids().project_in, row,
                        std::span(matrix).subspan(row * config.embedding_size, config.embedding_size)));
  }
  return matrix;
}

}  // namespace

WeightPlan OneLayerPlan(uint32_t layer) {
  WeightPlan plan;
  plan.only_layer = static_cast<int32_t>(layer);
  return plan;
}

// By token, so that each row of the embedding is read once.
Status EmbedText(Weights& weights, const TokenSequences& text, RowStore& hidden) {
  const ModelConfig& config = weights.model().config();
  const size_t size = config.hidden_size;
  std::vector<TokenPlace> places;
  uint32_t longest = 0;
  for (const std::vector<int32_t>& sequence : text) {
    longest = std::max(longest, static_cast<uint32_t>(sequence.size()));
    for (uint32_t i = 0; i < sequence.size(); ++i) places.push_back({sequence[i], i, places.size()});
  }
  std::stable_sort(places.begin(), places.end(),
                   [](const TokenPlace& a, const TokenPlace& b) { return a.token < b.token; });

  std::vector<float> positions(longest * size);
  for (uint32_t i = 0; config.learned_positions && i < longest; ++i) {
    FRUGAL_TRY(weights.ReadRow(weights.model().ids().position_embedding, i + config.position_offset,
                               std::span(positions).subspan(i * size, size)));
  }
  FRUGAL_ASSIGN(const std::vector<float> project_in, ReadProjectIn(weights));
  std::vector<float> embedding(config.embedding_size), token_part(size), row(size);
  int32_t token = -1;
  for (const TokenPlace& place : places) {
    if (place.token != token) {
      token = place.token;
      FRUGAL_TRY(
          weights.ReadRow(weights.model().ids().token_embedding, static_cast<uint64_t>(token), embedding));
      if (project_in.empty()) {
        token_part = embedding;
      } else {
        MatMulF32(embedding.data(), project_in.data(), token_part.data(), 1, size, config.embedding_size);
      }
      if (config.embedding_scale != 1.0f) Scale(token_part.data(), config.embedding_scale, size);
    }
    row = token_part;
    Add(row.data(), positions.data() + place.position * size, size);
    FRUGAL_TRY(hidden.Write(place.row, std::as_bytes(std::span<const float>(row))));
  }
  return {};
}

Status RunLayerOverText(Weights& weights, ThreadPool& pool, uint32_t layer, const TokenSequences& text,
                        uint32_t max_sequence, RowStore& hidden, const RowsObserver* observer,
                        const std::atomic<bool>* cancel, FunctionRef<void(double share)> progress) {
  const ModelConfig& config = weights.model().config();
  AllSelector selector(config.ffn_size);
  Forward forward(weights, selector, nullptr, pool, kRunRows, 0, max_sequence);
  FRUGAL_ASSIGN(KvCache kv, KvCache::Create(config, 1, max_sequence, DType::kF16));
  uint64_t first_row = 0;
  const auto observe = [&](const LayerObservation& seen) { return (*observer)(seen, first_row); };
  const LayerObserver layer_observer(observe);
  std::vector<BatchRow> rows;
  for (const std::vector<int32_t>& sequence : text) {
    for (uint32_t begin = 0; begin < sequence.size(); begin += kRunRows) {
      if (cancel != nullptr && cancel->load()) return MakeError(ErrorCode::kFailed, "interrupted");
      const uint32_t end = std::min(begin + kRunRows, static_cast<uint32_t>(sequence.size()));
      rows.clear();
      for (uint32_t i = begin; i < end; ++i) rows.push_back({&kv, sequence[i], i});
      const std::span<float> residual = forward.residual().first(rows.size() * config.hidden_size);
      FRUGAL_TRY(hidden.Read(first_row, std::as_writable_bytes(residual)));
      FRUGAL_TRY(forward.RunLayer(layer, 0, rows, observer != nullptr ? &layer_observer : nullptr));
      if (!AllFinite(residual.data(), residual.size())) {
        return BadModel(
            "{}: the residual stream holds a NaN or an infinity behind layer {}; `frugal check` finds the "
            "weight",
            weights.model().path(), layer);
      }
      FRUGAL_TRY(hidden.Write(first_row, std::as_bytes(std::span<const float>(residual))));
      first_row += rows.size();
    }
    progress(static_cast<double>(first_row) / static_cast<double>(hidden.num_rows()));
  }
  return {};
}

Result<std::vector<float>> ReadDecidingRows(Weights& weights, uint32_t layer) {
  const ModelConfig& config = weights.model().config();
  const BundleInfo& bundle = weights.model().bundles()[layer];
  std::vector<float> up(size_t{config.ffn_size} * config.hidden_size);
  std::vector<uint32_t> all(config.ffn_size), counts(config.ffn_size, 1);
  std::iota(all.begin(), all.end(), 0u);
  FRUGAL_TRY(weights.BeginBundles(layer, all, counts, 1));
  while (true) {
    FRUGAL_ASSIGN(const BundleWave wave, weights.NextWave());
    if (wave.begin == wave.end) break;
    FRUGAL_TRY(weights.FinishWave());
    for (size_t i = wave.begin; i < wave.end; ++i) {
      ConvertToFloat(config.gated ? bundle.gate_type : bundle.up_type, wave.rows.row(i - wave.begin), config.hidden_size,
                     up.data() + i * config.hidden_size);
    }
    weights.EndWave();
  }
  weights.EndBundles();
  return up;
}

std::vector<float> DecidingBias(const Weights& weights, uint32_t layer) {
  const ModelConfig& config = weights.model().config();
  const std::span<const float> bias = weights.vector(layer, config.gated ? LayerVector::kGateBias : LayerVector::kUpBias);
  std::vector<float> sums(config.ffn_size, config.activation.kind == ActivationKind::kFatRelu ? -config.activation.threshold : 0.0f);
  if (!bias.empty()) Add(sums.data(), bias.data(), bias.size());
  return sums;
}

}  // namespace frugal
