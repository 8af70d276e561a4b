// The names and rules that the writer (pack, train) and the reader (model) of packed files share.
// docs/packed-model.md draws the bytes; writer, reader and drawing change together.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "src/tensor/tensor_info.h"

namespace frugal {

constexpr uint32_t kPackedVersion = 1;
constexpr uint32_t kPackedAlignmentBytes =
    4096;                               // of every tensor's data: O_DIRECT can read any tensor by itself
constexpr uint32_t kSectorBytes = 512;  // granularity of a bundle
// One hash covers this many bytes of a tensor. design.md had 1 MiB; docs/decisions/0002-hash-chunks.md says
// why less.
constexpr uint32_t kHashChunkBytes = 16 * 1024;

constexpr const char* kPackedVersionKey = "frugal.version";
constexpr const char* kBundleStrideKey = "frugal.bundle_stride_bytes";
constexpr const char* kBundleLayoutKey = "frugal.ffn_layout";  // "up+down", ...; absent in older files, which are "up+down"
constexpr const char* kActivationKey = "frugal.activation";
constexpr const char* kLayerWindowsKey = "frugal.layer_windows";
// F32 [1]: largest |written - source| of a weight, where weights were converted.
constexpr const char* kLargestDifferenceName = "frugal.largest_difference";
// What converting weights costs in perplexity: on which text, of the source (f64), of the packed model (f64), on how many tokens (u64).
// There where pack was to measure it; 0 tokens: it was not.
constexpr const char* kPerplexityTextKey = "frugal.perplexity.text";
constexpr const char* kPerplexitySourceKey = "frugal.perplexity.source";
constexpr const char* kPerplexityPackedKey = "frugal.perplexity.packed";
constexpr const char* kPerplexityTokensKey = "frugal.perplexity.tokens";
constexpr const char* kHashChunkKey = "frugal.hash_chunk_bytes";
// I64 [sum over the tensors before it that are no bundles: chunks of the tensor], in file order.
constexpr const char* kTensorHashesName = "frugal.tensor_hashes";
// I64 [layers with bundles + 2]: XXH3 of each layer's blk.N.ffn_bundle.xxh3, of frugal.tensor_hashes, of the header's
// bytes [0, data offset). The last tensor; the XXH3 of its bytes is the model's content hash.
constexpr const char* kHashOfHashesName = "frugal.hash_of_hashes";

std::string BundleTensorName(uint32_t layer);  // blk.N.ffn_bundle.weight, I8 [ffn_size, stride_bytes]
std::string BundleHashesName(uint32_t layer);  // blk.N.ffn_bundle.xxh3, I64 [ffn_size]
std::string BundleOrderName(uint32_t layer);   // blk.N.ffn_order, I32 [ffn_size]
std::string BundleTypesKey(uint32_t layer);    // frugal.blk.N.bundle_types, "F16,F16": (gate,) up, down
std::string LayerTensorName(uint32_t layer, const char* part);  // blk.N.PART

// Stride of a bundle of that many bytes: a multiple of `align_bytes` when that is 4096; else of 512, or of
// 4096 where that adds under 3%.
uint64_t BundleStrideBytes(uint64_t bundle_bytes, uint32_t align_bytes);

// Number of hashes of a tensor that is no bundle.
constexpr uint64_t NumHashChunks(uint64_t size_bytes) {
  return (size_bytes + kHashChunkBytes - 1) / kHashChunkBytes;
}

// What a lossy step (quantised weights, neurons left out) costs, measured on one text.
struct PerplexityEffect {
  double before = 0, after = 0;
  uint64_t num_tokens = 0;  // scored

  double percent() const { return before > 0 ? 100 * (after - before) / before : 0; }
};
// "perplexity 12.3456 -> 12.9012 (+4.50%) on 2048 tokens"
std::string DescribeEffect(const PerplexityEffect& effect);

uint64_t HashBytes(std::span<const std::byte> bytes);
// Hashes of the chunks of `bytes`, which begins at a chunk of its tensor; appended.
void AppendChunkHashes(std::span<const std::byte> bytes, std::vector<uint64_t>& hashes);

// Optional, of packed files whose activity is known (neuron_activity.h). F32 [num_layers].
constexpr const char* kActiveSharesKey = "frugal.activity.active_share";
// F32 [num_layers * kNumWindows], as kPredictorWindowMissesKey below, of the neurons that are active.
constexpr const char* kWindowMissesKey = "frugal.activity.window_misses";

// Predictor files (NAME.predict.gguf; docs/predictor.md).
constexpr const char* kPredictorArchitecture = "frugal-predictor";
constexpr const char* kPredictorModelKey = "frugal.predictor.model_content_hash";  // 16 hex digits
// F32 [num_layers * kNumWindows]: entry i of a layer is the share of its neurons that a token of the held-out text chose and none of
// the 2^i tokens before it chose. Older files lack it.
constexpr const char* kPredictorWindowMissesKey = "frugal.predictor.window_misses";
constexpr size_t kNumWindows = 7;
using WindowMisses = std::array<float, kNumWindows>;
// F32 [num_layers]: share of the neurons that the early predictor chooses for a token and the on-time one does not. Older files lack it.
constexpr const char* kPredictorEarlyWrongKey = "frugal.predictor.early_wrong_share";
enum class PredictorKind { kOnTime, kEarly };
// blk.N.predictor.PART or blk.N.early.PART; PART: down, up, bias, popularity.
std::string PredictorTensorName(uint32_t layer, PredictorKind kind, const char* part);

}  // namespace frugal
