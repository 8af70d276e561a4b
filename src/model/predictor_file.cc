#include "src/model/predictor_file.h"

#include <algorithm>
#include <charconv>

#include "src/base/bytes.h"
#include "src/format/byte_source.h"
#include "src/format/hashed_gguf_reader.h"

namespace frugal {
namespace {

constexpr uint64_t kViewAlignment = 64;     // of each tensor in memory
constexpr uint64_t kGroupAlignment = 4096;  // of the on-time and of the early part: AlignedBuffer's pages

struct TensorPlace {
  const TensorInfo* info = nullptr;
  uint64_t memory_offset = 0;  // in its group
};

// One kind of predictor of one layer.
struct KindTensors {
  uint32_t rank = 0;
  DType dtype = DType::kQ8_0;
  TensorPlace down, up, bias;
};

struct Layout {
  std::vector<KindTensors> on_time, early;  // [num_layers]
  std::vector<TensorPlace> popularity;      // [num_layers]
};

// A predictor file's header, validated against the model's config.
class HeaderReader {
 public:
  HeaderReader(const GgufReader& gguf, const ModelConfig& config) : gguf_(gguf), config_(config) {}

  Status Read(PredictorInfo* info, Layout* layout);

 private:
  Status CheckKeys(PredictorInfo* info) const;
  Status ReadArrays(PredictorInfo* info) const;
  Result<std::vector<uint32_t>> ReadRanks(const char* key) const;
  // `per_layer` entries for each layer.
  Result<std::vector<float>> ReadShares(const char* key, size_t per_layer = 1) const;
  Result<KindTensors> FindKind(uint32_t layer, PredictorKind kind, uint32_t rank,
                               uint64_t* group_bytes) const;
  Result<TensorPlace> Place(const std::string& name, DType dtype, std::vector<uint64_t> shape,
                            uint64_t* group_bytes) const;

  const GgufReader& gguf_;
  const ModelConfig& config_;
};

Status HeaderReader::CheckKeys(PredictorInfo* info) const {
  FRUGAL_ASSIGN(const std::string architecture, gguf_.GetString("general.architecture"));
  if (architecture != kPredictorArchitecture) {
    return BadModel("{}: general.architecture is \"{}\", expected \"{}\": this is no predictor file",
                    gguf_.name(), architecture, kPredictorArchitecture);
  }
  FRUGAL_ASSIGN(const uint64_t chunk_bytes, gguf_.GetUint(kHashChunkKey));
  if (chunk_bytes != kHashChunkBytes) {
    return BadModel("{}: {} is {}, expected {}", gguf_.name(), kHashChunkKey, chunk_bytes, kHashChunkBytes);
  }
  FRUGAL_ASSIGN(const std::string hash, gguf_.GetString(kPredictorModelKey));
  const char* const end = hash.data() + hash.size();
  const auto parsed = std::from_chars(hash.data(), end, info->model_content_hash, 16);
  if (hash.size() != 16 || parsed.ec != std::errc() || parsed.ptr != end) {
    return BadModel("{}: {} is \"{}\", expected 16 hexadecimal digits", gguf_.name(), kPredictorModelKey,
                    hash);
  }
  const struct {
    const char* key;
    uint64_t expected;
  } sizes[] = {{"frugal.predictor.num_layers", config_.num_layers},
               {"frugal.predictor.hidden_size", config_.hidden_size},
               {"frugal.predictor.ffn_size", config_.ffn_size}};
  for (const auto& [key, expected] : sizes) {
    FRUGAL_ASSIGN(const uint64_t value, gguf_.GetUint(key));
    if (value != expected) {
      return BadModel("{}: {} is {}, the model's is {}: the predictors belong to another model", gguf_.name(),
                      key, value, expected);
    }
  }
  return {};
}

Result<std::vector<uint32_t>> HeaderReader::ReadRanks(const char* key) const {
  FRUGAL_ASSIGN(const uint64_t count, gguf_.ArrayCount(key));
  if (count != config_.num_layers)
    return BadModel("{}: {} has {} entries, expected {}", gguf_.name(), key, count, config_.num_layers);
  std::vector<uint32_t> ranks(count);
  // More than ffn_size columns could not tell more neurons apart.
  const uint64_t largest = RoundUp(config_.ffn_size, 32);
  FRUGAL_TRY(gguf_.ForEachInt(key, [&](uint64_t i, int64_t value) -> Status {
    if (value < 0 || static_cast<uint64_t>(value) > largest) {
      return BadModel("{}: {}[{}] is {}, expected 0 to {}", gguf_.name(), key, i, value, largest);
    }
    ranks[i] = static_cast<uint32_t>(value);
    return {};
  }));
  return ranks;
}

Result<std::vector<float>> HeaderReader::ReadShares(const char* key, size_t per_layer) const {
  FRUGAL_ASSIGN(const uint64_t count, gguf_.ArrayCount(key));
  const uint64_t expected = config_.num_layers * uint64_t{per_layer};
  if (count != expected) return BadModel("{}: {} has {} entries, expected {}", gguf_.name(), key, count, expected);
  std::vector<float> shares(count);
  FRUGAL_TRY(gguf_.ForEachFloat(key, [&](uint64_t i, float value) -> Status {
    if (!(value >= 0.0f && value <= 1.0f)) {
      return BadModel("{}: {}[{}] is {}, expected 0 to 1", gguf_.name(), key, i, value);
    }
    shares[i] = value;
    return {};
  }));
  return shares;
}

Status HeaderReader::ReadArrays(PredictorInfo* info) const {
  FRUGAL_ASSIGN(const std::vector<uint32_t> ranks, ReadRanks("frugal.predictor.rank"));
  FRUGAL_ASSIGN(const std::vector<uint32_t> early_ranks, ReadRanks("frugal.predictor.early_rank"));
  FRUGAL_ASSIGN(const std::vector<float> recall, ReadShares("frugal.predictor.recall"));
  FRUGAL_ASSIGN(const std::vector<float> precision, ReadShares("frugal.predictor.precision"));
  FRUGAL_ASSIGN(const std::vector<float> predicted, ReadShares("frugal.predictor.predicted_share"));
  FRUGAL_ASSIGN(const std::vector<float> active, ReadShares("frugal.predictor.active_share"));
  info->layers.resize(config_.num_layers);
  for (uint32_t i = 0; i < config_.num_layers; ++i) {
    info->layers[i] = {ranks[i], early_ranks[i], recall[i], precision[i], predicted[i], active[i], 0};
    info->max_rank = std::max({info->max_rank, ranks[i], early_ranks[i]});
  }
  if (gguf_.Find(kPredictorEarlyWrongKey) != nullptr) {
    FRUGAL_ASSIGN(const std::vector<float> wrong, ReadShares(kPredictorEarlyWrongKey));
    for (uint32_t i = 0; i < config_.num_layers; ++i) info->layers[i].early_wrong_share = wrong[i];
  }
  if (gguf_.Find(kPredictorWindowMissesKey) == nullptr) return {};
  FRUGAL_ASSIGN(const std::vector<float> misses, ReadShares(kPredictorWindowMissesKey, kNumWindows));
  info->window_misses.resize(config_.num_layers);
  for (size_t i = 0; i < misses.size(); ++i) info->window_misses[i / kNumWindows][i % kNumWindows] = misses[i];
  return {};
}

// The tensor `name`, given the next place of its group in memory.
Result<TensorPlace> HeaderReader::Place(const std::string& name, DType dtype, std::vector<uint64_t> shape,
                                        uint64_t* group_bytes) const {
  TensorPlace place;
  place.info = gguf_.FindTensor(name);
  if (place.info == nullptr) return BadModel("{}: tensor {} is missing", gguf_.name(), name);
  if (place.info->dtype != dtype || place.info->shape != shape) {
    return BadModel("{}: {}: expected {} [{}], found {} [{}]", gguf_.name(), name, DTypeName(dtype),
                    fmt::join(shape, ", "), DTypeName(place.info->dtype), fmt::join(place.info->shape, ", "));
  }
  place.memory_offset = *group_bytes;
  *group_bytes += RoundUp(place.info->extent.size_bytes, kViewAlignment);
  return place;
}

Result<KindTensors> HeaderReader::FindKind(uint32_t layer, PredictorKind kind, uint32_t rank,
                                           uint64_t* group_bytes) const {
  KindTensors tensors;
  tensors.rank = rank;
  if (rank == 0) return tensors;
  const std::string down = PredictorTensorName(layer, kind, "down");
  const TensorInfo* info = gguf_.FindTensor(down);
  if (info == nullptr) return BadModel("{}: tensor {} is missing", gguf_.name(), down);
  tensors.dtype = info->dtype;
  const bool known = info->dtype == DType::kQ8_0 || IsFloat(info->dtype);
  if (!known || !RowBytes(info->dtype, rank) || !RowBytes(info->dtype, config_.hidden_size)) {
    return BadModel("{}: {}: {} cannot hold rows of {} and {} elements; expected Q8_0, F16, BF16 or F32",
                    gguf_.name(), down, DTypeName(info->dtype), config_.hidden_size, rank);
  }
  FRUGAL_ASSIGN(tensors.down, Place(down, info->dtype, {rank, config_.hidden_size}, group_bytes));
  FRUGAL_ASSIGN(tensors.up, Place(PredictorTensorName(layer, kind, "up"), info->dtype,
                                  {config_.ffn_size, rank}, group_bytes));
  FRUGAL_ASSIGN(tensors.bias, Place(PredictorTensorName(layer, kind, "bias"), DType::kF32, {config_.ffn_size},
                                    group_bytes));
  return tensors;
}

Status HeaderReader::Read(PredictorInfo* info, Layout* layout) {
  info->path = gguf_.name();
  FRUGAL_TRY(CheckKeys(info));
  FRUGAL_TRY(ReadArrays(info));
  for (uint32_t layer = 0; layer < config_.num_layers; ++layer) {
    const PredictorLayerInfo& ranks = info->layers[layer];
    FRUGAL_ASSIGN(KindTensors on_time,
                  FindKind(layer, PredictorKind::kOnTime, ranks.rank, &info->on_time_bytes));
    FRUGAL_ASSIGN(KindTensors early,
                  FindKind(layer, PredictorKind::kEarly, ranks.early_rank, &info->early_bytes));
    layout->on_time.push_back(on_time);
    layout->early.push_back(early);
    FRUGAL_ASSIGN(TensorPlace popularity,
                  Place(PredictorTensorName(layer, PredictorKind::kOnTime, "popularity"), DType::kF32,
                        {config_.ffn_size}, &info->on_time_bytes));
    layout->popularity.push_back(popularity);
  }
  info->on_time_bytes = RoundUp(info->on_time_bytes, kGroupAlignment);
  info->early_bytes = RoundUp(info->early_bytes, kGroupAlignment);
  return {};
}

Status ReadTensor(HashedGgufReader& reader, const TensorPlace& place, std::byte* group) {
  const HashedGgufReader::Tensor* const tensor = reader.Find(place.info->name);
  CHECK(tensor != nullptr);
  return reader.Read(*tensor, 0, {group + place.memory_offset, place.info->extent.size_bytes});
}

Result<LowRankFactors> ReadKind(HashedGgufReader& reader, const KindTensors& tensors, std::byte* group) {
  LowRankFactors factors;
  if (tensors.rank == 0) return factors;
  FRUGAL_TRY(ReadTensor(reader, tensors.down, group));
  FRUGAL_TRY(ReadTensor(reader, tensors.up, group));
  FRUGAL_TRY(ReadTensor(reader, tensors.bias, group));
  factors.rank = tensors.rank;
  factors.dtype = tensors.dtype;
  factors.down = group + tensors.down.memory_offset;
  factors.up = group + tensors.up.memory_offset;
  factors.bias = reinterpret_cast<const float*>(group + tensors.bias.memory_offset);
  return factors;
}

}  // namespace

Result<PredictorInfo> PredictorFile::Inspect(const std::string& path, const ModelConfig& config) {
  FRUGAL_ASSIGN(auto source, OpenFileSource(path));
  FRUGAL_ASSIGN(const GgufReader gguf, GgufReader::Open(std::move(source)));
  PredictorInfo info;
  Layout layout;
  FRUGAL_TRY(HeaderReader(gguf, config).Read(&info, &layout));
  return info;
}

Result<PredictorFile> PredictorFile::Open(const std::string& path, const ModelConfig& config,
                                          uint64_t content_hash, bool with_early) {
  FRUGAL_ASSIGN(const std::unique_ptr<HashedGgufReader> reader, HashedGgufReader::Open(path));
  PredictorFile file;
  Layout layout;
  FRUGAL_TRY(HeaderReader(reader->gguf(), config).Read(&file.info_, &layout));
  if (file.info_.model_content_hash != content_hash) {
    return BadModel(
        "{}: its predictors belong to another model: {} is {:016x}, the model's content hash is {:016x}; "
        "`frugal train` makes new ones",
        path, kPredictorModelKey, file.info_.model_content_hash, content_hash);
  }
  FRUGAL_ASSIGN(file.memory_, AlignedBuffer::Allocate(file.info_.on_time_bytes +
                                                      (with_early ? file.info_.early_bytes : 0)));
  std::byte* const on_time = file.memory_.data();
  std::byte* const early = on_time + file.info_.on_time_bytes;
  for (uint32_t layer = 0; layer < config.num_layers; ++layer) {
    FRUGAL_ASSIGN(const LowRankFactors factors, ReadKind(*reader, layout.on_time[layer], on_time));
    file.on_time_.push_back(factors);
    file.early_.emplace_back();
    if (with_early) {
      FRUGAL_ASSIGN(file.early_.back(), ReadKind(*reader, layout.early[layer], early));
    }
    const TensorPlace& popularity = layout.popularity[layer];
    FRUGAL_TRY(ReadTensor(*reader, popularity, on_time));
    file.popularity_.emplace_back(reinterpret_cast<const float*>(on_time + popularity.memory_offset),
                                  config.ffn_size);
  }
  return file;
}

std::vector<LowRankFactors> PredictorFile::factors(PredictorKind kind) const {
  return kind == PredictorKind::kOnTime ? on_time_ : early_;
}

std::span<const float> PredictorFile::popularity(uint32_t layer) const { return popularity_[layer]; }

}  // namespace frugal
