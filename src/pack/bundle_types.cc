#include "src/pack/bundle_types.h"

#include <optional>
#include <string>

#include "src/format/packed_format.h"

namespace frugal {

Result<BundleTypes> ReadBundleTypes(const GgufReader& gguf, uint32_t layer, uint64_t hidden_size) {
  FRUGAL_ASSIGN(const std::string text, gguf.GetString(BundleTypesKey(layer)));
  const size_t comma = text.find(',');
  if (comma != std::string::npos) {
    const std::optional<DType> up = ParseDType(text.substr(0, comma));
    const std::optional<DType> down = ParseDType(text.substr(comma + 1));
    const auto holds_rows = [hidden_size](const std::optional<DType>& type) {
      return type && IsWeightType(*type) && RowBytes(*type, hidden_size).has_value();
    };
    if (holds_rows(up) && holds_rows(down)) return BundleTypes{*up, *down};
  }
  return BadModel("{}: key '{}': expected two types of weights as in \"F16,F16\" for rows of {}", gguf.name(),
                  BundleTypesKey(layer), hidden_size);
}

}  // namespace frugal
