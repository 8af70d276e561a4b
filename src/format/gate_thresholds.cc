#include "src/format/gate_thresholds.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>
#include <cstring>

#include "src/format/hashed_gguf_reader.h"
#include "src/format/hashed_gguf_writer.h"
#include "src/format/untrusted_text.h"

namespace frugal {
namespace {

constexpr const char* kModelKey = "frugal.sparsify.model_content_hash";  // 16 hex digits
constexpr const char* kShareKey = "frugal.sparsify.share";
constexpr const char* kSourceKey = "frugal.sparsify.source";
constexpr const char* kTokensKey = "frugal.sparsify.tokens";
constexpr const char* kHeldOutTokensKey = "frugal.sparsify.held_out_tokens";
constexpr const char* kExactPerplexityKey = "frugal.sparsify.perplexity_exact";
constexpr const char* kPerplexityKey = "frugal.sparsify.perplexity";
constexpr const char* kMeasuredShareKey = "frugal.sparsify.measured_share";
constexpr const char* kThresholdsName = "frugal.sparsify.thresholds";  // F32 [num_layers]

Result<uint64_t> ReadModelHash(const GgufReader& gguf) {
  FRUGAL_ASSIGN(const std::string text, gguf.GetString(kModelKey));
  uint64_t hash = 0;
  const char* const end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, hash, 16);
  if (text.size() == 16 && parsed.ec == std::errc() && parsed.ptr == end) return hash;
  return BadModel("{}: {} is \"{}\", expected 16 hexadecimal digits", gguf.name(), kModelKey, Printable(text, 40));
}

Result<float> ReadShare(const GgufReader& gguf, const char* key) {
  FRUGAL_ASSIGN(const double value, gguf.GetFloat(key));
  if (value >= 0.0 && value < 1.0) return static_cast<float>(value);
  return BadModel("{}: {} is {}, expected 0 or more and less than 1", gguf.name(), key, value);
}

Result<double> ReadPerplexity(const GgufReader& gguf, const char* key) {
  FRUGAL_ASSIGN(const double value, gguf.GetFloat(key));
  if (value >= 0.0) return value;
  return BadModel("{}: {} is {}, expected 0 or more", gguf.name(), key, value);
}

}  // namespace

std::string DefaultSparsifyPath(const std::string& model_path) {
  std::string stem = model_path;
  if (stem.ends_with(".gguf")) stem.resize(stem.size() - 5);
  return stem + ".sparsify.gguf";
}

std::string DescribeThresholds(const GateThresholds& thresholds) {
  return fmt::format("{:.4g}% of the neurons left out, by thresholds from {} tokens ({}); {}, {:.1f}% of the neurons left out there",
                     100 * thresholds.share, thresholds.num_tokens, Printable(thresholds.source), DescribeEffect(thresholds.effect),
                     100 * thresholds.measured_share);
}

Result<GateThresholds> ReadGateThresholdKeys(const GgufReader& gguf) {
  GateThresholds read;
  FRUGAL_ASSIGN(const std::string architecture, gguf.GetString("general.architecture"));
  if (architecture != kGateThresholdsArchitecture) {
    return BadModel("{}: general.architecture is \"{}\", expected \"{}\": this is no file of `frugal train --sparsify`", gguf.name(),
                    Printable(architecture, 40), kGateThresholdsArchitecture);
  }
  FRUGAL_ASSIGN(read.model_content_hash, ReadModelHash(gguf));
  FRUGAL_ASSIGN(read.share, ReadShare(gguf, kShareKey));
  FRUGAL_ASSIGN(read.measured_share, ReadShare(gguf, kMeasuredShareKey));
  FRUGAL_ASSIGN(read.source, gguf.GetString(kSourceKey));
  FRUGAL_ASSIGN(read.num_tokens, gguf.GetUint(kTokensKey));
  FRUGAL_ASSIGN(read.effect.num_tokens, gguf.GetUint(kHeldOutTokensKey));
  FRUGAL_ASSIGN(read.effect.before, ReadPerplexity(gguf, kExactPerplexityKey));
  FRUGAL_ASSIGN(read.effect.after, ReadPerplexity(gguf, kPerplexityKey));
  return read;
}

Result<GateThresholds> ReadGateThresholds(const std::string& path) {
  FRUGAL_ASSIGN(const std::unique_ptr<HashedGgufReader> file, HashedGgufReader::Open(path));
  FRUGAL_ASSIGN(GateThresholds read, ReadGateThresholdKeys(file->gguf()));
  const HashedGgufReader::Tensor* const tensor = file->Find(kThresholdsName);
  if (tensor == nullptr) return BadModel("{}: tensor {} is missing", path, kThresholdsName);
  if (tensor->info->dtype != DType::kF32 || tensor->info->shape.size() != 1) {
    return BadModel("{}: {}: expected F32 with one dimension, found {} [{}]", path, kThresholdsName, DTypeName(tensor->info->dtype),
                    fmt::join(tensor->info->shape, ", "));
  }
  FRUGAL_ASSIGN(const std::vector<std::byte> bytes, file->ReadAll(*tensor));
  read.thresholds.resize(bytes.size() / sizeof(float));
  std::memcpy(read.thresholds.data(), bytes.data(), bytes.size());
  for (size_t layer = 0; layer < read.thresholds.size(); ++layer) {
    const float threshold = read.thresholds[layer];
    if (threshold >= 0.0f && std::isfinite(threshold)) continue;
    return BadModel("{}: {}[{}] is {}, expected a finite number from 0 on", path, kThresholdsName, layer, threshold);
  }
  return read;
}

Status WriteGateThresholds(const std::string& path, Overwrite overwrite, const GateThresholds& thresholds) {
  FRUGAL_ASSIGN(const auto writer, HashedGgufWriter::Open(path, overwrite));
  GgufWriter& keys = writer->keys();
  keys.AddString("general.architecture", kGateThresholdsArchitecture);
  keys.AddString(kModelKey, fmt::format("{:016x}", thresholds.model_content_hash));
  keys.AddFloat32(kShareKey, thresholds.share);
  keys.AddString(kSourceKey, thresholds.source);
  keys.AddUint64(kTokensKey, thresholds.num_tokens);
  keys.AddUint64(kHeldOutTokensKey, thresholds.effect.num_tokens);
  keys.AddFloat64(kExactPerplexityKey, thresholds.effect.before);
  keys.AddFloat64(kPerplexityKey, thresholds.effect.after);
  keys.AddFloat32(kMeasuredShareKey, thresholds.measured_share);
  const size_t tensor = writer->AddTensor(kThresholdsName, DType::kF32, std::array<uint64_t, 1>{thresholds.thresholds.size()});
  FRUGAL_TRY(writer->BeginData());
  FRUGAL_TRY(writer->Append(tensor, std::as_bytes(std::span(thresholds.thresholds))));
  return writer->Finish();
}

}  // namespace frugal
