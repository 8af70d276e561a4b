// frugal train MODEL: fits the predictors of a packed model.
#include <fmt/format.h>

#include <algorithm>

#include "src/cli/progress_bar.h"
#include "src/cli/system_limits.h"
#include "src/cli/train_report.h"
#include "src/cli/training_text.h"
#include "src/cli/verbs.h"
#include "src/engine/tokenizer_load.h"
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
  bool force = false;
  bool no_early = false;
  bool json = false;
};

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

Status TrainModel(TrainFlags& flags) {
  TrainOptions& options = flags.options;
  FRUGAL_ASSIGN(options.ram_bytes, ParseSizeFlag("--ram", flags.ram));
  FRUGAL_ASSIGN(options.weights.backend, ParseIoBackend(flags.io));
  options.num_threads =
      flags.num_threads > 0 ? flags.num_threads : std::min(UsableCores(), ThreadPool::kMaxThreads);
  options.overwrite = flags.force ? Overwrite::kYes : Overwrite::kNo;
  options.early = !flags.no_early;
  if (options.output_path.empty()) options.output_path = DefaultPredictorPath(options.model_path);
  FRUGAL_TRY(CheckOverwrite(options.output_path, flags.force));
  // Before the first wait: Ctrl-C leaves the partial file, with which the next run goes on.
  InstallInterruptHandler();
  options.cancel = &interrupted();
  if (!flags.text_path.empty()) FRUGAL_TRY(ReadText(flags, options));

  ProgressBar bar("training");
  const auto progress = [&bar](double share, std::string_view what) { bar.Update(share, what); };
  Result<TrainReport> report = Train(options, progress);
  bar.Finish();
  if (!report) return std::move(report).error();
  StandardOutput output;
  return output.Print(flags.json ? TrainReportJson(*report).dump(2) + "\n" : FormatTrainReport(*report));
}

}  // namespace

void AddTrainVerb(CLI::App& app, Exit& exit) {
  CLI::App& sub = *app.add_subcommand("train", "Trains the predictors of a packed model");
  const auto flags = std::make_shared<TrainFlags>();
  TrainOptions& options = flags->options;
  AddModelArgument(sub, options.model_path);
  sub.add_option("-o,--output", options.output_path,
                 "predictors to write (default: NAME.predict.gguf beside the model)");
  sub.add_option("--text", flags->text_path,
                 "text to train on, may be .xz (default: text that the model samples)");
  sub.add_option("--story-separator", flags->separator, "a line equal to this begins a new story in the text")
      ->capture_default_str();
  sub.add_option("--tokens", options.num_tokens, "tokens to train on")->capture_default_str();
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
  exit.RunAsCallback(sub, [flags] { return TrainModel(*flags); });
}

}  // namespace frugal
