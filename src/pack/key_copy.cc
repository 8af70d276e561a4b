#include "src/pack/key_copy.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace frugal {
namespace {

Status CopyArray(const GgufReader& gguf, const GgufKeyValue& entry, GgufWriter& keys) {
  switch (std::get<GgufArray>(entry.value).element_type) {
    case GgufType::kString: {
      std::vector<std::string> values;
      FRUGAL_TRY(gguf.ForEachString(entry.key, [&](uint64_t, std::string_view text) -> Status {
        values.emplace_back(text);
        return {};
      }));
      keys.AddStringArray(entry.key, values);
      return {};
    }
    case GgufType::kI32: {
      std::vector<int32_t> values;
      FRUGAL_TRY(gguf.ForEachInt(entry.key, [&](uint64_t, int64_t value) -> Status {
        values.push_back(static_cast<int32_t>(value));
        return {};
      }));
      keys.AddInt32Array(entry.key, values);
      return {};
    }
    case GgufType::kF32: {
      std::vector<float> values;
      FRUGAL_TRY(gguf.ForEachFloat(entry.key, [&](uint64_t, float value) -> Status {
        values.push_back(value);
        return {};
      }));
      keys.AddFloat32Array(entry.key, values);
      return {};
    }
    default:
      return BadModel("{}: key '{}' at offset {}: an array of a type that no packed file has", gguf.name(),
                      entry.key, entry.offset_bytes);
  }
}

}  // namespace

Status CopyGgufKey(const GgufReader& gguf, const GgufKeyValue& entry, GgufWriter& keys) {
  switch (entry.type) {
    case GgufType::kU32:
      keys.AddUint32(entry.key, static_cast<uint32_t>(std::get<uint64_t>(entry.value)));
      return {};
    case GgufType::kU64:
      keys.AddUint64(entry.key, std::get<uint64_t>(entry.value));
      return {};
    case GgufType::kF32:
      keys.AddFloat32(entry.key, static_cast<float>(std::get<double>(entry.value)));
      return {};
    case GgufType::kF64:
      keys.AddFloat64(entry.key, std::get<double>(entry.value));
      return {};
    case GgufType::kBool:
      keys.AddBool(entry.key, std::get<bool>(entry.value));
      return {};
    case GgufType::kString:
      keys.AddString(entry.key, std::get<std::string>(entry.value));
      return {};
    case GgufType::kArray:
      return CopyArray(gguf, entry, keys);
    default:
      return BadModel("{}: key '{}' at offset {}: a type that no packed file has", gguf.name(), entry.key,
                      entry.offset_bytes);
  }
}

}  // namespace frugal
