// frugal eval: perplexity of a text in any mode and budget, logits, exact beside predictor, the curve over
// slots and policies.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "src/base/bytes.h"
#include "src/cli/eval_report.h"
#include "src/cli/run_report.h"
#include "src/cli/sparsify_report.h"
#include "src/cli/trace_file.h"
#include "src/cli/verbs.h"
#include "src/format/npy_writer.h"

namespace frugal {
namespace {

constexpr uint32_t kDefaultPiece = 512;
// Of a step: with more, their logits would take the memory of slots.
constexpr uint32_t kMostLogitRows = 32;
constexpr double kCurveSlots[] = {0.15, 0.25, 0.40, 0.50, 0.60, 0.80};
constexpr Choice<PolicyKind> kCurvePolicies[] = {
    {"decay", PolicyKind::kDecay}, {"lru", PolicyKind::kLru}, {"window", PolicyKind::kWindow}};

struct EvalFlags {
  EngineFlags engine;
  std::string text_path, ids, logits_path, trace_path;
  std::string separator = "<|story|>";
  uint32_t piece = 0;
  uint64_t tokens = 0;
  uint32_t skip = 0;
  bool token_by_token = false, compare = false, curve = false, json = false;
};

// Everything about one call of eval; each run opens an engine of its own and closes it again.
class Evaluator {
 public:
  explicit Evaluator(const EvalFlags& flags) : flags_(flags) {}

  Status Prepare();
  Status RunOnce();
  Status RunComparison();
  Status RunSparsifyComparison();
  Status RunCurve();

 private:
  enum class Steps { kAsAsked, kBatches, kSingle };
  struct OpenRun {
    std::unique_ptr<Engine> engine;
    EvalOptions options;
  };
  Result<EnginePlan> Plan(const EngineOptions& options) const;
  Result<EngineOptions> FitBatch(EngineOptions options, Steps steps) const;
  Error TooSmall(EngineOptions options) const;
  Result<OpenRun> Open(const EngineOptions& options, Steps steps, std::string_view what) const;
  Result<PieceReader> OpenPieces(const Engine& engine) const;
  Result<EvalResult> Evaluate(OpenRun& run) const;
  Result<EvalResult> RunExact(ActiveSetRecorder& recorder) const;
  Status Print(const std::string& text, const nlohmann::ordered_json& json) const;

  const EvalFlags& flags_;
  EngineOptions options_;
  OpenedHeader header_;
  std::vector<int32_t> ids_;
  uint32_t piece_ = 0;
  uint64_t text_bytes_ = 0;  // memory for the text and its ids
};

Status Evaluator::Prepare() {
  if (flags_.text_path.empty() == flags_.ids.empty())
    return Error{ErrorCode::kUsage, "eval needs --text FILE or --ids, one of them"};
  if (flags_.compare && flags_.curve)
    return Error{ErrorCode::kUsage, "--compare and --curve are runs of their own: ask for one"};
  if (!flags_.logits_path.empty() && (flags_.compare || flags_.curve)) {
    return Error{ErrorCode::kUsage, "--logits goes with a single run, without --compare and --curve"};
  }
  if (!flags_.trace_path.empty() && (flags_.compare || flags_.curve)) {
    return Error{ErrorCode::kUsage, "--trace goes with a single run, without --compare and --curve"};
  }
  FRUGAL_ASSIGN(options_, ResolveEngineFlags(flags_.engine));
  // The others are about selecting neurons.
  const bool is_single = !flags_.compare && !flags_.curve && flags_.trace_path.empty();
  if (is_single) FRUGAL_TRY(ChooseMode(flags_.engine, &options_));
  if (!flags_.trace_path.empty()) FRUGAL_TRY(TraceFile::ReserveMemory(options_));
  EngineOptions header_options = options_;
  if (flags_.compare) header_options.predictor = true;
  FRUGAL_ASSIGN(header_, OpenHeader(header_options));
  if (!flags_.ids.empty()) {
    FRUGAL_ASSIGN(ids_, ParseIds(flags_.ids));
  }
  const uint32_t most = header_.model->config().max_context;
  piece_ = flags_.piece;
  if (piece_ == 0) {
    piece_ = ids_.empty() || ids_.size() > most ? std::min(kDefaultPiece, most)
                                                : static_cast<uint32_t>(ids_.size());
    if (options_.context != 0) piece_ = std::min(piece_, options_.context);
  }
  if (options_.context == 0) options_.context = piece_;
  if (piece_ > options_.context || piece_ > most) {
    return MakeError(ErrorCode::kUsage, "--chunk {} is above the context of {} (the model's is {})", piece_,
                     options_.context, most);
  }
  if (flags_.skip >= piece_ && flags_.skip > 0) {
    return MakeError(ErrorCode::kUsage, "--skip {} leaves nothing of pieces of {}", flags_.skip, piece_);
  }
  if (!flags_.text_path.empty()) {
    if (header_.tokenizer_bytes.held == 0) {
      return MakeError(ErrorCode::kUsage, "{}: has no tokenizer: give --ids instead of --text",
                       options_.model_path);
    }
    FRUGAL_ASSIGN(const TextSize size, MeasureText(flags_.text_path, flags_.separator));
    if (size.num_stories == 0) return MakeError(ErrorCode::kUsage, "{}: the text is empty", flags_.text_path);
    text_bytes_ = TextMemoryBytes(size, piece_);
  } else {
    text_bytes_ = ids_.size() * sizeof(int32_t) * 2;
  }
  return {};
}

Result<EnginePlan> Evaluator::Plan(const EngineOptions& options) const {
  const bool wants_predictor = options.mode == RunMode::kFlash && options.predictor && header_.predictor;
  return MakePlan(*header_.model, wants_predictor ? &*header_.predictor : nullptr, header_.tokenizer_bytes,
                  options);
}

// The text's memory comes out of the budget, and the logits of as many rows as fit are asked for.
Result<EngineOptions> Evaluator::FitBatch(EngineOptions options, Steps steps) const {
  if (options.ram_bytes > 0) {
    if (options.ram_bytes <= text_bytes_) return TooSmall(options);
    options.ram_bytes -= text_bytes_;
  }
  const bool single = steps == Steps::kSingle || (steps == Steps::kAsAsked && flags_.token_by_token);
  options.logit_rows = single ? 1 : std::min({options.max_batch, piece_, kMostLogitRows});
  while (true) {
    const Result<EnginePlan> plan = Plan(options);
    if (plan) return options;
    if (plan.error().code != ErrorCode::kDoesNotFit) return plan.error();
    if (options.logit_rows == 1) return TooSmall(options);
    options.logit_rows /= 2;
  }
}

Error Evaluator::TooSmall(EngineOptions options) const {
  options.logit_rows = 1;
  options.ram_bytes = 0;
  const Result<EnginePlan> plan = Plan(options);
  if (!plan) return plan.error();
  const uint64_t smallest = plan->smallest_bytes + text_bytes_;
  return MakeError(ErrorCode::kDoesNotFit,
                   "{}: does not fit {} (--ram {}): the smallest budget that works in {} mode with pieces of "
                   "{} is {} bytes (--ram {}M), {} "
                   "of it for the text",
                   options_.model_path, FormatSize(options_.ram_bytes), options_.ram_bytes,
                   RunModeName(options.mode), piece_, smallest, (smallest + kMiB - 1) / kMiB,
                   FormatSize(text_bytes_));
}

Result<Evaluator::OpenRun> Evaluator::Open(const EngineOptions& asked, Steps steps,
                                           std::string_view what) const {
  FRUGAL_ASSIGN(const EngineOptions options, FitBatch(asked, steps));
  OpenRun run;
  FRUGAL_ASSIGN(run.engine, Engine::Open(options));
  fmt::print(stderr, "{}", what);
  PrintFirstLine(*run.engine);
  run.options.rows = run.engine->plan().max_logit_rows;
  run.options.skip = flags_.skip;
  if (StandardErrorIsTerminal()) {
    run.options.progress = [](const Perplexity& perplexity, uint64_t num_tokens) {
      fmt::print(stderr, "\r\033[K{} ids, PPL = {:.4f}", num_tokens, perplexity.value());
    };
  }
  return run;
}

Result<PieceReader> Evaluator::OpenPieces(const Engine& engine) const {
  if (flags_.text_path.empty()) return PieceReader::FromIds(ids_, piece_, flags_.tokens);
  const Tokenizer* tokenizer = engine.tokenizer();
  CHECK(tokenizer != nullptr);
  const auto encode = [this, tokenizer](const std::string& story) -> Result<std::vector<int32_t>> {
    Result<std::vector<int32_t>> ids = tokenizer->Encode(story, SpecialTokens::kAdd);
    if (!ids) return WithContext(std::move(ids).error(), flags_.text_path);
    return ids;
  };
  return PieceReader::FromText(flags_.text_path, flags_.separator, encode, piece_, flags_.tokens);
}

Result<EvalResult> Evaluator::Evaluate(OpenRun& run) const {
  FRUGAL_ASSIGN(PieceReader pieces, OpenPieces(*run.engine));
  Result<EvalResult> result = frugal::Evaluate(*run.engine, pieces, run.options);
  if (run.options.progress) fmt::print(stderr, "\r\033[K");
  return result;
}

Status Evaluator::Print(const std::string& text, const nlohmann::ordered_json& json) const {
  StandardOutput out;
  if (!flags_.json) return out.Print(text);
  return out.Print(json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

Status Evaluator::RunOnce() {
  FRUGAL_ASSIGN(OpenRun run, Open(options_, Steps::kAsAsked, ""));
  std::optional<NpyWriter> writer;
  if (!flags_.logits_path.empty()) {
    FRUGAL_ASSIGN(NpyWriter opened, NpyWriter::Open(flags_.logits_path, run.engine->config().vocab_size));
    writer.emplace(std::move(opened));
    run.options.take_logits = [&writer](std::span<const float> logits) { return writer->AppendRow(logits); };
  }
  std::unique_ptr<TraceFile> trace;
  if (!flags_.trace_path.empty()) {
    FRUGAL_ASSIGN(trace, TraceFile::Start(flags_.trace_path, *run.engine));
  }
  FRUGAL_ASSIGN(const EvalResult result, Evaluate(run));
  if (writer) FRUGAL_TRY(writer->Finish());
  if (trace != nullptr) FRUGAL_TRY(trace->Finish());
  if (!options_.sparsify) {
    fmt::print(stderr, "{}", SparsityWarning(run.engine->statistics().active_share, ActivationName(run.engine->config().activation)));
  }
  const uint64_t ffn_bytes = header_.model->ffn_bytes();
  nlohmann::ordered_json json = {{"mode", RunModeName(options_.mode)},
                                 {"description", run.engine->Describe()},
                                 {"ram_bytes", options_.ram_bytes},
                                 {"peak_bytes", run.engine->plan().peak_bytes() + text_bytes_},
                                 {"rows", run.options.rows}};
  json.update(EvalToJson(result, ffn_bytes));
  std::string text = FormatTraffic(result, ffn_bytes, flags_.skip);
  if (writer)
    text += fmt::format("logits: {} [{}, {}]\n", flags_.logits_path, writer->num_rows(),
                        run.engine->config().vocab_size);
  if (result.perplexity.num_scored > 0) text += FormatPerplexity(result.perplexity);
  return Print(text, json);
}

// All neurons, in the fastest way that the budget holds; which way changes no bit.
Result<EvalResult> Evaluator::RunExact(ActiveSetRecorder& recorder) const {
  EngineOptions options = options_;
  options.predictor = false;
  options.selector = SelectorKind::kAuto;
  options.predictor_path.clear();
  EngineOptions resident = options;
  resident.mode = RunMode::kResident;
  if (FitBatch(resident, Steps::kBatches)) options = resident;
  FRUGAL_ASSIGN(OpenRun run, Open(options, Steps::kBatches, "exact: "));
  run.options.observe = [&recorder](const StepPlace& place, const LayerObservation& observation) {
    return recorder.Observe(place, observation);
  };
  return Evaluate(run);
}

Status Evaluator::RunSparsifyComparison() {
  SparsifyComparison report;
  report.thresholds = *header_.thresholds;
  report.ffn_bytes = header_.model->ffn_bytes();
  EngineOptions exact_options = options_;
  exact_options.sparsify = false;
  FRUGAL_ASSIGN(OpenRun exact, Open(exact_options, Steps::kAsAsked, "exact: "));
  FRUGAL_ASSIGN(report.exact, Evaluate(exact));
  exact.engine.reset();  // its memory is the other one's
  LeftOutCounter counter(header_.model->config());
  FRUGAL_ASSIGN(OpenRun run, Open(options_, Steps::kAsAsked, "sparsified: "));
  run.options.observe = [&counter](const StepPlace&, const LayerObservation& seen) { return counter.Observe(seen); };
  FRUGAL_ASSIGN(report.sparsified, Evaluate(run));
  report.left_out = counter.Shares();
  const std::string text = FormatTraffic(report.sparsified, report.ffn_bytes, flags_.skip) + "\n" + FormatSparsifyComparison(report);
  return Print(text + FormatPerplexity(report.sparsified.perplexity), SparsifyComparisonToJson(report));
}

Status Evaluator::RunComparison() {
  if (options_.sparsify) return RunSparsifyComparison();
  if (options_.mode != RunMode::kFlash || !options_.predictor) {
    return Error{ErrorCode::kUsage,
                 "--compare is about predictors: it goes with --mode flash and without --no-predictor"};
  }
  if (!header_.predictor) {
    return MakeError(ErrorCode::kUsage, "{}: no predictors to compare: run `frugal train` first",
                     options_.model_path);
  }
  const ModelConfig& config = header_.model->config();
  const char* directory = std::getenv("TMPDIR");
  FRUGAL_ASSIGN(ActiveSetFile file,
                ActiveSetFile::Create(directory != nullptr && *directory != '\0' ? directory : "/var/tmp",
                                      config.num_layers, config.ffn_size));
  ComparisonReport report;
  report.ffn_size = config.ffn_size;
  report.ffn_bytes = header_.model->ffn_bytes();
  ActiveSetRecorder recorder(file);
  FRUGAL_ASSIGN(report.exact, RunExact(recorder));
  RecallComparison comparison(file, flags_.skip);
  FRUGAL_ASSIGN(OpenRun run, Open(options_, Steps::kAsAsked, "predictor: "));
  run.options.observe = [&comparison](const StepPlace& place, const LayerObservation& observation) {
    return comparison.Observe(place, observation);
  };
  FRUGAL_ASSIGN(report.predictor, Evaluate(run));
  report.predictor.sampled_recall = -1;  // the whole run was compared
  report.layers = comparison.layers();
  std::string text =
      FormatTraffic(report.predictor, report.ffn_bytes, flags_.skip) + "\n" + FormatComparison(report);
  return Print(text + FormatPerplexity(report.predictor.perplexity), ComparisonToJson(report));
}

Status Evaluator::RunCurve() {
  if (options_.mode != RunMode::kFlash)
    return Error{ErrorCode::kUsage, "--curve is about slots: it goes with --mode flash"};
  std::vector<CurvePoint> points;
  for (const double slots : kCurveSlots) {
    for (const auto& [name, policy] : kCurvePolicies) {
      EngineOptions options = options_;
      options.slots_share = slots;
      options.num_slots.reset();
      options.policy = policy;
      if (policy != PolicyKind::kWindow) options.window_tokens.reset();
      options.sample_recall_every = 0;
      CurvePoint point = {slots, name, std::nullopt};
      Result<OpenRun> run = Open(options, Steps::kSingle, fmt::format("{:.0f}% {}: ", 100 * slots, name));
      if (!run && run.error().code != ErrorCode::kDoesNotFit) return run.error();
      if (run) {
        FRUGAL_ASSIGN(const EvalResult result, Evaluate(*run));
        point.traffic = result.traffic;
      }
      points.push_back(std::move(point));
    }
  }
  const uint64_t ffn_bytes = header_.model->ffn_bytes();
  return Print(FormatCurve(points, ffn_bytes), CurveToJson(points, ffn_bytes));
}

Status Eval(const EvalFlags& flags) {
  InstallInterruptHandler();
  Evaluator evaluator(flags);
  FRUGAL_TRY(evaluator.Prepare());
  if (flags.compare) return evaluator.RunComparison();
  return flags.curve ? evaluator.RunCurve() : evaluator.RunOnce();
}

}  // namespace

void AddEvalVerb(CLI::App& app, Exit& exit) {
  CLI::App* sub = app.add_subcommand("eval", "Measure perplexity, recall and traffic on a text");
  auto flags = std::make_shared<EvalFlags>();
  AddEngineFlags(*sub, flags->engine);
  sub->add_option("--text", flags->text_path,
                  "text file; a name ending in .xz is unpacked by the program xz");
  sub->add_option("--ids", flags->ids, "token ids instead of a text: 2,17,5");
  sub->add_option(
         "--story-separator", flags->separator,
         "a line that parts stories; each ends with one newline and gets the special tokens (</s> in front); "
         "\"\": the text is one story")
      ->capture_default_str();
  sub->add_option("--chunk", flags->piece,
                  "ids of a piece; pieces are independent of each other (default: 512, or all --ids)")
      ->check(CLI::Range(2, 1 << 20));
  sub->add_option("--tokens", flags->tokens, "only the first N ids of the text");
  sub->add_option("--skip", flags->skip, "count traffic and recall from this position of a piece on")
      ->capture_default_str();
  sub->add_flag("--token-by-token,--forced", flags->token_by_token,
                "one id per step, as in decoding, instead of batches");
  sub->add_option("--logits", flags->logits_path,
                  "write the float32 logits of every position to this .npy file");
  sub->add_flag("--compare", flags->compare,
                "run exactly and with the predictor (or with --sparsify): perplexity of both, and what is missed");
  sub->add_flag("--curve", flags->curve, "a table over slots and policies, token by token");
  sub->add_option("--trace", flags->trace_path,
                  "record the bundles that every token demands in this file (`frugal simulate`)");
  sub->add_flag("--json", flags->json, "print JSON");
  exit.RunAsCallback(*sub, [flags] { return Eval(*flags); });
}

}  // namespace frugal
