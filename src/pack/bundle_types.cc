#include "src/pack/bundle_types.h"

#include <optional>

#include "src/format/packed_format.h"

namespace frugal {
namespace {

std::vector<const char*> PartNames(FfnLayout layout) {
  if (layout == FfnLayout::kMatrices) return {};
  if (layout == FfnLayout::kBundle3) return {"gate", "up", "down"};
  return {"up", "down"};
}

}  // namespace

Result<std::vector<BundlePart>> ReadBundleParts(const GgufReader& gguf, uint32_t layer, const ModelConfig& config) {
  const std::vector<const char*> names = PartNames(config.ffn_layout);
  std::vector<BundlePart> parts;
  if (names.empty()) return parts;
  FRUGAL_ASSIGN(const std::string text, gguf.GetString(BundleTypesKey(layer)));
  uint64_t offset_bytes = 0;
  size_t at = 0;
  while (at <= text.size() && parts.size() < names.size()) {
    const size_t end = std::min(text.find(',', at), text.size());
    const std::optional<DType> dtype = ParseDType(text.substr(at, end - at));
    at = end + 1;
    if (!dtype || !IsWeightType(*dtype) || !RowBytes(*dtype, config.hidden_size)) break;
    const uint64_t size_bytes = *RowBytes(*dtype, config.hidden_size);
    parts.push_back({names[parts.size()], *dtype, offset_bytes, size_bytes});
    offset_bytes += size_bytes;
  }
  if (parts.size() == names.size() && at == text.size() + 1) return parts;
  return BadModel("{}: key '{}': expected {} types of weights as in \"F16,F16\" for rows of {}", gguf.name(),
                  BundleTypesKey(layer), names.size(), config.hidden_size);
}

uint64_t BundleBytes(const std::vector<BundlePart>& parts) {
  return parts.empty() ? 0 : parts.back().offset_bytes + parts.back().size_bytes;
}

}  // namespace frugal
