#include "src/train/predictor_writer.h"

#include <array>

#include "src/format/hashed_gguf_writer.h"
#include "src/format/packed_format.h"

namespace frugal {
namespace {

struct QualityKey {
  const char* name;
  double PredictorQuality::*value;
};
constexpr QualityKey kQualityKeys[] = {
    {"recall", &PredictorQuality::recall},
    {"precision", &PredictorQuality::precision},
    {"false_negative_share", &PredictorQuality::false_negative_share},
    {"false_positive_share", &PredictorQuality::false_positive_share},
    {"predicted_share", &PredictorQuality::predicted_share},
    {"active_share", &PredictorQuality::active_share},
};

void AddQualities(GgufWriter& keys, const char* prefix, const std::vector<PredictorQuality>& layers) {
  std::vector<int32_t> ranks;
  for (const PredictorQuality& layer : layers) ranks.push_back(static_cast<int32_t>(layer.rank));
  keys.AddInt32Array(fmt::format("frugal.predictor.{}rank", prefix), ranks);
  for (const QualityKey& key : kQualityKeys) {
    std::vector<float> values;
    for (const PredictorQuality& layer : layers) values.push_back(static_cast<float>(layer.*key.value));
    keys.AddFloat32Array(fmt::format("frugal.predictor.{}{}", prefix, key.name), values);
  }
}

void AddKeys(GgufWriter& keys, const TrainOptions& options, const ModelConfig& config,
             const PredictorFileHead& head) {
  keys.AddString("general.architecture", kPredictorArchitecture);
  keys.AddString(kPredictorModelKey, fmt::format("{:016x}", head.model_content_hash));
  keys.AddUint32("frugal.predictor.num_layers", config.num_layers);
  keys.AddUint32("frugal.predictor.hidden_size", config.hidden_size);
  keys.AddUint32("frugal.predictor.ffn_size", config.ffn_size);
  keys.AddString("frugal.predictor.source", options.source);
  keys.AddUint64("frugal.predictor.tokens", head.num_tokens);
  keys.AddUint64("frugal.predictor.seed", options.seed);
  keys.AddFloat32("frugal.predictor.recall_target", static_cast<float>(options.recall_target));
  keys.AddFloat32("frugal.predictor.early_recall_target", static_cast<float>(options.early_recall_target));
  AddQualities(keys, "", head.on_time);
  AddQualities(keys, "early_", head.early);
  std::vector<float> misses;
  for (const WindowMisses& of_layer : head.window_misses) misses.insert(misses.end(), of_layer.begin(), of_layer.end());
  keys.AddFloat32Array(kPredictorWindowMissesKey, misses);
  keys.AddFloat32Array(kPredictorEarlyWrongKey, head.early_wrong_shares);
}

struct KindTensors {
  size_t down = 0, up = 0, bias = 0;  // indices in the writer
};

KindTensors AddKind(HashedGgufWriter& writer, const ModelConfig& config, uint32_t layer, PredictorKind kind,
                    uint32_t rank) {
  const DType dtype = PredictorDType(config.hidden_size);
  KindTensors tensors;
  if (rank == 0) return tensors;
  tensors.down = writer.AddTensor(PredictorTensorName(layer, kind, "down"), dtype,
                                  std::array<uint64_t, 2>{rank, config.hidden_size});
  tensors.up = writer.AddTensor(PredictorTensorName(layer, kind, "up"), dtype,
                                std::array<uint64_t, 2>{config.ffn_size, rank});
  tensors.bias = writer.AddTensor(PredictorTensorName(layer, kind, "bias"), DType::kF32,
                                  std::array<uint64_t, 1>{config.ffn_size});
  return tensors;
}

Status AppendKind(HashedGgufWriter& writer, const KindTensors& tensors, const QuantisedPredictor& predictor) {
  if (predictor.rank == 0) return {};
  FRUGAL_TRY(writer.Append(tensors.down, predictor.down));
  FRUGAL_TRY(writer.Append(tensors.up, predictor.up));
  return writer.Append(tensors.bias, std::as_bytes(std::span(predictor.bias)));
}

}  // namespace

Result<uint64_t> WritePredictorFile(const std::string& path, const TrainOptions& options,
                                    const ModelConfig& config, const PredictorFileHead& head,
                                    FunctionRef<Result<LayerPredictors>(uint32_t layer)> layer) {
  FRUGAL_ASSIGN(const auto writer, HashedGgufWriter::Open(path, options.overwrite));
  AddKeys(writer->keys(), options, config, head);
  std::vector<KindTensors> on_time, early;
  std::vector<size_t> popularity;
  for (uint32_t i = 0; i < config.num_layers; ++i) {
    on_time.push_back(AddKind(*writer, config, i, PredictorKind::kOnTime, head.on_time[i].rank));
    popularity.push_back(writer->AddTensor(PredictorTensorName(i, PredictorKind::kOnTime, "popularity"),
                                           DType::kF32, std::array<uint64_t, 1>{config.ffn_size}));
    early.push_back(AddKind(*writer, config, i, PredictorKind::kEarly, head.early[i].rank));
  }
  FRUGAL_TRY(writer->BeginData());
  for (uint32_t i = 0; i < config.num_layers; ++i) {
    FRUGAL_ASSIGN(const LayerPredictors predictors, layer(i));
    FRUGAL_TRY(AppendKind(*writer, on_time[i], predictors.on_time));
    FRUGAL_TRY(writer->Append(popularity[i], std::as_bytes(std::span(predictors.popularity))));
    FRUGAL_TRY(AppendKind(*writer, early[i], predictors.early));
  }
  const uint64_t file_bytes = writer->file_bytes();
  FRUGAL_TRY(writer->Finish());
  return file_bytes;
}

}  // namespace frugal
