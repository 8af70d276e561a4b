#include "src/pack/inspect.h"

#include <filesystem>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <variant>

#include "src/format/byte_source.h"
#include "src/format/gguf_parser.h"
#include "src/format/gguf_reader.h"
#include "src/format/hugging_face.h"
#include "src/format/json_file.h"
#include "src/format/packed_format.h"
#include "src/format/regular_file.h"
#include "src/format/tokenizer_keys.h"
#include "src/format/untrusted_text.h"

namespace frugal {
namespace {

// Names and paths are shown whole: programs look things up by them.
constexpr size_t kMaxPathBytes = 1 << 16;

std::string Shown(std::string_view text) { return Printable(text, kMaxShownBytes); }

// The first elements. The walks have no way to stop: an error of ours ends them, and is dropped.
Result<nlohmann::json> FirstElements(const GgufReader& gguf, const GgufKeyValue& entry,
                                     const GgufArray& array) {
  nlohmann::json shown = nlohmann::json::array();
  bool enough = array.count == 0;
  const auto add = [&](nlohmann::json value) -> Status {
    shown.push_back(std::move(value));
    enough = shown.size() >= std::min(kMaxShownElements, array.count);
    if (enough) return MakeError(ErrorCode::kFailed, "enough");
    return {};
  };
  Status walked;
  switch (array.element_type) {
    case GgufType::kString:
      walked =
          gguf.ForEachString(entry.key, [&](uint64_t, std::string_view text) { return add(Shown(text)); });
      break;
    case GgufType::kF32:
      walked = gguf.ForEachFloat(entry.key, [&](uint64_t, float value) { return add(value); });
      break;
    case GgufType::kBool:
    case GgufType::kF64:
      return shown;  // no writer of models uses them: the count has to do
    default:
      walked = gguf.ForEachInt(entry.key, [&](uint64_t, int64_t value) { return add(value); });
  }
  if (!walked && !enough) return std::move(walked).error();
  return shown;
}

Result<InspectedKey> InspectKey(const GgufReader& gguf, const GgufKeyValue& entry) {
  InspectedKey key;
  key.key = Printable(entry.key, kMaxPathBytes);
  key.type = TraitsOf(entry.type).name;
  if (const auto* array = std::get_if<GgufArray>(&entry.value)) {
    key.type = fmt::format("array of {}", TraitsOf(array->element_type).name);
    key.count = array->count;
    FRUGAL_ASSIGN(key.value, FirstElements(gguf, entry, *array));
    return key;
  }
  std::visit(
      [&key](const auto& value) {
        using Value = std::decay_t<decltype(value)>;
        if constexpr (std::is_same_v<Value, std::string>) {
          key.value = Shown(value);
        } else if constexpr (!std::is_same_v<Value, GgufArray>) {
          key.value = value;
        }
      },
      entry.value);
  return key;
}

bool IsFfnWeight(std::string_view name) {
  for (const std::string_view end : {".ffn_bundle.weight", ".ffn_gate.weight", ".ffn_up.weight", ".ffn_down.weight"}) {
    if (name.ends_with(end)) return true;
  }
  return false;
}

// Nothing where it was not measured.
Result<std::optional<PerplexityEffect>> ReadEffect(const GgufReader& gguf, std::string* text) {
  PerplexityEffect effect;
  FRUGAL_ASSIGN(effect.num_tokens, gguf.GetUint(kPerplexityTokensKey));
  FRUGAL_ASSIGN(effect.before, gguf.GetFloat(kPerplexitySourceKey));
  FRUGAL_ASSIGN(effect.after, gguf.GetFloat(kPerplexityPackedKey));
  FRUGAL_ASSIGN(*text, gguf.GetString(kPerplexityTextKey));
  if (effect.num_tokens == 0) return std::optional<PerplexityEffect>();
  return std::optional(effect);
}

Result<PackedSummary> Summarise(const GgufReader& gguf, ByteSource& source, std::optional<Activation> activation) {
  PackedSummary summary;
  FRUGAL_ASSIGN(summary.architecture, gguf.GetString("general.architecture"));
  FRUGAL_ASSIGN(summary.config, ReadGgufConfig(gguf, activation));
  const bool has_bundles = summary.config.ffn_layout != FfnLayout::kMatrices;
  if (has_bundles) {
    FRUGAL_ASSIGN(summary.stride_bytes, gguf.GetUint(kBundleStrideKey));
  }
  FRUGAL_ASSIGN(summary.parts, ReadBundleParts(gguf, 0, summary.config));
  summary.bundle_bytes = BundleBytes(summary.parts);
  uint64_t weight_bytes = 0;
  for (const TensorInfo& tensor : gguf.tensors()) {
    if (IsFfnWeight(tensor.name)) {
      summary.ffn_bytes += tensor.extent.size_bytes;
    } else if (IsWeightType(tensor.dtype)) {
      weight_bytes += tensor.extent.size_bytes;
    }
  }
  weight_bytes += summary.ffn_bytes;
  if (weight_bytes > 0) {
    summary.ffn_share = static_cast<double>(summary.ffn_bytes) / static_cast<double>(weight_bytes);
  }
  summary.has_tokenizer = gguf.Find(tokenizer_keys::kTokens) != nullptr;
  if (summary.has_tokenizer) {
    FRUGAL_ASSIGN(summary.num_tokens, gguf.ArrayCount(tokenizer_keys::kTokens));
  }
  if (const TensorInfo* difference = gguf.FindTensor(kLargestDifferenceName)) {
    if (difference->dtype != DType::kF32 || difference->shape != std::vector<uint64_t>{1}) {
      return BadModel("{}: {}: expected F32 [1]", gguf.name(), kLargestDifferenceName);
    }
    float value = 0;
    FRUGAL_TRY(source.Read(difference->extent.offset_bytes, std::as_writable_bytes(std::span(&value, 1))));
    summary.largest_difference = value;
  }
  if (gguf.Find(kPerplexityTokensKey) != nullptr) {
    FRUGAL_ASSIGN(summary.effect, ReadEffect(gguf, &summary.effect_text));
  }
  const TensorInfo* hashes = gguf.FindTensor(kHashOfHashesName);
  if (hashes == nullptr) {
    return BadModel("{}: tensor {} is missing", gguf.name(), kHashOfHashesName);
  }
  // Two for the file and one for each layer with bundles, of which ReadGgufConfig allows 1024.
  const uint64_t expected_bytes = (uint64_t{has_bundles ? summary.config.num_layers : 0} + 2) * sizeof(uint64_t);
  if (hashes->extent.size_bytes != expected_bytes) {
    return BadModel("{}: {} has {} bytes, expected {}", gguf.name(), kHashOfHashesName,
                    hashes->extent.size_bytes, expected_bytes);
  }
  std::vector<std::byte> bytes(expected_bytes);
  FRUGAL_TRY(source.Read(hashes->extent.offset_bytes, bytes));
  summary.content_hash = HashBytes(bytes);
  return summary;
}

nlohmann::ordered_json ToJson(const PackedSummary& packed) {
  const ModelConfig& config = packed.config;
  nlohmann::ordered_json json;
  json["architecture"] = packed.architecture;
  json["num_layers"] = config.num_layers;
  json["hidden_size"] = config.hidden_size;
  json["embedding_size"] = config.embedding_size;
  json["ffn_size"] = config.ffn_size;
  json["num_heads"] = config.num_heads;
  json["vocab_size"] = config.vocab_size;
  json["max_context"] = config.max_context;
  json["num_kv_heads"] = config.num_kv_heads;
  json["head_dim"] = config.head_dim;
  json["activation"] = ActivationName(config.activation);
  json["ffn_layout"] = FfnLayoutName(config.ffn_layout);
  for (const BundlePart& part : packed.parts) json[fmt::format("{}_type", part.name)] = DTypeName(part.dtype);
  json["stride_bytes"] = packed.stride_bytes;
  json["bundle_bytes"] = packed.bundle_bytes;
  json["ffn_bytes"] = packed.ffn_bytes;
  json["ffn_share"] = packed.ffn_share;
  if (packed.largest_difference) json["largest_difference"] = *packed.largest_difference;
  if (packed.effect) {
    json["perplexity"] = {{"source", packed.effect->before},
                          {"packed", packed.effect->after},
                          {"delta_percent", packed.effect->percent()},
                          {"tokens", packed.effect->num_tokens},
                          {"text", Printable(packed.effect_text, kMaxPathBytes)}};
  }
  json["has_tokenizer"] = packed.has_tokenizer;
  json["num_tokens"] = packed.num_tokens;
  json["content_hash"] = fmt::format("{:016x}", packed.content_hash);
  return json;
}

uint64_t CountParameters(std::span<const TensorInfo> tensors) {
  uint64_t count = 0;
  for (const TensorInfo& tensor : tensors) {
    if (IsWeightType(tensor.dtype)) count += tensor.rows() * tensor.columns();
  }
  return count;
}

// A member of config.json, at its top level.
InspectedKey InspectMember(const std::string& name, const nlohmann::json& value) {
  InspectedKey key;
  key.key = Printable(name, kMaxPathBytes);
  key.type = value.type_name();
  key.value = value.is_string() ? nlohmann::json(Shown(value.get<std::string>())) : value;
  if (!value.is_array()) return key;
  key.count = value.size();
  if (value.size() > kMaxShownElements) key.value.erase(key.value.begin() + kMaxShownElements, key.value.end());
  return key;
}

Result<Inspection> InspectCheckpoint(const std::string& path, std::optional<Activation> activation) {
  FRUGAL_ASSIGN(const CheckpointDirectory directory, ResolveCheckpointDirectory(path));
  const std::string config_path = directory.path + "/config.json";
  FRUGAL_ASSIGN(const nlohmann::json json, ReadJsonFile(config_path));
  FRUGAL_ASSIGN(const std::unique_ptr<TensorSource> source, OpenCheckpointTensors(directory));
  Inspection inspection;
  inspection.path = path;
  inspection.files = source->file_paths();
  for (const std::string& file : inspection.files) {
    FRUGAL_ASSIGN(const RegularFile opened, OpenRegularFile(file));
    inspection.file_bytes += opened.size_bytes;
  }
  for (const auto& [name, value] : json.items()) inspection.keys.push_back(InspectMember(name, value));
  inspection.tensors = source->tensors();
  inspection.num_parameters = CountParameters(inspection.tensors);
  Result<ModelConfig> config = ParseHuggingFaceConfig(json, config_path);
  if (!config) return inspection;
  if (activation) config->activation = *activation;
  inspection.config = *std::move(config);
  return inspection;
}

// Those beside a model are its own, or of no interest here: --sparsify says why it refuses others.
std::optional<GateThresholds> FindThresholds(const Inspection& inspection) {
  const std::string path = DefaultSparsifyPath(inspection.path);
  std::error_code ignored;
  if (!inspection.packed || !std::filesystem::exists(path, ignored)) return std::nullopt;
  Result<GateThresholds> thresholds = ReadGateThresholds(path);
  if (!thresholds || thresholds->model_content_hash != inspection.packed->content_hash) return std::nullopt;
  return *std::move(thresholds);
}

}  // namespace

nlohmann::ordered_json ToJson(const GateThresholds& thresholds) {
  return {{"share", thresholds.share},
          {"source", Printable(thresholds.source, kMaxPathBytes)},
          {"tokens", thresholds.num_tokens},
          {"held_out_tokens", thresholds.effect.num_tokens},
          {"perplexity_exact", thresholds.effect.before},
          {"perplexity", thresholds.effect.after},
          {"perplexity_delta_percent", thresholds.effect.percent()},
          {"measured_share", thresholds.measured_share},
          {"thresholds", thresholds.thresholds}};
}

Result<Inspection> Inspect(const std::string& path, std::optional<Activation> activation) {
  if (IsCheckpointPath(path)) return InspectCheckpoint(path, activation);
  FRUGAL_ASSIGN(std::unique_ptr<ByteSource> source, OpenFileSource(path));
  FRUGAL_ASSIGN(const std::unique_ptr<ByteSource> data, OpenFileSource(path));
  FRUGAL_ASSIGN(const GgufReader gguf, GgufReader::Open(std::move(source)));
  Inspection inspection;
  inspection.path = path;
  inspection.file_bytes = data->size_bytes();
  inspection.version = gguf.version();
  inspection.alignment_bytes = gguf.alignment_bytes();
  inspection.data_offset_bytes = gguf.data_offset_bytes();
  for (const GgufKeyValue& entry : gguf.key_values()) {
    FRUGAL_ASSIGN(InspectedKey key, InspectKey(gguf, entry));
    inspection.keys.push_back(std::move(key));
  }
  inspection.tensors = gguf.tensors();
  inspection.num_parameters = CountParameters(inspection.tensors);
  if (gguf.Find(kPackedVersionKey) != nullptr) {
    FRUGAL_ASSIGN(inspection.packed, Summarise(gguf, *data, activation));
    const ModelConfig& config = inspection.packed->config;
    inspection.num_parameters += inspection.packed->parts.size() * config.num_layers * config.ffn_size * config.hidden_size;
  } else if (Result<ModelConfig> config = ReadGgufConfig(gguf, activation)) {
    inspection.config = *std::move(config);
  }
  inspection.thresholds = FindThresholds(inspection);
  const Result<std::string> architecture = gguf.GetString("general.architecture");
  if (architecture && *architecture == kGateThresholdsArchitecture) {
    FRUGAL_ASSIGN(inspection.thresholds, ReadGateThresholds(path));
  }
  return inspection;
}

nlohmann::ordered_json ToJson(const Inspection& inspection) {
  nlohmann::ordered_json json;
  json["file"] = {{"path", Printable(inspection.path, kMaxPathBytes)}, {"file_bytes", inspection.file_bytes}};
  if (inspection.files.empty()) {
    json["file"]["gguf_version"] = inspection.version;
    json["file"]["alignment_bytes"] = inspection.alignment_bytes;
    json["file"]["data_offset_bytes"] = inspection.data_offset_bytes;
  }
  json["file"]["num_parameters"] = inspection.num_parameters;
  for (const std::string& file : inspection.files) json["files"].push_back(Printable(file, kMaxPathBytes));
  if (inspection.packed) json["packed"] = ToJson(*inspection.packed);
  if (inspection.thresholds) json["sparsify"] = ToJson(*inspection.thresholds);
  if (inspection.config) json["activation"] = ActivationName(inspection.config->activation);
  json["keys"] = nlohmann::ordered_json::array();
  for (const InspectedKey& key : inspection.keys) {
    nlohmann::ordered_json item = {{"key", key.key}, {"type", key.type}, {"value", key.value}};
    if (key.count) item["count"] = *key.count;
    json["keys"].push_back(std::move(item));
  }
  json["tensors"] = nlohmann::ordered_json::array();
  for (const TensorInfo& tensor : inspection.tensors) {
    json["tensors"].push_back({{"name", Printable(tensor.name, kMaxPathBytes)},
                               {"type", DTypeName(tensor.dtype)},
                               {"shape", tensor.shape},
                               {"offset_bytes", tensor.extent.offset_bytes},
                               {"size_bytes", tensor.extent.size_bytes}});
    if (!inspection.files.empty()) json["tensors"].back()["file"] = tensor.file_index;
  }
  return json;
}

}  // namespace frugal
