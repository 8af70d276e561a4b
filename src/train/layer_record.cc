#include "src/train/layer_record.h"

#include <cstring>
#include <type_traits>

namespace frugal {
namespace {

template <typename T>
concept Plain = std::is_trivially_copyable_v<T>;

void PutBytes(std::vector<std::byte>& to, const void* from, size_t size_bytes) {
  const size_t at = to.size();
  to.resize(at + size_bytes);
  if (size_bytes > 0) std::memcpy(to.data() + at, from, size_bytes);
}
template <Plain T>
void Put(std::vector<std::byte>& to, const T& value) {
  PutBytes(to, &value, sizeof(T));
}
template <Plain T>
void PutArray(std::vector<std::byte>& to, const std::vector<T>& values) {
  Put(to, static_cast<uint64_t>(values.size()));
  PutBytes(to, values.data(), values.size() * sizeof(T));
}

class Decoder {
 public:
  explicit Decoder(std::span<const std::byte> bytes) : bytes_(bytes) {}

  template <Plain T>
  void Get(T* value) {
    if (bytes_.size() < sizeof(T)) {
      failed_ = true;
      return;
    }
    std::memcpy(value, bytes_.data(), sizeof(T));
    bytes_ = bytes_.subspan(sizeof(T));
  }
  template <Plain T>
  void GetArray(std::vector<T>* values) {
    uint64_t size = 0;
    Get(&size);
    if (failed_ || size > bytes_.size() / sizeof(T)) {
      failed_ = true;
      return;
    }
    values->resize(size);
    if (size > 0) std::memcpy(values->data(), bytes_.data(), size * sizeof(T));
    bytes_ = bytes_.subspan(size * sizeof(T));
  }
  Status Finish() const {
    if (failed_ || !bytes_.empty())
      return MakeError(ErrorCode::kIo, "a record of the partial file is malformed; remove the file");
    return {};
  }
  bool failed() const { return failed_; }

 private:
  std::span<const std::byte> bytes_;
  bool failed_ = false;
};

void PutPredictor(std::vector<std::byte>& to, const QuantisedPredictor& predictor,
                  const PredictorQuality& quality) {
  Put(to, predictor.rank);
  Put(to, predictor.dtype);
  PutArray(to, predictor.down);
  PutArray(to, predictor.up);
  PutArray(to, predictor.bias);
  Put(to, quality);
}

void GetPredictor(Decoder& from, QuantisedPredictor* predictor, PredictorQuality* quality) {
  from.Get(&predictor->rank);
  from.Get(&predictor->dtype);
  from.GetArray(&predictor->down);
  from.GetArray(&predictor->up);
  from.GetArray(&predictor->bias);
  from.Get(quality);
}

}  // namespace

std::vector<std::byte> EncodeText(const TokenSequences& text) {
  std::vector<std::byte> bytes;
  Put(bytes, static_cast<uint64_t>(text.size()));
  for (const std::vector<int32_t>& sequence : text) PutArray(bytes, sequence);
  return bytes;
}

Result<TokenSequences> DecodeText(std::span<const std::byte> bytes) {
  Decoder decoder(bytes);
  uint64_t size = 0;
  decoder.Get(&size);
  TokenSequences text;
  for (uint64_t i = 0; i < size && !decoder.failed(); ++i) decoder.GetArray(&text.emplace_back());
  FRUGAL_TRY(decoder.Finish());
  return text;
}

std::vector<std::byte> EncodeLayer(const LayerPredictors& layer) {
  std::vector<std::byte> bytes;
  PutPredictor(bytes, layer.on_time, layer.on_time_quality);
  PutPredictor(bytes, layer.early, layer.early_quality);
  PutArray(bytes, layer.popularity);
  Put(bytes, layer.window_misses);
  Put(bytes, layer.early_wrong_share);
  return bytes;
}

Result<LayerPredictors> DecodeLayer(std::span<const std::byte> bytes) {
  Decoder decoder(bytes);
  LayerPredictors layer;
  GetPredictor(decoder, &layer.on_time, &layer.on_time_quality);
  GetPredictor(decoder, &layer.early, &layer.early_quality);
  decoder.GetArray(&layer.popularity);
  decoder.Get(&layer.window_misses);
  decoder.Get(&layer.early_wrong_share);
  FRUGAL_TRY(decoder.Finish());
  return layer;
}

}  // namespace frugal
