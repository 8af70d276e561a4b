#include "src/pack/bundle_types.h"

#include <optional>
#include <string>

#include "src/format/packed_format.h"

namespace frugal {

Result<BundleTypes> ReadBundleTypes(const GgufReader& gguf, uint32_t layer) {
  FRUGAL_ASSIGN(const std::string text, gguf.GetString(BundleTypesKey(layer)));
  const size_t comma = text.find(',');
  if (comma != std::string::npos) {
    const std::optional<DType> up = ParseDType(text.substr(0, comma));
    const std::optional<DType> down = ParseDType(text.substr(comma + 1));
    if (up && down && IsFloat(*up) && IsFloat(*down)) return BundleTypes{*up, *down};
  }
  return BadModel("{}: key '{}': expected two of F32, F16, BF16 as in \"F16,F16\"", gguf.name(),
                  BundleTypesKey(layer));
}

}  // namespace frugal
