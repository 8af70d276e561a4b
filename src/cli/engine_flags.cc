#include <fmt/format.h>

#include <algorithm>

#include "src/base/bytes.h"
#include "src/cli/common.h"
#include "src/cli/profile_cache.h"
#include "src/cli/system_limits.h"
#include "src/engine/early_choice.h"
#include "src/engine/streaming_choice.h"

namespace frugal {
namespace {

constexpr const char* kAutoMode = "auto";
constexpr Choice<RunMode> kModes[] = {{kAutoMode, RunMode::kFlash},
                                      {"resident", RunMode::kResident},
                                      {"naive", RunMode::kNaive},
                                      {"hybrid", RunMode::kHybrid},
                                      {"flash", RunMode::kFlash}};
constexpr Choice<SelectorKind> kSelectors[] = {{"auto", SelectorKind::kAuto},
                                             {"predictor", SelectorKind::kPredictor},
                                             {"sketch", SelectorKind::kSketch},
                                             {"gate", SelectorKind::kGate},
                                             {"all", SelectorKind::kAll}};
constexpr Choice<DType> kKvTypes[] = {{"f32", DType::kF32}, {"f16", DType::kF16}};
constexpr Choice<std::optional<DType>> kResidentTypes[] = {{"keep", std::nullopt}, {"q8_0", DType::kQ8_0}};
constexpr Choice<PolicyKind> kPolicies[] = {
    {"decay", PolicyKind::kDecay}, {"lru", PolicyKind::kLru}, {"window", PolicyKind::kWindow}};
constexpr Choice<IoBackend> kBackends[] = {
    {"auto", IoBackend::kAuto}, {"uring", IoBackend::kUring}, {"pread", IoBackend::kPread}};
constexpr Choice<VerifyMode> kVerifyModes[] = {
    {"first", VerifyMode::kFirst}, {"always", VerifyMode::kAlways}, {"off", VerifyMode::kOff}};

Status ResolveSwitches(const EngineFlags& flags, EngineOptions& options) {
  FRUGAL_ASSIGN(options.mode, ParseChoice("--mode", flags.mode, kModes));
  FRUGAL_ASSIGN(options.policy, ParseChoice("--policy", flags.policy, kPolicies));
  FRUGAL_ASSIGN(options.selector, ParseChoice("--selector", flags.selector, kSelectors));
  const bool guesses = options.selector == SelectorKind::kPredictor || options.selector == SelectorKind::kSketch;
  if (guesses && flags.no_predictor) {
    return MakeError(ErrorCode::kUsage, "--selector {} and --no-predictor contradict each other", flags.selector);
  }
  if (guesses && options.mode != RunMode::kFlash) {
    return MakeError(ErrorCode::kUsage, "--selector {}: {} mode uses all neurons: expected --mode flash", flags.selector, flags.mode);
  }
  const bool names_predictor = options.selector == SelectorKind::kAuto || options.selector == SelectorKind::kPredictor;
  if (!names_predictor && !flags.predictor_path.empty()) {
    return MakeError(ErrorCode::kUsage, "--selector {} and --predictor-file contradict each other", flags.selector);
  }
  options.sparsify = flags.sparsify || !flags.sparsify_path.empty();
  options.sparsify_path = flags.sparsify_path;
  if (options.sparsify && flags.no_predictor) {
    return Error{ErrorCode::kUsage, "--sparsify leaves out neurons, --no-predictor asks for all of them"};
  }
  options.predictor_path = flags.predictor_path;
  options.predictor = !flags.no_predictor;
  options.window = !flags.no_window;
  options.bundling = !flags.no_bundling;
  options.overlap = !flags.no_overlap;
  options.early = !flags.no_early && options.overlap;
  if (flags.window_option != nullptr && flags.window_option->count() > 0)
    options.window_tokens = flags.window_tokens;
  if (flags.no_window && options.window_tokens) {
    return Error{ErrorCode::kUsage, "--window and --no-window contradict each other"};
  }
  if (flags.no_predictor && !flags.predictor_path.empty()) {
    return Error{ErrorCode::kUsage, "--predictor-file and --no-predictor contradict each other"};
  }
  if (!flags.slots.empty()) {
    FRUGAL_ASSIGN(options.slots_share, ParseShare("--slots", flags.slots));
  }
  if (!flags.popular.empty()) {
    FRUGAL_ASSIGN(options.popular_share, ParseShare("--pin-popular", flags.popular));
  }
  return {};
}

// A gap that is worth reading over, by the device's profile; none where the device was not measured.
Result<uint64_t> ResolveReadGap(const EngineFlags& flags) {
  if (flags.read_gap == "0") return uint64_t{0};
  if (flags.read_gap != "auto") return ParseSizeFlag("--read-gap", flags.read_gap);
  const std::optional<DeviceProfile> profile = FindProfile(flags.model_path);
  return profile ? GapWorthReading(*profile) : 0;
}

}  // namespace

Result<IoBackend> ParseIoBackend(std::string_view text) { return ParseChoice("--io", text, kBackends); }

Result<Activation> ParseActivationFlag(const std::string& text) {
  const std::optional<Activation> activation = ParseActivation(text);
  if (activation && activation->is_sparse()) return *activation;
  return MakeError(ErrorCode::kUsage, "--activation: {} is unknown: expected relu, relu2, fatrelu:THRESHOLD (0 or more) or drelu", text);
}

void AddModelArgument(CLI::App& sub, std::string& model_path) {
  sub.add_option("model,-m,--model", model_path, "packed model (.gguf); of what runs in place, a GGUF or a Hugging Face directory too")->required();
}

void AddEngineFlags(CLI::App& sub, EngineFlags& flags) {
  AddModelArgument(sub, flags.model_path);
  sub.add_option(
      "--ram", flags.ram,
      "memory budget of the whole process, such as 7G or 20M (default: the cgroup's limit, at most "
      "80% of the available memory)");
  sub.add_option("-c,--ctx-size", flags.context,
                 "tokens of context (default: the model's, at most 2048, fewer where they would take most of a small budget)");
  sub.add_option("-t,--threads", flags.num_threads, "threads (default: usable cores)")
      ->check(CLI::Range(1, ThreadPool::kMaxThreads));
  sub.add_option("--kv", flags.kv, "type of the KV cache: f32, f16")->capture_default_str();
  sub.add_option("--resident", flags.resident,
                 "type of attention and output matrices in memory: keep (the file's), q8_0 (lossy, frees room)")
      ->capture_default_str();
  sub.add_option("--mode", flags.mode,
                 "resident, naive, hybrid, flash; auto: flash, and in `run` and `plan` hybrid where selecting neurons does not pay")
      ->capture_default_str();
  sub.add_option("--activation", flags.activation,
                 "relu, relu2, fatrelu:THRESHOLD, drelu: what the model was trained with, where its GGUF cannot say it");
  sub.add_option("--selector", flags.selector,
                 "what chooses a token's neurons: auto, predictor, sketch (a copy of the gate in 4 bits, no training), gate (exact), all")
      ->capture_default_str();
  sub.add_option("--predictor-file", flags.predictor_path,
                 "predictors (default: NAME.predict.gguf beside the model)");
  sub.add_flag("--sparsify", flags.sparsify,
               "lossy: leave out neurons whose gate is small, by the thresholds of `frugal train --sparsify` (models without ReLU)");
  sub.add_option("--sparsify-file", flags.sparsify_path, "these thresholds (default: NAME.sparsify.gguf beside the model)");
  sub.add_flag("--no-predictor", flags.no_predictor, "use all neurons");
  sub.add_flag("--no-window", flags.no_window, "keep no neuron from one token to the next");
  sub.add_flag("--no-bundling", flags.no_bundling, "read the halves of a bundle apart");
  sub.add_flag("--no-overlap", flags.no_overlap, "wait for every read where it is asked for");
  sub.add_flag("--no-early", flags.no_early, "no early prediction (without this flag: where a token is expected to be faster with it)");
  sub.add_flag("--sketch-early", flags.sketch_early,
               "let a gate sketch guess before attention too (default: where that is expected to be faster)");
  flags.window_option = sub.add_option("--window", flags.window_tokens,
                                       "keep the neurons of the last K tokens (the paper's window)");
  sub.add_option("--slots", flags.slots,
                 "share of the FFN kept in memory, such as 50% (default: what the budget holds)");
  sub.add_option("--policy", flags.policy, "which neuron is given up first: decay, lru, window")
      ->capture_default_str();
  sub.add_option("--pin-popular", flags.popular,
                 "share of the slots for the most popular neurons, such as 10%");
  sub.add_option("--read-gap", flags.read_gap,
                 "longest gap between two neurons that is read over instead of splitting the read: auto (what `frugal probe` measured), "
                 "or a size such as 32K; 0: none")
      ->capture_default_str();
  sub.add_option("--io", flags.io, "auto, uring, pread")->capture_default_str();
  sub.add_option("--verify", flags.verify, "check hashes of weights: first (read), always, off")
      ->capture_default_str();
  sub.add_option("--batch", flags.batch, "most tokens of a prefill step")->check(CLI::Range(1, 4096));
  sub.add_option("--seed", flags.seed, "seed of everything random")->capture_default_str();
}

Result<EngineOptions> ResolveEngineFlags(const EngineFlags& flags) {
  EngineOptions options;
  options.model_path = flags.model_path;
  if (flags.ram.empty()) {
    options.ram_bytes = FindDefaultRam().size_bytes;
  } else {
    FRUGAL_ASSIGN(options.ram_bytes, ParseSizeFlag("--ram", flags.ram));
  }
  options.context = flags.context;
  options.num_threads =
      flags.num_threads > 0 ? flags.num_threads : std::min(UsableCores(), ThreadPool::kMaxThreads);
  FRUGAL_ASSIGN(options.kv_type, ParseChoice("--kv", flags.kv, kKvTypes));
  FRUGAL_ASSIGN(options.resident_type, ParseChoice("--resident", flags.resident, kResidentTypes));
  FRUGAL_ASSIGN(options.io, ParseIoBackend(flags.io));
  FRUGAL_ASSIGN(options.verify, ParseChoice("--verify", flags.verify, kVerifyModes));
  if (!flags.activation.empty()) {
    FRUGAL_ASSIGN(options.activation, ParseActivationFlag(flags.activation));
  }
  FRUGAL_TRY(ResolveSwitches(flags, options));
  FRUGAL_ASSIGN(options.max_gap_bytes, ResolveReadGap(flags));
  if (flags.batch > 0) options.max_batch = flags.batch;
  options.seed = flags.seed;
  options.sketch_early = flags.sketch_early;
  return options;
}

Status ChooseMode(const EngineFlags& flags, EngineOptions* options) {
  if (options->mode != RunMode::kFlash) return {};
  const std::optional<DeviceProfile> profile = FindProfile(options->model_path);
  if (!profile) return {};
  FRUGAL_ASSIGN(const OpenedHeader header, OpenHeader(*options));
  if (options->early && !options->sketch_early) {
    FRUGAL_ASSIGN(options->early, EarlyPays(header, *options, *profile));
    options->sketch_early = options->early;
  }
  if (flags.mode != kAutoMode) return {};
  FRUGAL_ASSIGN(const std::optional<StreamingChoice> choice, CompareWithStreaming(header, *options, *profile));
  if (!choice || !choice->pays) return {};
  options->mode = RunMode::kHybrid;
  options->mode_note = DescribeChoice(*choice);
  if (options->sparsify) options->mode_note += "; without --sparsify hybrid mode would be exact, and read no more";
  return {};
}

void AddEnvironmentTwins(CLI::App& app) {
  const auto add_twins = [](CLI::App& to) {
    for (CLI::Option* option : to.get_options()) {
      if (option == to.get_help_ptr() || option->get_lnames().empty() || option->get_lnames()[0] == "version")
        continue;
      std::string name = "FRUGAL_" + option->get_lnames()[0];
      std::transform(name.begin(), name.end(), name.begin(),
                     [](unsigned char c) { return c == '-' ? '_' : static_cast<char>(std::toupper(c)); });
      option->envname(name);
    }
  };
  for (CLI::App* sub : app.get_subcommands({})) add_twins(*sub);
}

}  // namespace frugal
