#include "src/model/predictor_file.h"

#include <algorithm>
#include <charconv>

#include "src/base/bytes.h"
#include "src/format/byte_source.h"
#include "src/format/gguf_reader.h"

namespace frugal {
namespace {

// A header holds some hundred bytes a layer; more than this is no predictor file.
constexpr uint64_t kMaxHeaderBytes = 64 * kMiB;
constexpr uint64_t kViewAlignment = 64;     // of each tensor in memory
constexpr uint64_t kGroupAlignment = 4096;  // of the on-time and of the early part: AlignedBuffer's pages

struct TensorPlace {
  const TensorInfo* info = nullptr;
  uint64_t first_hash = 0;     // in frugal.tensor_hashes
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

bool IsHashTable(const TensorInfo& info) {
  return info.name == kTensorHashesName || info.name == kHashOfHashesName;
}

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
  for (const TensorInfo& info : gguf_.tensors()) {
    if (info.name == name) {
      place.info = &info;
      break;
    }
    if (!IsHashTable(info)) place.first_hash += NumHashChunks(info.extent.size_bytes);
  }
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

// Reads tensors and checks their hashes.
class HashedReader {
 public:
  HashedReader(ByteSource& source, const GgufReader& gguf) : source_(source), gguf_(gguf) {}

  // The hash tables and the header's own hash.
  Status Open();
  Status Read(const TensorPlace& place, std::byte* to) const;

 private:
  Result<std::vector<uint64_t>> ReadTable(const char* name, uint64_t count) const;

  ByteSource& source_;
  const GgufReader& gguf_;
  std::vector<uint64_t> hashes_;
};

Result<std::vector<uint64_t>> HashedReader::ReadTable(const char* name, uint64_t count) const {
  const TensorInfo* info = gguf_.FindTensor(name);
  if (info == nullptr) return BadModel("{}: tensor {} is missing", source_.name(), name);
  if (info->dtype != DType::kI64 || info->extent.size_bytes != count * sizeof(uint64_t)) {
    return BadModel("{}: {}: expected I64 [{}], found {} [{}]", source_.name(), name, count,
                    DTypeName(info->dtype), fmt::join(info->shape, ", "));
  }
  std::vector<uint64_t> table(count);
  FRUGAL_TRY(source_.Read(info->extent.offset_bytes, std::as_writable_bytes(std::span(table))));
  return table;
}

Status HashedReader::Open() {
  if (gguf_.data_offset_bytes() > kMaxHeaderBytes) {
    return BadModel("{}: its header has {} bytes, expected at most {}", source_.name(),
                    gguf_.data_offset_bytes(), kMaxHeaderBytes);
  }
  FRUGAL_ASSIGN(const std::vector<uint64_t> hash_of_hashes, ReadTable(kHashOfHashesName, 2));
  std::vector<std::byte> header(gguf_.data_offset_bytes());
  FRUGAL_TRY(source_.Read(0, header));
  if (HashBytes(header) != hash_of_hashes[1]) {
    return BadModel("{}: the header at offset 0 does not match its hash: the file is damaged",
                    source_.name());
  }
  uint64_t count = 0;
  for (const TensorInfo& info : gguf_.tensors()) {
    if (!IsHashTable(info)) count += NumHashChunks(info.extent.size_bytes);
  }
  FRUGAL_ASSIGN(hashes_, ReadTable(kTensorHashesName, count));
  if (HashBytes(std::as_bytes(std::span<const uint64_t>(hashes_))) != hash_of_hashes[0]) {
    return BadModel("{}: {}: the hashes do not match their own hash: the file is damaged", source_.name(),
                    kTensorHashesName);
  }
  return {};
}

Status HashedReader::Read(const TensorPlace& place, std::byte* to) const {
  const Extent& extent = place.info->extent;
  const std::span<std::byte> bytes(to, extent.size_bytes);
  FRUGAL_TRY(source_.Read(extent.offset_bytes, bytes));
  for (uint64_t at = 0, chunk = 0; at < bytes.size(); at += kHashChunkBytes, ++chunk) {
    const uint64_t size = std::min<uint64_t>(kHashChunkBytes, bytes.size() - at);
    if (HashBytes(bytes.subspan(at, size)) == hashes_[place.first_hash + chunk]) continue;
    return BadModel("{}: {}: the bytes at offset {} do not match their hash: the file is damaged",
                    source_.name(), place.info->name, extent.offset_bytes + at);
  }
  return {};
}

Result<LowRankFactors> ReadKind(const HashedReader& reader, const KindTensors& tensors, std::byte* group) {
  LowRankFactors factors;
  if (tensors.rank == 0) return factors;
  FRUGAL_TRY(reader.Read(tensors.down, group + tensors.down.memory_offset));
  FRUGAL_TRY(reader.Read(tensors.up, group + tensors.up.memory_offset));
  FRUGAL_TRY(reader.Read(tensors.bias, group + tensors.bias.memory_offset));
  factors.rank = tensors.rank;
  factors.dtype = tensors.dtype;
  factors.down = group + tensors.down.memory_offset;
  factors.up = group + tensors.up.memory_offset;
  factors.bias = reinterpret_cast<const float*>(group + tensors.bias.memory_offset);
  return factors;
}

Result<GgufReader> OpenHeader(const std::string& path) {
  FRUGAL_ASSIGN(auto source, OpenFileSource(path));
  return GgufReader::Open(std::move(source));
}

}  // namespace

Result<PredictorInfo> PredictorFile::Inspect(const std::string& path, const ModelConfig& config) {
  FRUGAL_ASSIGN(const GgufReader gguf, OpenHeader(path));
  PredictorInfo info;
  Layout layout;
  FRUGAL_TRY(HeaderReader(gguf, config).Read(&info, &layout));
  return info;
}

Result<PredictorFile> PredictorFile::Open(const std::string& path, const ModelConfig& config,
                                          uint64_t content_hash, bool with_early) {
  FRUGAL_ASSIGN(const GgufReader gguf, OpenHeader(path));
  PredictorFile file;
  Layout layout;
  FRUGAL_TRY(HeaderReader(gguf, config).Read(&file.info_, &layout));
  if (file.info_.model_content_hash != content_hash) {
    return BadModel(
        "{}: its predictors belong to another model: {} is {:016x}, the model's content hash is {:016x}; "
        "`frugal train` makes new ones",
        path, kPredictorModelKey, file.info_.model_content_hash, content_hash);
  }
  FRUGAL_ASSIGN(const auto source, OpenFileSource(path));
  HashedReader reader(*source, gguf);
  FRUGAL_TRY(reader.Open());
  FRUGAL_ASSIGN(file.memory_, AlignedBuffer::Allocate(file.info_.on_time_bytes +
                                                      (with_early ? file.info_.early_bytes : 0)));
  std::byte* const on_time = file.memory_.data();
  std::byte* const early = on_time + file.info_.on_time_bytes;
  for (uint32_t layer = 0; layer < config.num_layers; ++layer) {
    FRUGAL_ASSIGN(const LowRankFactors factors, ReadKind(reader, layout.on_time[layer], on_time));
    file.on_time_.push_back(factors);
    file.early_.emplace_back();
    if (with_early) {
      FRUGAL_ASSIGN(file.early_.back(), ReadKind(reader, layout.early[layer], early));
    }
    const TensorPlace& popularity = layout.popularity[layer];
    FRUGAL_TRY(reader.Read(popularity, on_time + popularity.memory_offset));
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
