// frugal inspect MODEL: what a GGUF file or a checkpoint says of itself.
#include <fmt/format.h>

#include "src/base/bytes.h"
#include "src/cli/verbs.h"
#include "src/format/untrusted_text.h"
#include "src/pack/inspect.h"

namespace frugal {
namespace {

struct InspectFlags {
  std::string path, activation;
  bool json = false;
};

std::string PackedText(const PackedSummary& packed) {
  const ModelConfig& config = packed.config;
  std::string text = fmt::format(
      "packed {} model: {} layers, hidden {}, FFN {}, {} heads of {}, vocabulary {}, context {}\n",
      packed.architecture, config.num_layers, config.hidden_size, config.ffn_size, config.num_heads,
      config.head_dim, config.vocab_size, config.max_context);
  text += fmt::format("activation {}, FFN laid out as {}\n", ActivationName(config.activation), FfnLayoutName(config.ffn_layout));
  if (!packed.parts.empty()) {
    std::string types;
    for (const BundlePart& part : packed.parts) {
      types += fmt::format("{}{} {}", types.empty() ? "" : ", ", part.name, DTypeName(part.dtype));
    }
    text += fmt::format("bundles of {} B, {} B of them weights ({})\n", packed.stride_bytes, packed.bundle_bytes, types);
  }
  text += fmt::format("the FFN is {}, {:.1f}% of the weights\n", FormatSize(packed.ffn_bytes), 100 * packed.ffn_share);
  if (packed.largest_difference) text += fmt::format("largest weight difference from the source: {:.6g}\n", *packed.largest_difference);
  if (packed.effect) text += fmt::format("{} ({}), against the source\n", DescribeEffect(*packed.effect), Printable(packed.effect_text));
  text += packed.has_tokenizer ? fmt::format("tokenizer of {} tokens\n", packed.num_tokens)
                               : std::string("no tokenizer\n");
  return text + fmt::format("content hash {:016x}\n", packed.content_hash);
}

std::string InspectionText(const Inspection& inspection) {
  const double millions = static_cast<double>(inspection.num_parameters) / 1e6;
  std::string text;
  if (inspection.files.empty()) {
    text = fmt::format("{}: GGUF version {}, {}, {:.1f} M parameters, alignment {}, data from offset {}\n", Printable(inspection.path),
                       inspection.version, FormatSize(inspection.file_bytes), millions, inspection.alignment_bytes,
                       inspection.data_offset_bytes);
  } else {
    text = fmt::format("{}: checkpoint, {}, {:.1f} M parameters in {} file{}\n", Printable(inspection.path),
                       FormatSize(inspection.file_bytes), millions, inspection.files.size(), inspection.files.size() == 1 ? "" : "s");
    for (const std::string& file : inspection.files) text += fmt::format("  {}\n", Printable(file));
  }
  if (inspection.packed) text += PackedText(*inspection.packed);
  if (inspection.config) {
    text += fmt::format("not packed; activation {}\n", ActivationName(inspection.config->activation));
  }
  if (inspection.thresholds) {
    text += fmt::format("--sparsify: {}; of the model with content hash {:016x}\n", DescribeThresholds(*inspection.thresholds),
                        inspection.thresholds->model_content_hash);
  }
  text += fmt::format("\n{} keys\n", inspection.keys.size());
  for (const InspectedKey& key : inspection.keys) {
    // dump() escapes what a terminal would obey.
    std::string value = key.value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
    if (key.count && *key.count > kMaxShownElements) value.replace(value.size() - 1, 1, ", ...]");
    text += fmt::format("  {} ({}{}) = {}\n", Printable(key.key), key.type,
                        key.count ? fmt::format(", {}", *key.count) : std::string(), value);
  }
  text += fmt::format("\n{} tensors\n", inspection.tensors.size());
  for (const TensorInfo& tensor : inspection.tensors) {
    text += fmt::format("  {:<36} {:<5} [{}] at {}, {}{}\n", Printable(tensor.name), DTypeName(tensor.dtype), fmt::join(tensor.shape, ", "),
                        tensor.extent.offset_bytes, FormatSize(tensor.extent.size_bytes),
                        inspection.files.size() < 2 ? "" : fmt::format(", file {}", tensor.file_index + 1));
  }
  return text;
}

Status InspectFile(const InspectFlags& flags) {
  std::optional<Activation> activation;
  if (!flags.activation.empty()) {
    FRUGAL_ASSIGN(activation, ParseActivationFlag(flags.activation));
  }
  FRUGAL_ASSIGN(const Inspection inspection, Inspect(flags.path, activation));
  StandardOutput output;
  return output.Print(
      flags.json ? ToJson(inspection).dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n"
                 : InspectionText(inspection));
}

}  // namespace

void AddInspectVerb(CLI::App& app, Exit& exit) {
  CLI::App& sub = *app.add_subcommand("inspect", "Shows the keys and tensors of a model file");
  const auto flags = std::make_shared<InspectFlags>();
  AddModelArgument(sub, flags->path);
  sub.add_option("--activation", flags->activation, "show the model with it, as the other verbs would take it");
  sub.add_flag("--json", flags->json, "as JSON");
  exit.RunAsCallback(sub, [flags] { return InspectFile(*flags); });
}

}  // namespace frugal
