// One walk over the header of a GGUF file: everything in it is checked here. Part of GgufReader, which is the
// way in.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/result.h"
#include "src/format/gguf_cursor.h"
#include "src/format/gguf_reader.h"
#include "src/tensor/tensor_info.h"

namespace frugal {

struct GgufTypeTraits {
  std::string_view name;
  uint64_t size_bytes;  // 0 for strings and arrays
};

inline constexpr std::array<GgufTypeTraits, 13> kGgufTypes = {{{"u8", 1},
                                                               {"i8", 1},
                                                               {"u16", 2},
                                                               {"i16", 2},
                                                               {"u32", 4},
                                                               {"i32", 4},
                                                               {"f32", 4},
                                                               {"bool", 1},
                                                               {"string", 0},
                                                               {"array", 0},
                                                               {"u64", 8},
                                                               {"i64", 8},
                                                               {"f64", 8}}};

// `type` must be one of the enumerators.
inline const GgufTypeTraits& TraitsOf(GgufType type) { return kGgufTypes[static_cast<uint32_t>(type)]; }

inline const std::string& KeyOf(const GgufKeyValue& item) { return item.key; }
inline const std::string& NameOf(const TensorInfo& item) { return item.name; }

// One walk over the header of `source`.
class GgufParser {
 public:
  explicit GgufParser(ByteSource& source) : source_(source), cursor_(source, 0) {}

  Status Parse();

  uint32_t version = 0;
  uint64_t alignment_bytes = 32;
  uint64_t data_offset_bytes = 0;
  std::vector<GgufKeyValue> key_values;
  std::vector<TensorInfo> tensors;
  std::vector<uint32_t> key_order;
  std::vector<uint32_t> tensor_order;

 private:
  Status ParseFixedPart();
  Status CheckCount(std::string_view what, uint64_t count, uint64_t max_count, uint64_t min_item_bytes) const;
  Status ParseKeyValue();
  Result<GgufValue> ParseValue(GgufType type, const std::string& what);
  Result<GgufArray> ParseArray(const std::string& what);
  Status ParseAlignment();
  Status ParseTensorInfo();
  Status SizeTensor(TensorInfo& tensor, uint64_t at) const;
  Status PlaceTensors();
  Status Hold(uint64_t size_bytes, std::string_view what);

  ByteSource& source_;
  GgufCursor cursor_;
  uint64_t num_tensors_ = 0;
  uint64_t num_key_values_ = 0;
  uint64_t held_bytes_ = 0;
};

}  // namespace frugal
