#include "src/format/packed_format.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>

#include "src/base/bytes.h"

namespace frugal {

std::string LayerTensorName(uint32_t layer, const char* part) {
  return fmt::format("blk.{}.{}", layer, part);
}
std::string BundleTensorName(uint32_t layer) { return LayerTensorName(layer, "ffn_bundle.weight"); }
std::string BundleHashesName(uint32_t layer) { return LayerTensorName(layer, "ffn_bundle.xxh3"); }
std::string BundleOrderName(uint32_t layer) { return LayerTensorName(layer, "ffn_order"); }
std::string BundleTypesKey(uint32_t layer) { return fmt::format("frugal.blk.{}.bundle_types", layer); }

uint64_t BundleStrideBytes(uint64_t bundle_bytes, uint32_t align_bytes) {
  const uint64_t pages = RoundUp(bundle_bytes, 4096);
  if (align_bytes == 4096 || pages * 100 < bundle_bytes * 103) return pages;
  return RoundUp(bundle_bytes, kSectorBytes);
}

std::string DescribeEffect(const PerplexityEffect& effect) {
  return fmt::format("perplexity {:.4f} -> {:.4f} ({:+.2f}%) on {} tokens", effect.before, effect.after, effect.percent(),
                     effect.num_tokens);
}

uint64_t HashBytes(std::span<const std::byte> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

void AppendChunkHashes(std::span<const std::byte> bytes, std::vector<uint64_t>& hashes) {
  for (size_t at = 0; at < bytes.size(); at += kHashChunkBytes) {
    hashes.push_back(HashBytes(bytes.subspan(at, std::min<size_t>(kHashChunkBytes, bytes.size() - at))));
  }
}

std::string PredictorTensorName(uint32_t layer, PredictorKind kind, const char* part) {
  return fmt::format("blk.{}.{}.{}", layer, kind == PredictorKind::kEarly ? "early" : "predictor", part);
}

}  // namespace frugal
