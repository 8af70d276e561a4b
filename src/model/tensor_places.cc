#include "src/model/tensor_places.h"

#include <array>
#include <utility>

#include "src/format/packed_format.h"
#include "src/model/checkpoint_map.h"

namespace frugal {
namespace {

uint64_t RowBytesOf(const TensorInfo& info) { return *RowBytes(info.dtype, info.shape.size() > 1 ? info.columns() : 1); }

TensorPlace PlaceOf(const TensorInfo& info) {
  TensorPlace place{info.name, info.dtype, info.shape, info.file_index, info.extent.offset_bytes, {}, false};
  place.runs.run_rows = info.shape.empty() ? 1 : std::max<uint64_t>(1, info.shape[0]);
  place.runs.run_stride_bytes = info.extent.size_bytes;
  return place;
}

// Of `info`, the rows of one projection. `rows.rope_dims` is 0: no row is in another order.
TensorPlace PlaceOfRows(const TensorInfo& info, const RowMap& rows, std::vector<uint64_t> shape) {
  TensorPlace place = PlaceOf(info);
  const uint64_t row_bytes = RowBytesOf(info);
  const uint64_t run_rows = rows.heads_per_group * rows.head_dim;
  place.offset_bytes += rows.first_row * row_bytes;
  place.runs = {run_rows, rows.group_rows * row_bytes};
  if (run_rows == rows.group_rows || run_rows >= shape[0]) place.runs = {shape[0], shape[0] * row_bytes};
  place.shape = std::move(shape);
  return place;
}

struct Part {
  Projection projection;
  const char* name;  // "attn_q"
  const char* text;  // for messages
  uint64_t rows;
};

std::array<Part, 3> PartsOf(const ModelConfig& config) {
  return {{{Projection::kQuery, "attn_q", "query", config.query_size()},
           {Projection::kKey, "attn_k", "key", config.kv_size()},
           {Projection::kValue, "attn_v", "value", config.kv_size()}}};
}

}  // namespace

const TensorPlace* TensorPlaces::Find(const std::string& name) const {
  const auto found = places_.find(name);
  return found == places_.end() ? nullptr : &found->second;
}

Result<TensorPlaces> TensorPlaces::FromGguf(const GgufReader& gguf, const ModelConfig& config) {
  TensorPlaces places;
  for (const TensorInfo& info : gguf.tensors()) places.places_.emplace(info.name, PlaceOf(info));
  // A packed file has them apart: hashes cover whole tensors.
  if (gguf.Find(kPackedVersionKey) != nullptr) return places;
  const FusedQkv fused = config.architecture == Architecture::kPersimmon ? FusedQkv::kHeads : FusedQkv::kStacked;
  const uint64_t fused_rows = uint64_t{config.query_size()} + 2 * uint64_t{config.kv_size()};
  for (uint32_t layer = 0; layer < config.num_layers; ++layer) {
    for (const char* end : {".weight", ".bias"}) {
      const TensorInfo* const info = gguf.FindTensor(LayerTensorName(layer, "attn_qkv") + end);
      if (info == nullptr) continue;
      std::vector<uint64_t> shape = {fused_rows};
      if (end[1] == 'w') shape.push_back(config.hidden_size);
      if (info->shape != shape) {
        return BadModel("{}: {}: expected the shape [{}], found [{}]", gguf.name(), info->name, fmt::join(shape, ", "),
                        fmt::join(info->shape, ", "));
      }
      for (const Part& part : PartsOf(config)) {
        shape[0] = part.rows;
        TensorPlace place = PlaceOfRows(*info, MapRows(part.projection, fused, false, config), shape);
        place.name = fmt::format("{} ({} rows)", info->name, part.text);
        places.places_.emplace(LayerTensorName(layer, part.name) + end, std::move(place));
      }
    }
  }
  return places;
}

Result<TensorPlaces> TensorPlaces::FromCheckpoint(Checkpoint& checkpoint) {
  TensorPlaces places;
  FRUGAL_ASSIGN(const std::vector<MappedTensor> mapped, MapCheckpoint(checkpoint, RotatedRows::kAsStored));
  for (const MappedTensor& tensor : mapped) {
    switch (tensor.kind) {
      case MappedTensor::Kind::kPlain:
        places.places_.emplace(tensor.name, PlaceOf(*tensor.source));
        break;
      case MappedTensor::Kind::kPlusOne:
        places.places_.emplace(tensor.name, PlaceOf(*tensor.source)).first->second.lacks_one = true;
        break;
      case MappedTensor::Kind::kRows: {
        TensorPlace place = PlaceOfRows(*tensor.source, tensor.rows, tensor.shape);
        for (const Part& part : PartsOf(checkpoint.config())) {
          if (tensor.name.find(part.name) != std::string::npos) place.name = fmt::format("{} ({} rows)", place.name, part.text);
        }
        places.places_.emplace(tensor.name, std::move(place));
        break;
      }
      case MappedTensor::Kind::kValues:
        break;  // Rotation computes them from the config
    }
  }
  return places;
}

}  // namespace frugal
