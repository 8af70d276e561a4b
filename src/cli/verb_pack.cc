// frugal pack SOURCE -o model.gguf: a Hugging Face checkpoint or a GGUF file becomes a packed model, or a packed model one
// with its neurons in another order.
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>

#include "src/cli/layout_report.h"
#include "src/cli/model_text.h"
#include "src/cli/pack_loss.h"
#include "src/cli/progress_bar.h"
#include "src/cli/system_limits.h"
#include "src/cli/temporary_model.h"
#include "src/cli/verbs.h"
#include "src/format/hugging_face.h"
#include "src/format/json_file.h"
#include "src/format/neuron_order.h"
#include "src/format/packed_format.h"
#include "src/pack/pack.h"
#include "src/pack/reorder.h"
#include "src/train/calibration.h"

namespace frugal {
namespace {

// Long enough for every position that a text has to come up; attention takes a small part of the time then.
constexpr uint32_t kSequenceTokens = 1024;
// Of a piece that the loss is measured on: its logits are computed together, in one pass over weights that do not fit.
constexpr uint32_t kMeasuredPieceTokens = 512;

struct PackFlags {
  std::string source_path;
  std::string output_path;
  std::string type = "keep", down_type = "keep";
  std::string layout, activation;  // empty: pack's choice, the source's
  bool is_packed = false;          // the source
  bool force = false;
  std::string ram = "1G";   // of packing
  std::string for_ram;      // of the runs that `layout` is chosen for; empty: what this machine gives them
  uint32_t align_bytes = 512;
  CLI::Option* align_option = nullptr;
  std::string order_path, order_output_path;
  std::string text_path, ids_path;  // to calibrate on
  std::string separator = "<|story|>";
  uint64_t num_tokens = 4096;
  int num_threads = 0;
  bool json = false;

  std::string measure_path, measure_ids_path;  // to measure the loss on
  uint64_t measure_tokens = 2048;
  bool no_measure = false;

  bool calibrates() const { return !text_path.empty() || !ids_path.empty(); }
  bool converts() const { return type != "keep" || down_type != "keep"; }
  bool asks_to_measure() const { return !measure_path.empty() || !measure_ids_path.empty(); }
  int threads() const { return num_threads > 0 ? num_threads : std::min(UsableCores(), ThreadPool::kMaxThreads); }
};

constexpr Choice<std::optional<DType>> kTypes[] = {
    {"keep", std::nullopt}, {"f32", DType::kF32}, {"f16", DType::kF16}, {"bf16", DType::kBF16},
    {"q8_0", DType::kQ8_0},  {"q4_0", DType::kQ4_0}};

constexpr const char* kAutoLayout = "auto";
// "auto" is settled before one is looked for.
constexpr Choice<FfnLayout> kLayouts[] = {{kAutoLayout, FfnLayout::kGateAndBundle2},
                                          {"bundle3", FfnLayout::kBundle3},
                                          {"gate+bundle2", FfnLayout::kGateAndBundle2}};

struct Outcome {
  PackReport pack;
  std::optional<CalibrationReport> calibration;
  std::string predictor_path;  // empty: none was written
};

nlohmann::ordered_json ReportJson(const std::string& path, const Outcome& outcome) {
  const PackReport& report = outcome.pack;
  nlohmann::ordered_json json = {{"path", path},
                                 {"file_bytes", report.file_bytes},
                                 {"source_bytes_read", report.source_bytes_read},
                                 {"parameters", report.num_parameters},
                                 {"tensors", report.num_tensors},
                                 {"bundle_stride_bytes", report.stride_bytes},
                                 {"ffn_layout", FfnLayoutName(report.layout)},
                                 {"activation", ActivationName(report.activation)},
                                 {"up_type", DTypeName(report.up_type)},
                                 {"down_type", DTypeName(report.down_type)},
                                 {"largest_weight_difference", report.largest_difference},
                                 {"content_hash", fmt::format("{:016x}", report.content_hash)},
                                 {"has_tokenizer", report.has_tokenizer},
                                 {"seconds", static_cast<double>(report.elapsed_ns) / 1e9},
                                 {"warnings", report.warnings}};
  json["perplexity"] = nullptr;
  if (report.effect) {
    json["perplexity"] = {{"source", report.effect->before},
                          {"packed", report.effect->after},
                          {"delta_percent", report.effect->percent()},
                          {"tokens", report.effect->num_tokens}};
  }
  if (!outcome.predictor_path.empty()) json["predictor_path"] = outcome.predictor_path;
  if (const auto& calibration = outcome.calibration) {
    json["calibration"] = {{"tokens", calibration->num_tokens},
                           {"held_out_misses_per_token", calibration->misses_per_token},
                           {"held_out_reads_per_token_before", calibration->source_reads_per_token},
                           {"held_out_reads_per_token", calibration->reads_per_token},
                           {"seconds", calibration->seconds}};
  }
  return json;
}

std::string ReportText(const std::string& path, const Outcome& outcome) {
  const PackReport& report = outcome.pack;
  const double seconds = static_cast<double>(report.elapsed_ns) / 1e9;
  std::string text =
      fmt::format("{}: {}, {:.1f} M parameters of {} tensors, {}\n", path, FormatSize(report.file_bytes),
                  static_cast<double>(report.num_parameters) / 1e6, report.num_tensors,
                  report.has_tokenizer ? "with its tokenizer" : "without a tokenizer (run it with --ids)");
  text += fmt::format("activation {}, FFN laid out as {}, content hash {:016x}\n", ActivationName(report.activation),
                      FfnLayoutName(report.layout), report.content_hash);
  if (report.layout != FfnLayout::kMatrices) {
    text += fmt::format("bundles of {} B ({}up {}, down {})\n", report.stride_bytes,
                        report.gate_type ? fmt::format("gate {}, ", DTypeName(*report.gate_type)) : "", DTypeName(report.up_type),
                        DTypeName(report.down_type));
  }
  if (report.layout == FfnLayout::kGateAndBundle2 || report.layout == FfnLayout::kBundle3) {
    text += "which layout suits a budget: `frugal plan` compares them, --layout auto --for-ram SIZE takes the better one\n";
  }
  if (!outcome.predictor_path.empty()) text += fmt::format("{}: its predictors\n", outcome.predictor_path);
  if (const auto& calibration = outcome.calibration) {
    text += fmt::format(
        "order from {} tokens in {:.1f} s; an eighth of them, held out, with a quarter of the neurons "
        "cached: {:.1f} neurons missed a "
        "token, in {:.1f} reads before and {:.1f} now\n",
        calibration->num_tokens, calibration->seconds, calibration->misses_per_token,
        calibration->source_reads_per_token, calibration->reads_per_token);
  }
  if (report.largest_difference > 0) {
    text += fmt::format("largest weight difference from the source: {:.6g}\n", report.largest_difference);
  }
  if (report.effect) text += DescribeEffect(*report.effect) + ", against the source\n";
  text += fmt::format("{} read in {:.1f} s ({:.2f} GB/s)\n", FormatSize(report.source_bytes_read), seconds,
                      seconds > 0 ? static_cast<double>(report.source_bytes_read) / seconds / 1e9 : 0.0);
  return text;
}

bool Exists(const std::string& path) {
  struct stat status = {};
  return stat(path.c_str(), &status) == 0;
}

bool IsDirectory(const std::string& path) {
  struct stat status = {};
  return stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

Status CheckMeasureFlags(const PackFlags& flags) {
  const int num_texts = int{!flags.measure_path.empty()} + int{!flags.measure_ids_path.empty()} + int{flags.no_measure};
  if (num_texts > 1) return Error{ErrorCode::kUsage, "--measure, --measure-ids and --no-measure contradict each other"};
  if (!flags.asks_to_measure()) return {};
  for (const std::string* path : {&flags.measure_path, &flags.measure_ids_path}) {
    // Now, rather than behind hours of packing.
    if (!path->empty() && access(path->c_str(), R_OK) != 0) {
      return MakeError(ErrorCode::kIo, "{}: cannot be opened: {}", *path, std::strerror(errno));
    }
  }
  if (flags.converts()) return {};
  return Error{ErrorCode::kUsage, "--measure: what --type or --down-type loses is measured, and none of them is given"};
}

Status CheckFlags(const PackFlags& flags) {
  const int num_orders =
      int{!flags.order_path.empty()} + int{!flags.text_path.empty()} + int{!flags.ids_path.empty()};
  if (num_orders > 1) {
    return Error{ErrorCode::kUsage, "--order, --calibrate and --calibrate-ids contradict each other"};
  }
  if (!flags.order_output_path.empty() && !flags.calibrates()) {
    return Error{ErrorCode::kUsage,
                 "--order-out: there is an order to write with --calibrate or --calibrate-ids only"};
  }
  if (!flags.for_ram.empty() && flags.layout != kAutoLayout) {
    return Error{ErrorCode::kUsage, "--for-ram: is what --layout auto chooses for, which is not given; --ram bounds packing itself"};
  }
  if (flags.align_bytes != 512 && flags.align_bytes != 4096) {
    return MakeError(ErrorCode::kUsage, "--align: {} is neither 512 nor 4096", flags.align_bytes);
  }
  FRUGAL_TRY(CheckMeasureFlags(flags));
  FRUGAL_TRY(CheckOverwrite(flags.output_path, flags.force));
  if (!flags.order_output_path.empty()) FRUGAL_TRY(CheckOverwrite(flags.order_output_path, flags.force));
  if (!flags.is_packed) return {};
  if (num_orders == 0) {
    return MakeError(
        ErrorCode::kUsage,
        "{}: is a packed model already; --order, --calibrate or --calibrate-ids give it another order",
        flags.source_path);
  }
  if (flags.type != "keep" || flags.down_type != "keep" || flags.align_option->count() > 0 || !flags.layout.empty() ||
      !flags.activation.empty()) {
    return MakeError(ErrorCode::kUsage,
                     "{}: is a packed model, whose weights are not converted: leave --type, --down-type, --layout, --activation and "
                     "--align out",
                     flags.source_path);
  }
  std::error_code ignored;
  if (std::filesystem::equivalent(flags.source_path, flags.output_path, ignored)) {
    return MakeError(ErrorCode::kUsage, "{}: is the source itself", flags.output_path);
  }
  return {};
}

Result<ModelConfig> ReadSourceConfig(const std::string& path) {
  if (IsDirectory(path)) {
    FRUGAL_ASSIGN(const CheckpointDirectory directory, ResolveCheckpointDirectory(path));
    const std::string config_path = directory.path + "/config.json";
    FRUGAL_ASSIGN(const nlohmann::json config, ReadJsonFile(config_path));
    return ParseHuggingFaceConfig(config, config_path);
  }
  FRUGAL_ASSIGN(std::unique_ptr<ByteSource> source, OpenFileSource(path));
  FRUGAL_ASSIGN(const GgufReader gguf, GgufReader::Open(std::move(source)));
  return ReadGgufConfig(gguf);
}

// Nothing for an empty flag.
Result<std::optional<Activation>> ParseActivationFlag(const std::string& text) {
  std::optional<Activation> activation;
  if (text.empty()) return activation;
  activation = ParseActivation(text);
  if (activation) return activation;
  return MakeError(ErrorCode::kUsage,
                   "--activation: \"{}\", expected relu, relu2, fatrelu:THRESHOLD, drelu, silu, gelu or gelu_tanh", text);
}

Result<PackReport> PackCheckpoint(const PackFlags& flags, const std::string& output_path, Overwrite overwrite, NeuronOrders orders);

Result<LossOptions> MakeLossOptions(const PackFlags& flags) {
  LossOptions loss;
  loss.source_path = flags.source_path;
  loss.is_gguf = !IsDirectory(flags.source_path);
  FRUGAL_ASSIGN(loss.activation, ParseActivationFlag(flags.activation));
  loss.text.path = flags.measure_path;
  loss.text.separator = flags.separator;
  loss.text.ids_path = flags.measure_ids_path;
  if (!flags.asks_to_measure()) loss.text.built_in = BuiltInText();
  loss.text.max_tokens = flags.measure_tokens;
  loss.text.piece_tokens = kMeasuredPieceTokens;
  loss.is_asked = flags.asks_to_measure();
  FRUGAL_ASSIGN(loss.ram_bytes, ParseSizeFlag("--ram", flags.ram));
  loss.num_threads = flags.threads();
  loss.exact_path = flags.output_path + ".exact.gguf";
  loss.pack_exactly = [&flags](const std::string& path, uint64_t ram_bytes) -> Status {
    PackFlags exact = flags;
    exact.type = exact.down_type = "keep";
    exact.ram = fmt::format("{}", ram_bytes);
    FRUGAL_ASSIGN([[maybe_unused]] const PackReport report, PackCheckpoint(exact, path, Overwrite::kYes, {}));
    return {};
  };
  return loss;
}

Result<PackReport> PackCheckpoint(const PackFlags& flags, const std::string& output_path, Overwrite overwrite,
                                  NeuronOrders orders) {
  PackOptions options;
  options.source_path = flags.source_path;
  options.output_path = output_path;
  FRUGAL_ASSIGN(options.type, ParseChoice("--type", flags.type, kTypes));
  FRUGAL_ASSIGN(options.down_type, ParseChoice("--down-type", flags.down_type, kTypes));
  if (!flags.layout.empty()) {
    FRUGAL_ASSIGN(options.layout, ParseChoice("--layout", flags.layout, kLayouts));
  }
  FRUGAL_ASSIGN(options.activation, ParseActivationFlag(flags.activation));
  options.overwrite = overwrite;
  options.align_bytes = flags.align_bytes;
  FRUGAL_ASSIGN(options.ram_bytes, ParseSizeFlag("--ram", flags.ram));
  options.neuron_orders = std::move(orders);
  options.cancel = &interrupted();
  FRUGAL_ASSIGN(const LossOptions loss, MakeLossOptions(flags));
  if (flags.converts() && !flags.no_measure) {
    options.measured_text = loss.text.Name();
    options.measure = [&loss](const std::string& path, const PackReport& so_far, uint64_t held_bytes) {
      return MeasureLoss(loss, path, so_far, held_bytes);
    };
  }
  ProgressBar bar("packing");
  return Pack(options, [&bar](double share, std::string_view what) { bar.Update(share, what); });
}

// `predictor_source_path`: empty when there is none.
Result<PackReport> ReorderPacked(const PackFlags& flags, const std::string& source_path, const std::string& predictor_source_path,
                                 NeuronOrders orders, std::optional<NeuronActivity> activity = std::nullopt) {
  ReorderOptions options;
  options.source_path = source_path;
  options.output_path = flags.output_path;
  options.predictor_source_path = predictor_source_path;
  if (!predictor_source_path.empty()) options.predictor_output_path = DefaultPredictorPath(flags.output_path);
  options.neuron_orders = std::move(orders);
  options.activity = std::move(activity);
  options.overwrite = flags.force ? Overwrite::kYes : Overwrite::kNo;
  FRUGAL_ASSIGN(options.ram_bytes, ParseSizeFlag("--ram", flags.ram));
  options.cancel = &interrupted();
  ProgressBar bar("writing");
  return Reorder(options, [&bar](double share, std::string_view what) { bar.Update(share, what); });
}

Result<CalibrationReport> CalibratePacked(const PackFlags& flags, const std::string& model_path,
                                          const std::string& predictor_path) {
  CalibrationOptions options;
  options.model_path = model_path;
  options.predictor_path = predictor_path;
  ModelText text;
  text.path = flags.text_path;
  text.separator = flags.separator;
  text.ids_path = flags.ids_path;
  text.max_tokens = flags.num_tokens;
  text.piece_tokens = kSequenceTokens;
  FRUGAL_ASSIGN(options.sequences, ReadModelText(model_path, text, "--calibrate-ids"));
  options.spill_near_path = flags.output_path;
  FRUGAL_ASSIGN(options.ram_bytes, ParseSizeFlag("--ram", flags.ram));
  options.num_threads = flags.threads();
  options.cancel = &interrupted();
  ProgressBar bar("calibrating");
  return Calibrate(options, [&bar](double share, std::string_view what) { bar.Update(share, what); });
}

// The order that `packed` gets from the text; the packed file in it becomes the output.
Status CalibrateAndReorder(const PackFlags& flags, const std::string& packed,
                           const std::string& predictor_path, Outcome* outcome) {
  FRUGAL_ASSIGN(outcome->calibration, CalibratePacked(flags, packed, predictor_path));
  NeuronOrders orders = std::move(outcome->calibration->orders);
  if (!flags.order_output_path.empty()) {
    FRUGAL_TRY(
        WriteNeuronOrders(flags.order_output_path, flags.force ? Overwrite::kYes : Overwrite::kNo, orders));
  }
  FRUGAL_ASSIGN(outcome->pack, ReorderPacked(flags, packed, predictor_path, std::move(orders), outcome->calibration->activity));
  return {};
}

// `--layout auto` becomes the layout that is expected to be faster in the budget of the runs, or none where there is no choice.
Status SettleLayout(PackFlags& flags) {
  if (flags.layout != kAutoLayout) return {};
  PackedForm form;
  FRUGAL_ASSIGN(form.type, ParseChoice("--type", flags.type, kTypes));
  FRUGAL_ASSIGN(form.down_type, ParseChoice("--down-type", flags.down_type, kTypes));
  form.align_bytes = flags.align_bytes;
  FRUGAL_ASSIGN(const std::optional<Activation> activation, ParseActivationFlag(flags.activation));
  uint64_t ram_bytes = FindDefaultRam().size_bytes;
  if (!flags.for_ram.empty()) {
    FRUGAL_ASSIGN(ram_bytes, ParseSizeFlag("--for-ram", flags.for_ram));
  }
  FRUGAL_ASSIGN(const std::optional<AutoLayout> layout, ChooseLayout(flags.source_path, activation, form, ram_bytes));
  flags.layout = layout ? FfnLayoutName(layout->layout) : "";
  if (layout) fmt::print(stderr, "{}\n", layout->reason);
  return {};
}

// What was in the checkpoint is in the report of packing it, what is in the output in that of ordering it.
Status CalibrateCheckpoint(const PackFlags& flags, Outcome* outcome) {
  const TemporaryModel temporary(flags.output_path + ".calibrate.gguf");
  FRUGAL_ASSIGN(PackReport packed, PackCheckpoint(flags, temporary.path(), Overwrite::kYes, {}));
  FRUGAL_TRY(CalibrateAndReorder(flags, temporary.path(), "", outcome));
  packed.file_bytes = outcome->pack.file_bytes;
  packed.content_hash = outcome->pack.content_hash;
  packed.elapsed_ns += outcome->pack.elapsed_ns;
  outcome->pack = std::move(packed);
  return {};
}

Status MakeOutput(const PackFlags& flags, Outcome* outcome) {
  const bool is_checkpoint = !flags.is_packed;
  std::string predictor_path;
  if (!is_checkpoint && Exists(DefaultPredictorPath(flags.source_path))) {
    predictor_path = DefaultPredictorPath(flags.source_path);
    outcome->predictor_path = DefaultPredictorPath(flags.output_path);
    FRUGAL_TRY(CheckOverwrite(outcome->predictor_path, flags.force));
  }
  if (flags.calibrates()) {
    return is_checkpoint ? CalibrateCheckpoint(flags, outcome)
                         : CalibrateAndReorder(flags, flags.source_path, predictor_path, outcome);
  }
  NeuronOrders orders;
  if (!flags.order_path.empty()) {
    FRUGAL_ASSIGN(const ModelConfig config, ReadSourceConfig(flags.source_path));
    FRUGAL_ASSIGN(orders, ReadNeuronOrders(flags.order_path, config.num_layers, config.ffn_size));
  }
  if (is_checkpoint) {
    FRUGAL_ASSIGN(outcome->pack,
                  PackCheckpoint(flags, flags.output_path, flags.force ? Overwrite::kYes : Overwrite::kNo,
                                 std::move(orders)));
  } else {
    FRUGAL_ASSIGN(outcome->pack, ReorderPacked(flags, flags.source_path, predictor_path, std::move(orders)));
  }
  return {};
}

// A file of ours. What cannot be opened is not: whoever opens it says why.
bool IsPackedModel(const std::string& path) {
  if (!Exists(path) || IsDirectory(path)) return false;
  Result<std::unique_ptr<ByteSource>> source = OpenFileSource(path);
  if (!source) return false;
  const Result<GgufReader> gguf = GgufReader::Open(*std::move(source));
  return gguf && gguf->Find(kPackedVersionKey) != nullptr;
}

Status PackModel(PackFlags& flags) {
  flags.is_packed = IsPackedModel(flags.source_path);
  FRUGAL_TRY(CheckFlags(flags));
  FRUGAL_TRY(SettleLayout(flags));
  // Whoever works notices the flag and takes its temporary file away.
  InstallInterruptHandler();
  Outcome outcome;
  FRUGAL_TRY(MakeOutput(flags, &outcome));
  for (const std::string& warning : outcome.pack.warnings) fmt::print(stderr, "warning: {}\n", warning);
  StandardOutput output;
  return output.Print(flags.json ? ReportJson(flags.output_path, outcome).dump(2) + "\n"
                                 : ReportText(flags.output_path, outcome));
}

}  // namespace

void AddPackVerb(CLI::App& app, Exit& exit) {
  CLI::App& sub = *app.add_subcommand(
      "pack", "Turns a Hugging Face checkpoint or a GGUF file into a packed model, or orders a packed model's neurons");
  const auto flags = std::make_shared<PackFlags>();
  sub.add_option("source,--source", flags->source_path,
                 "directory with config.json, weights (safetensors or PyTorch) and tokenizer, or one of the Hugging Face cache; a "
                 "GGUF file; or a packed model, to order it anew with its predictors")
      ->required();
  sub.add_option("-o,--output", flags->output_path, "the packed model to write (.gguf)")->required();
  sub.add_option("--type", flags->type, "of matrices and bundles: keep (the source's), f32, f16, bf16, q8_0, q4_0 (lossy)")
      ->capture_default_str();
  sub.add_option("--down-type", flags->down_type,
                 "of the down projection, instead of --type: keep, f32, f16, bf16, q8_0, q4_0; needed where bundles are made of one in "
                 "quantised blocks")
      ->capture_default_str();
  sub.add_option("--layout", flags->layout,
                 "of gated FFNs: gate+bundle2 (the gate chooses exactly; the default where the activation is sparse, elsewhere for `train "
                 "--sparsify`); with a sparse activation, bundle3 (for a predictor or sketch), or auto (what is expected to be faster in "
                 "--for-ram, as `frugal plan` compares them)");
  sub.add_option("--for-ram", flags->for_ram,
                 "with --layout auto: the budget of the runs that it is chosen for (default: what a run without --ram takes here)");
  sub.add_option("--activation", flags->activation,
                 "what the FFN computes, where the source does not say it: relu, relu2, fatrelu:THRESHOLD, drelu, silu, gelu, "
                 "gelu_tanh");
  sub.add_flag("--force", flags->force, "overwrite an existing file");
  sub.add_option("--ram", flags->ram, "memory budget of packing, the whole process")->capture_default_str();
  flags->align_option =
      sub.add_option("--align", flags->align_bytes, "of a bundle in bytes: 512, 4096")->capture_default_str();
  sub.add_option("--order", flags->order_path,
                 "file with the order of the neurons: for each layer a line of their numbers");
  sub.add_option("--calibrate", flags->text_path,
                 "order the neurons so that what this text misses in the cache lies together (.xz through "
                 "the program xz)");
  sub.add_option("--calibrate-ids", flags->ids_path, "the same with a file of token ids");
  sub.add_option("--calibrate-tokens", flags->num_tokens,
                 "tokens of the text that are used, from its beginning")
      ->check(CLI::Range(64, 1 << 24))
      ->capture_default_str();
  sub.add_option("--story-separator", flags->separator, "a line equal to this begins a new story in the text")
      ->capture_default_str();
  sub.add_option("--order-out", flags->order_output_path,
                 "write the order that was found to this file, as --order takes it");
  sub.add_option("--measure", flags->measure_path,
                 "measure on this text what --type or --down-type loses in perplexity, and store it (default: on a text that is built in, "
                 "where the source is a GGUF or a checkpoint of up to 2G)");
  sub.add_option("--measure-ids", flags->measure_ids_path, "the same with a file of token ids");
  sub.add_option("--measure-tokens", flags->measure_tokens, "tokens of that text, from its beginning")
      ->check(CLI::Range(2, 1 << 24))
      ->capture_default_str();
  sub.add_flag("--no-measure", flags->no_measure, "do not measure it");
  sub.add_option("-t,--threads", flags->num_threads, "threads that calibrate and measure (default: usable cores)")
      ->check(CLI::Range(1, ThreadPool::kMaxThreads));
  sub.add_flag("--json", flags->json, "the report as JSON");
  exit.RunAsCallback(sub, [flags] { return PackModel(*flags); });
}

}  // namespace frugal
