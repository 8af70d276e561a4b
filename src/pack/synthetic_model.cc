#include "src/pack/synthetic_model.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <optional>
#include <utility>

#include "src/base/bytes.h"
#include "src/base/check.h"
#include "src/base/clock.h"
#include "src/format/hashed_gguf_writer.h"
#include "src/format/neuron_activity.h"
#include "src/format/packed_format.h"
#include "src/kernels/kernels.h"
#include "src/kernels/layer_kernels.h"
#include "src/pack/model_keys.h"

namespace frugal {
namespace {

// The activity of a score  sqrt(p) g_i + sqrt(1-p) (sqrt(w) slow_i(t) + sqrt(1-w) fast_i(t))  over a
// threshold that some share of the scores passes: how much of the FFN the last k tokens used depends on p + w (1-p),
// the part that stays from token to token, and on how fast `slow` changes. Simulations of thousands of such
// neurons gave the w (SyntheticActivity::slow_share) for what each shape shall load; for OPT s_agg(4) = 23.1% and
// 2.45% loaded a token with p + w (1-p) = 0.68 and 10.4% predicted.
constexpr double kPopularityShare = 0.40;
constexpr double kSlowTokens = 40;   // in which the correlation of the slow part falls to 1/e
constexpr double kRecall = 0.95;
constexpr double kEarlyRecall = 0.90;
// Of the residual's variance, what all attention blocks, and what all FFNs together may add.
constexpr double kBlockShare = 0.01;
// Logits of unit variance; negative: the likeliest token is not always the last one again.
constexpr float kOutputNorm = -0.02f;

constexpr uint32_t kTokens = 1024;
constexpr uint32_t kFitTokens = 512;
constexpr uint32_t kEarlyRank = 128;
constexpr uint64_t kPanelBytes = 16 * kMiB;
constexpr uint64_t kRowsPerTile = 16;

enum Purpose : uint64_t {
  kEmbeddingPool,
  kWeightPool,
  kTokenRows,
  kPositionRows,
  kText,
  kLayers,
  kMatrices,
  kDownRows,
  kUpRows
};

// Mean square of what an active neuron gives to down, with the values of synthetic_layer.h.
double ActiveSquare(const Activation& activation) {
  switch (activation.kind) {
    case ActivationKind::kRelu2:
      return 0.5;
    case ActivationKind::kFatRelu:
      return 0.4;
    default:
      return 0.3;
  }
}

}  // namespace

struct SyntheticModel::Tensor {
  enum class Kind { kConstant, kFiringBias, kMatrix, kTokens, kWalk, kBundles, kOrder };
  Kind kind = Kind::kConstant;
  std::string name;
  uint64_t rows = 1, columns = 0;
  float value = 0;  // of a constant; of a matrix its standard deviation
  uint32_t layer = 0;
};

// Data and hashes; the header, some hundred bytes a tensor, is not in it.
uint64_t SyntheticModel::DataBytes() const {
  uint64_t data_bytes = 0, num_chunks = 0;
  for (const Tensor& tensor : tensors_) {
    uint64_t size_bytes = tensor.columns * sizeof(float);  // vectors, orders
    if (tensor.kind == Tensor::Kind::kBundles) {
      size_bytes = tensor.rows * stride_bytes_;
      data_bytes += RoundUp(tensor.rows * sizeof(uint64_t), kPackedAlignmentBytes);
    } else {
      if (tensor.rows > 1) size_bytes = tensor.rows * row_bytes_;
      num_chunks += NumHashChunks(size_bytes);
    }
    data_bytes += RoundUp(size_bytes, kPackedAlignmentBytes);
  }
  return data_bytes + RoundUp(num_chunks * sizeof(uint64_t), kPackedAlignmentBytes);
}

Result<std::unique_ptr<SyntheticModel>> SyntheticModel::Create(const SyntheticOptions& options,
                                                               ThreadPool& pool) {
  if (!IsWritableWeightType(options.type)) {
    return MakeError(ErrorCode::kUsage, "type {}: expected F32, F16, BF16, Q8_0 or Q4_0", DTypeName(options.type));
  }
  const ModelConfig& config = options.config;
  FRUGAL_TRY(ValidateConfig(config, options.name));
  const bool has_room = config.hidden_size >= 64 && config.hidden_size % 32 == 0 && config.ffn_size >= 64;
  const bool is_plain = !config.has_projections() && config.query_size() == config.hidden_size &&
                        config.norm_placement == NormPlacement::kPre && config.has_final_norm && !config.has_post_norms &&
                        config.has_ffn_norm != config.parallel() && config.layer_windows.empty();
  const FfnLayout layout = config.gated ? FfnLayout::kBundle3 : FfnLayout::kUpDown;
  if (!has_room || !is_plain || config.ffn_layout != layout || !config.activation.is_sparse()) {
    return MakeError(ErrorCode::kUsage, "{}: no shape for a synthetic model", options.name);
  }
  return std::unique_ptr<SyntheticModel>(new SyntheticModel(options, pool));
}

SyntheticModel::SyntheticModel(const SyntheticOptions& options, ThreadPool& pool)
    : options_(options),
      config_(options_.config),
      pool_(pool),
      embedding_noise_(MixSeeds(options.seed, kEmbeddingPool), config_.hidden_size),
      weight_noise_(MixSeeds(options.seed, kWeightPool), config_.hidden_size),
      row_bytes_(*RowBytes(options.type, config_.hidden_size)),
      stride_bytes_(BundleStrideBytes(num_parts() * row_bytes_, kSectorBytes)),
      scratch_(static_cast<size_t>(pool.num_threads()) * config_.hidden_size) {
  Random random(MixSeeds(options_.seed, kText));
  tokens_.resize(std::min(kTokens, config_.max_context));
  for (size_t i = 0; i < tokens_.size(); ++i) {
    tokens_[i] = static_cast<int32_t>(config_.learned_positions ? random.Below(config_.vocab_size) : i % config_.vocab_size);
  }
  MakeInputs();
  ListTensors();
}

SyntheticModel::~SyntheticModel() = default;

void SyntheticModel::AddVector(std::string name, uint64_t size, float value) {
  Tensor tensor;
  tensor.name = std::move(name);
  tensor.columns = size;
  tensor.value = value;
  tensors_.push_back(std::move(tensor));
}

void SyntheticModel::AddMatrix(std::string name, uint64_t rows, float scale) {
  Tensor tensor;
  tensor.kind = Tensor::Kind::kMatrix;
  tensor.name = std::move(name);
  tensor.rows = rows;
  tensor.columns = config_.hidden_size;
  tensor.value = scale;
  tensors_.push_back(std::move(tensor));
}

void SyntheticModel::AddNorm(const std::string& name, uint64_t size, float value, bool has_bias) {
  AddVector(name + ".weight", size, value);
  if (has_bias) AddVector(name + ".bias", size, 0);
}

bool SyntheticModel::all_have_biases() const {
  return config_.architecture == Architecture::kOpt || config_.architecture == Architecture::kPersimmon ||
         config_.architecture == Architecture::kPhi2;
}

void SyntheticModel::AddLayerVectors(uint32_t layer) {
  const bool layer_norm = config_.norm == NormKind::kLayer;
  AddNorm(LayerTensorName(layer, "attn_norm"), config_.hidden_size, 1, layer_norm);
  if (config_.has_ffn_norm) AddNorm(LayerTensorName(layer, "ffn_norm"), config_.hidden_size, 1, layer_norm);
  if (config_.head_norm != HeadNorm::kNone) {
    for (const char* norm : {"attn_q_norm", "attn_k_norm"}) {
      AddNorm(LayerTensorName(layer, norm), config_.head_dim, 1, config_.head_norm == HeadNorm::kLayer);
    }
  }
  if (all_have_biases()) {
    AddVector(LayerTensorName(layer, "attn_q.bias"), config_.query_size(), 0);
    for (const char* part : {"attn_k.bias", "attn_v.bias"}) AddVector(LayerTensorName(layer, part), config_.kv_size(), 0);
    for (const char* part : {"attn_output.bias", "ffn_down.bias"}) AddVector(LayerTensorName(layer, part), config_.hidden_size, 0);
  }
  // Published models of some architectures have no such bias, but it is what makes neurons differ here; it takes next to nothing.
  AddVector(LayerTensorName(layer, config_.gated ? "ffn_gate.bias" : "ffn_up.bias"), config_.ffn_size, 0);
  tensors_.back().kind = Tensor::Kind::kFiringBias;
  tensors_.back().layer = layer;
}

void SyntheticModel::AddLayerMatrices(uint32_t layer) {
  const float unit = 1.0f / std::sqrt(static_cast<float>(config_.hidden_size));
  const float output = std::sqrt(static_cast<float>(kBlockShare / config_.num_layers)) * unit;
  AddMatrix(LayerTensorName(layer, "attn_q.weight"), config_.query_size(), unit);
  for (const char* part : {"attn_k.weight", "attn_v.weight"}) AddMatrix(LayerTensorName(layer, part), config_.kv_size(), unit);
  AddMatrix(LayerTensorName(layer, "attn_output.weight"), config_.hidden_size, output);
  Tensor bundles;
  bundles.kind = Tensor::Kind::kBundles;
  bundles.name = BundleTensorName(layer);
  bundles.rows = config_.ffn_size;
  bundles.columns = stride_bytes_;
  const double active = SyntheticActiveShare(options_.activity, layer, config_.num_layers) * config_.ffn_size;
  bundles.value = static_cast<float>(std::sqrt(kBlockShare / (config_.num_layers * active * ActiveSquare(config_.activation))));
  bundles.layer = layer;
  tensors_.push_back(std::move(bundles));
}

// In the order of docs/packed-model.md.
void SyntheticModel::ListTensors() {
  AddNorm("output_norm", config_.hidden_size, kOutputNorm, config_.norm == NormKind::kLayer);
  if (config_.architecture == Architecture::kPhi2) AddVector("output.bias", config_.vocab_size, 0);
  for (uint32_t layer = 0; layer < config_.num_layers; ++layer) AddLayerVectors(layer);
  AddMatrix("token_embd.weight", config_.vocab_size, 1);
  tensors_.back().kind = config_.learned_positions ? Tensor::Kind::kTokens : Tensor::Kind::kWalk;
  if (config_.learned_positions) {
    AddMatrix("position_embd.weight", uint64_t{config_.max_context} + config_.position_offset, 1);
    tensors_.back().kind = Tensor::Kind::kWalk;
  }
  if (config_.has_output_matrix) AddMatrix("output.weight", config_.vocab_size, 1);
  for (uint32_t layer = 0; layer < config_.num_layers; ++layer) AddLayerMatrices(layer);
  for (uint32_t layer = 0; layer < config_.num_layers; ++layer) {
    AddVector(BundleOrderName(layer), config_.ffn_size, 0);
    tensors_.back().kind = Tensor::Kind::kOrder;
  }
}

void SyntheticModel::AddFastPart(uint64_t token, float* out) const {
  embedding_noise_.AddRow(MixSeeds(options_.seed, kTokenRows, token), std::sqrt(1 - options_.activity.slow_share), out,
                          config_.hidden_size);
}

// An Ornstein-Uhlenbeck process, row after row.
void SyntheticModel::NextSlowPart(uint64_t row, float* state) const {
  const float kept = static_cast<float>(row == 0 ? 0.0 : std::exp(-1.0 / kSlowTokens));
  Scale(state, kept, config_.hidden_size);
  embedding_noise_.AddRow(MixSeeds(options_.seed, kPositionRows, row),
                          std::sqrt(options_.activity.slow_share * (1 - kept * kept)), state, config_.hidden_size);
}

// What every layer's FFN sees of the text, up to what the blocks before it add.
void SyntheticModel::MakeInputs() {
  const size_t hidden = config_.hidden_size;
  const size_t num_inputs = std::min<size_t>(kFitTokens, tokens_.size());
  inputs_.resize(num_inputs * hidden);
  std::vector<float> state(hidden), ones(hidden, 1.0f), zeros(hidden);
  for (uint64_t row = 0; row < config_.position_offset; ++row) NextSlowPart(row, state.data());
  for (size_t i = 0; i < num_inputs; ++i) {
    NextSlowPart(i + config_.position_offset, state.data());
    float* const x = inputs_.data() + i * hidden;
    AddFastPart(static_cast<uint64_t>(tokens_[i]), x);
    Add(x, state.data(), hidden);
    if (config_.norm == NormKind::kRms) {
      RmsNorm(x, ones.data(), config_.norm_epsilon, hidden, x);
    } else {
      LayerNorm(x, ones.data(), zeros.data(), config_.norm_epsilon, hidden, x);
    }
  }
}

SyntheticLayer SyntheticModel::Layer(uint32_t layer) {
  SyntheticLayerOptions options;
  options.hidden_size = config_.hidden_size;
  options.ffn_size = config_.ffn_size;
  // Small models have no room for the paper's ranks.
  const uint32_t largest = static_cast<uint32_t>(RoundDown(config_.hidden_size / 2, 32));
  const uint32_t rank = SyntheticRank(options_.activity, layer, config_.num_layers);
  options.has_predictor = rank > 0;
  options.has_early = !config_.parallel();
  options.rank = std::min(rank > 0 ? rank : options_.activity.large_rank, largest);
  options.early_rank = std::min(kEarlyRank, largest);
  options.seed = MixSeeds(options_.seed, kLayers, layer);
  options.active_share = SyntheticActiveShare(options_.activity, layer, config_.num_layers);
  options.predicted_share = options_.activity.asked_predicted;
  options.recall = kRecall;
  options.early_recall = kEarlyRecall;
  options.popularity_share = kPopularityShare;
  if (config_.activation.kind == ActivationKind::kFatRelu) options.threshold = config_.activation.threshold;
  return MakeSyntheticLayer(options, weight_noise_, inputs_, pool_);
}

Result<SyntheticReport> SyntheticModel::Write(
    FunctionRef<void(double share, std::string_view what)> progress) {
  const uint64_t start_ns = NowNs();
  progress_ = &progress;
  done_bytes_ = 0;
  qualities_.clear();
  FRUGAL_ASSIGN(const auto writer, HashedGgufWriter::Open(options_.output_path, options_.overwrite));
  const std::optional<DType> gate_type = config_.gated ? std::optional(options_.type) : std::nullopt;
  AddModelKeys(config_, {options_.name, config_.ffn_layout, gate_type, options_.type, options_.type, stride_bytes_, options_.type},
               writer->keys());
  NeuronActivity activity;  // as it is made for; what windows miss is not known before it is written
  for (uint32_t layer = 0; layer < config_.num_layers; ++layer) {
    activity.active_shares.push_back(static_cast<float>(SyntheticActiveShare(options_.activity, layer, config_.num_layers)));
  }
  AddActivityKeys(activity, writer->keys());
  SyntheticReport report;
  for (const Tensor& tensor : tensors_) {
    switch (tensor.kind) {
      case Tensor::Kind::kBundles:
        writer->AddBundles(tensor.layer, tensor.rows, stride_bytes_);
        report.num_parameters += num_parts() * tensor.rows * config_.hidden_size;
        continue;
      case Tensor::Kind::kOrder:
        writer->AddTensor(tensor.name, DType::kI32, std::array{tensor.columns});
        continue;
      case Tensor::Kind::kConstant:
      case Tensor::Kind::kFiringBias:
        writer->AddTensor(tensor.name, DType::kF32, std::array{tensor.columns});
        break;
      default:
        writer->AddTensor(tensor.name, options_.type, std::array{tensor.rows, tensor.columns});
    }
    report.num_parameters += tensor.rows * tensor.columns;
  }
  FRUGAL_TRY(writer->BeginData(options_.holes ? GgufWriter::Space::kHoles : GgufWriter::Space::kReserved));
  file_bytes_ = writer->file_bytes();
  panel_.resize(std::max(kPanelBytes, stride_bytes_));
  for (size_t i = 0; i < tensors_.size(); ++i) FRUGAL_TRY(WriteTensor(*writer, i));
  progress(1.0, "syncing");
  FRUGAL_TRY(writer->Finish());
  panel_ = {};
  report.layers = std::move(qualities_);
  progress_ = nullptr;
  report.file_bytes = file_bytes_;
  report.stride_bytes = stride_bytes_;
  report.content_hash = writer->content_hash();
  report.elapsed_ns = NowNs() - start_ns;
  return report;
}

Status SyntheticModel::Advance(uint64_t bytes) {
  done_bytes_ += bytes;
  (*progress_)(std::min(1.0, static_cast<double>(done_bytes_) / static_cast<double>(file_bytes_)), what_);
  if (options_.cancel != nullptr && options_.cancel->load(std::memory_order_relaxed)) {
    return MakeError(ErrorCode::kFailed, "interrupted: {} was not written", options_.output_path);
  }
  return {};
}

Status SyntheticModel::WriteTensor(HashedGgufWriter& writer, size_t index) {
  const Tensor& tensor = tensors_[index];
  what_ = tensor.name;
  switch (tensor.kind) {
    case Tensor::Kind::kFiringBias:
      return {};  // with the layer's bundles: then it is known
    case Tensor::Kind::kConstant: {
      const std::vector<float> values(tensor.columns, tensor.value);
      return writer.Append(index, std::as_bytes(std::span(values)));
    }
    case Tensor::Kind::kOrder: {
      std::vector<int32_t> order(tensor.columns);
      std::iota(order.begin(), order.end(), 0);
      return writer.Append(index, std::as_bytes(std::span(order)));
    }
    case Tensor::Kind::kWalk:
      return WriteWalk(writer, index, tensor);
    case Tensor::Kind::kTokens:
    case Tensor::Kind::kMatrix:
      return WriteMatrix(writer, index, tensor);
    case Tensor::Kind::kBundles:
      return WriteBundles(writer, index, tensor);
  }
  return {};
}

Status SyntheticModel::WriteRows(HashedGgufWriter& writer, size_t index, uint64_t num_rows,
                                 uint64_t row_bytes,
                                 FunctionRef<void(uint64_t row, int worker, std::byte* out)> make) {
  if (options_.holes) {
    writer.AppendZeros(index, num_rows * row_bytes);
    return Advance(num_rows * row_bytes);
  }
  const uint64_t at_once = panel_.size() / row_bytes;
  for (uint64_t first = 0; first < num_rows; first += at_once) {
    const uint64_t count = std::min(at_once, num_rows - first);
    pool_.Run(static_cast<int>((count + kRowsPerTile - 1) / kRowsPerTile), [&](int tile, int worker) {
      const uint64_t begin = static_cast<uint64_t>(tile) * kRowsPerTile;
      for (uint64_t i = begin; i < std::min(count, begin + kRowsPerTile); ++i) {
        make(first + i, worker, panel_.data() + i * row_bytes);
      }
    });
    FRUGAL_TRY(writer.Append(index, std::span(panel_).first(count * row_bytes)));
    FRUGAL_TRY(Advance(count * row_bytes));
  }
  return {};
}

Status SyntheticModel::WriteMatrix(HashedGgufWriter& writer, size_t index, const Tensor& tensor) {
  const size_t hidden = config_.hidden_size;
  const uint64_t seed = MixSeeds(options_.seed, kMatrices, index);
  return WriteRows(writer, index, tensor.rows, row_bytes_, [&](uint64_t row, int worker, std::byte* out) {
    float* const values = scratch_.data() + static_cast<size_t>(worker) * hidden;
    std::fill_n(values, hidden, 0.0f);
    if (tensor.kind == Tensor::Kind::kTokens) {
      AddFastPart(row, values);
    } else {
      weight_noise_.AddRow(MixSeeds(seed, row), tensor.value, values, hidden);
    }
    ConvertFromFloat(options_.type, values, hidden, out);
  });
}

// The slow part, each row of which follows from the one before; where there are no positions with the fast part of the token.
Status SyntheticModel::WriteWalk(HashedGgufWriter& writer, size_t index, const Tensor& tensor) {
  if (options_.holes) {
    writer.AppendZeros(index, tensor.rows * row_bytes_);
    return Advance(tensor.rows * row_bytes_);
  }
  std::vector<float> state(config_.hidden_size), values(config_.hidden_size);
  std::vector<std::byte> bytes(row_bytes_);
  for (uint64_t row = 0; row < tensor.rows; ++row) {
    NextSlowPart(row, state.data());
    values = state;
    if (!config_.learned_positions) AddFastPart(row, values.data());
    ConvertFromFloat(options_.type, values.data(), config_.hidden_size, bytes.data());
    FRUGAL_TRY(writer.Append(index, bytes));
    FRUGAL_TRY(Advance(row_bytes_));
  }
  return {};
}

Status SyntheticModel::WriteBundles(HashedGgufWriter& writer, size_t index, const Tensor& tensor) {
  const SyntheticLayer layer = Layer(tensor.layer);
  qualities_.push_back(layer.quality);
  const size_t bias = static_cast<size_t>(std::find_if(tensors_.begin(), tensors_.end(),
                                                       [&](const Tensor& other) {
                                                         return other.kind == Tensor::Kind::kFiringBias &&
                                                                other.layer == tensor.layer;
                                                       }) -
                                          tensors_.begin());
  FRUGAL_TRY(writer.Append(bias, std::as_bytes(std::span(layer.bias))));
  const size_t hidden = config_.hidden_size;
  const uint64_t down_seed = MixSeeds(options_.seed, kDownRows, tensor.layer);
  const uint64_t up_seed = MixSeeds(options_.seed, kUpRows, tensor.layer);
  const float unit = 1.0f / std::sqrt(static_cast<float>(hidden));
  return WriteRows(writer, index, tensor.rows, stride_bytes_, [&](uint64_t row, int worker, std::byte* out) {
    float* const values = scratch_.data() + static_cast<size_t>(worker) * hidden;
    std::byte* const end = out + stride_bytes_;
    layer.FiringRow(static_cast<uint32_t>(row), weight_noise_, values);
    ConvertFromFloat(options_.type, values, hidden, out);
    const auto append_noise = [&](uint64_t seed, float scale) {
      out += row_bytes_;
      std::fill_n(values, hidden, 0.0f);
      weight_noise_.AddRow(MixSeeds(seed, row), scale, values, hidden);
      ConvertFromFloat(options_.type, values, hidden, out);
    };
    if (config_.gated) append_noise(up_seed, unit);
    append_noise(down_seed, tensor.value);
    std::fill(out + row_bytes_, end, std::byte{0});
  });
}

}  // namespace frugal
