// frugal train MODEL: fits the predictors of a packed model; with --sparsify, the thresholds of one whose gate is never zero.
#include <fmt/format.h>

#include <algorithm>

#include "src/cli/perplexity_measure.h"
#include "src/cli/progress_bar.h"
#include "src/cli/sparsify_report.h"
#include "src/cli/system_limits.h"
#include "src/cli/train_report.h"
#include "src/cli/training_text.h"
#include "src/cli/verbs.h"
#include "src/engine/tokenizer_load.h"
#include "src/engine/selector_choice.h"
#include "src/train/train.h"

namespace frugal {
namespace {

struct TrainFlags {
  TrainOptions options;
  std::string text_path;
  std::string separator = "<|story|>";
  std::string ram = "1G";
  int num_threads = 0;
  std::string io = "auto";
  std::string sparsify;  // a share; empty: predictors
  CLI::Option* tokens_option = nullptr;
  bool force = false;
  bool no_early = false;
  bool json = false;
};

// Of a text; beyond it thresholds hardly move.
constexpr uint64_t kSparsifyTokens = 8192;

// The text as the model's tokenizer sees it. Model and tokenizer are closed again before training takes its
// memory.
Status ReadText(const TrainFlags& flags, TrainOptions& options) {
  FRUGAL_ASSIGN(const ModelFile model, ModelFile::Open(options.model_path));
  FRUGAL_ASSIGN(const bool has_tokenizer, HasTokenizer(model));
  if (!has_tokenizer) {
    return MakeError(ErrorCode::kUsage,
                     "{} has no tokenizer: train it without --text, on text that it samples itself",
                     options.model_path);
  }
  FRUGAL_ASSIGN(const Tokenizer tokenizer, LoadTokenizer(model));
  TrainingTextOptions text_options;
  text_options.separator = flags.separator;
  text_options.sequence_tokens = std::min(options.sequence_tokens, model.config().max_context);
  // Training takes num_tokens of it, spread evenly. Four times as many leave it a choice; ids and the
  // encoder's scratch memory stay a small part of the budget.
  text_options.max_tokens = std::min(options.num_tokens * 4, options.ram_bytes / 64);
  const auto encode = [&tokenizer](const std::string& text) {
    return tokenizer.Encode(text, SpecialTokens::kAdd);
  };
  FRUGAL_ASSIGN(options.sequences, ReadTrainingText(flags.text_path, encode, text_options));
  options.source = "text:" + flags.text_path.substr(flags.text_path.rfind('/') + 1);
  return {};
}

EngineOptions MeasuringOptions(const TrainOptions& options) {
  EngineOptions engine;
  engine.model_path = options.model_path;
  engine.ram_bytes = options.ram_bytes;
  engine.num_threads = options.num_threads;
  engine.io = options.weights.backend;
  return engine;
}

// What the thresholds cost, on text that calibrating did not see.
Status MeasureEffect(const TrainOptions& options, SparsifyReport* report) {
  EngineOptions engine = MeasuringOptions(options);
  FRUGAL_ASSIGN(const MeasuredPerplexity exact, MeasurePerplexity(engine, report->held_out));
  engine.sparsify = true;
  engine.thresholds = report->thresholds;
  FRUGAL_ASSIGN(const MeasuredPerplexity sparsified, MeasurePerplexity(engine, report->held_out));
  report->thresholds.effect = EffectOf(exact.perplexity, sparsified.perplexity);
  report->thresholds.measured_share = static_cast<float>(sparsified.left_out_share);
  return {};
}

Status FindThresholds(const TrainFlags& flags, const TrainOptions& options, double share) {
  EngineOptions engine = MeasuringOptions(options);
  engine.context = options.sequence_tokens;
  FRUGAL_TRY(CheckMeasureFits(engine));
  ProgressBar bar("calibrating");
  Result<SparsifyReport> report = CalibrateThresholds(options, static_cast<float>(share), [&bar](double done, std::string_view what) {
    bar.Update(0.7 * done, what);
  });
  Status measured;
  if (report) {
    bar.Update(0.7, "measuring perplexity");
    measured = MeasureEffect(options, &*report);
  }
  bar.Finish();
  if (!report) return std::move(report).error();
  FRUGAL_TRY(std::move(measured));
  FRUGAL_TRY(WriteGateThresholds(options.output_path, options.overwrite, report->thresholds));
  StandardOutput output;
  return output.Print(flags.json ? SparsifyReportToJson(options.output_path, *report).dump(2) + "\n"
                                 : FormatSparsifyReport(options.output_path, *report));
}

// Before any text is read: that may take long.
Result<double> ResolveSparsify(const TrainFlags& flags) {
  FRUGAL_ASSIGN(const double share, ParseShare("--sparsify", flags.sparsify));
  if (!(share > 0 && share < 1)) {
    return MakeError(ErrorCode::kUsage, "--sparsify: '{}': expected a share of the neurons between 0 and 1, such as 0.5 or 50%",
                     flags.sparsify);
  }
  FRUGAL_ASSIGN(const ModelFile model, ModelFile::Open(flags.options.model_path));
  FRUGAL_TRY(RequireSparsifiable(model));
  return share;
}

Status TrainModel(TrainFlags& flags) {
  TrainOptions& options = flags.options;
  FRUGAL_ASSIGN(options.ram_bytes, ParseSizeFlag("--ram", flags.ram));
  FRUGAL_ASSIGN(options.weights.backend, ParseIoBackend(flags.io));
  options.num_threads =
      flags.num_threads > 0 ? flags.num_threads : std::min(UsableCores(), ThreadPool::kMaxThreads);
  options.overwrite = flags.force ? Overwrite::kYes : Overwrite::kNo;
  options.early = !flags.no_early;
  std::optional<double> share;
  if (!flags.sparsify.empty()) {
    FRUGAL_ASSIGN(share, ResolveSparsify(flags));
    if (flags.tokens_option->count() == 0) options.num_tokens = kSparsifyTokens;
    FRUGAL_ASSIGN(const ModelFile model, ModelFile::Open(options.model_path));
    options.sequence_tokens = std::min(options.sequence_tokens, model.config().max_context);
  }
  if (options.output_path.empty()) {
    options.output_path = share ? DefaultSparsifyPath(options.model_path) : DefaultPredictorPath(options.model_path);
  }
  FRUGAL_TRY(CheckOverwrite(options.output_path, flags.force));
  // Before the first wait: Ctrl-C leaves the partial file, with which the next run goes on.
  InstallInterruptHandler();
  options.cancel = &interrupted();
  if (!flags.text_path.empty()) FRUGAL_TRY(ReadText(flags, options));
  if (share) return FindThresholds(flags, options, *share);

  ProgressBar bar("training");
  const auto progress = [&bar](double done, std::string_view what) { bar.Update(done, what); };
  Result<TrainReport> report = Train(options, progress);
  bar.Finish();
  if (!report) return std::move(report).error();
  StandardOutput output;
  return output.Print(flags.json ? TrainReportJson(*report).dump(2) + "\n" : FormatTrainReport(*report));
}

}  // namespace

void AddTrainVerb(CLI::App& app, Exit& exit) {
  CLI::App& sub = *app.add_subcommand("train", "Trains the predictors of a packed model, or finds thresholds for --sparsify");
  const auto flags = std::make_shared<TrainFlags>();
  TrainOptions& options = flags->options;
  AddModelArgument(sub, options.model_path);
  sub.add_option("-o,--output", options.output_path,
                 "file to write (default: NAME.predict.gguf, with --sparsify NAME.sparsify.gguf, beside the model)");
  sub.add_option("--text", flags->text_path,
                 "text to train on, may be .xz (default: text that the model samples)");
  sub.add_option("--story-separator", flags->separator, "a line equal to this begins a new story in the text")
      ->capture_default_str();
  flags->tokens_option = sub.add_option("--tokens", options.num_tokens, "tokens to train on (with --sparsify: 8192)");
  flags->tokens_option->capture_default_str();
  sub.add_option("--sequence", options.sequence_tokens, "tokens of a sequence, at most the model's context")
      ->capture_default_str();
  sub.add_option("--recall-target", options.recall_target, "share of the active neurons to choose")
      ->capture_default_str();
  sub.add_option("--early-recall-target", options.early_recall_target, "the same, of the early predictor")
      ->capture_default_str();
  sub.add_flag("--no-early", flags->no_early, "no early predictor");
  sub.add_option("--ranks", options.ranks, "ranks to try, multiples of 32")->delimiter(',');
  sub.add_option("--epochs", options.num_epochs, "passes over the text")->capture_default_str();
  sub.add_option("--seed", options.seed, "seed of everything random")->capture_default_str();
  sub.add_option("--ram", flags->ram, "memory budget of the whole process")->capture_default_str();
  sub.add_option("-t,--threads", flags->num_threads, "threads (default: usable cores)")
      ->check(CLI::Range(1, ThreadPool::kMaxThreads));
  sub.add_option("--io", flags->io, "auto, uring, pread")->capture_default_str();
  sub.add_flag("--force", flags->force, "overwrite existing predictors");
  sub.add_flag("--json", flags->json, "the report as JSON");
  CLI::Option* const sparsify =
      sub.add_option("--sparsify", flags->sparsify,
                     "instead of predictors: thresholds that leave out this share of the neurons (0.5, 50%) of a model without ReLU, "
                     "packed with --layout gate+bundle2; lossy: the perplexity with and without them is measured and stored");
  for (const char* of_predictors : {"--recall-target", "--early-recall-target", "--no-early", "--ranks", "--epochs"}) {
    sub.get_option(of_predictors)->excludes(sparsify);
  }
  exit.RunAsCallback(sub, [flags] { return TrainModel(*flags); });
}

}  // namespace frugal
