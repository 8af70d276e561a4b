// frugal run MODEL [PROMPT]: streams a continuation, then says what it cost.
#include <fmt/format.h>

#include <fstream>

#include "src/base/clock.h"
#include "src/cli/profile_cache.h"
#include "src/cli/run_report.h"
#include "src/cli/trace_file.h"
#include "src/cli/verbs.h"
#include "src/engine/process_memory.h"

namespace frugal {
namespace {

// /proc is read once in so many tokens: often enough for a peak that grows slowly, too seldom to be seen in
// the speed.
constexpr uint64_t kTokensPerMemorySample = 16;

struct RunFlags {
  EngineFlags engine;
  SamplerOptions sampler;
  std::string prompt;
  CLI::Option* prompt_option = nullptr;
  std::string ids;
  int64_t num_tokens = -1;  // -1: until the end of text or until the context is full
  bool print_ids = false;
  bool ignore_eos = false;
  bool json = false;
  std::string stats_path, trace_path;
};

// What goes to standard output: text as soon as its characters are whole, or ids.
class TokenPrinter {
 public:
  TokenPrinter(const Tokenizer* tokenizer, bool print_ids) : tokenizer_(print_ids ? nullptr : tokenizer) {}

  Status PrintText(std::string_view text) { return output_.Print(text); }
  Status PrintToken(int32_t id) {
    if (tokenizer_ == nullptr) {
      const std::string text = fmt::format("{}{}", first_ ? "" : ",", id);
      first_ = false;
      return output_.Print(text);
    }
    if (tokenizer_->IsSpecial(id)) return {};
    return output_.Print(utf8_.Push(tokenizer_->TokenBytes(id)));
  }
  Status Finish() { return output_.Print(utf8_.Flush() + "\n"); }
  bool closed() const { return output_.closed(); }
  bool prints_ids() const { return tokenizer_ == nullptr; }

 private:
  const Tokenizer* tokenizer_;
  StandardOutput output_;
  Utf8Stream utf8_;
  bool first_ = true;
};

class Run {
 public:
  Run(const RunFlags& flags, Engine& engine)
      : flags_(flags),
        engine_(engine),
        printer_(engine.tokenizer(), flags.print_ids),
        memory_(engine.weights().backend_name() == "io_uring" ? 1 : 0) {}

  Status Do(uint64_t load_ns);

 private:
  Status ReadPrompt();
  Result<std::string> PromptText(uint64_t max_bytes) const;
  Status Prefill(Session& session);
  Status Decode(Session& session);
  Status WriteReport();

  const RunFlags& flags_;
  Engine& engine_;
  TokenPrinter printer_;
  ProcessMemory memory_;
  std::string prompt_text_;
  std::vector<int32_t> tokens_;  // prompt, then what was generated
  RunReport report_;
};

Result<std::string> Run::PromptText(uint64_t max_bytes) const {
  if (flags_.prompt_option->count() > 0 && flags_.prompt != "-") return flags_.prompt;
  if (flags_.prompt_option->count() == 0 && !StandardInputIsPiped()) {
    return Error{ErrorCode::kUsage, "no prompt: give it with -p, as token ids with --ids, or pipe it in"};
  }
  FRUGAL_ASSIGN(std::string text, ReadStandardInput(max_bytes));
  // `echo` puts a newline there that nobody means.
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

Status Run::ReadPrompt() {
  const uint32_t context = engine_.plan().context;
  const Tokenizer* tokenizer = engine_.tokenizer();
  if (!flags_.ids.empty()) {
    FRUGAL_ASSIGN(tokens_, ParseIds(flags_.ids));
    if (tokenizer != nullptr) prompt_text_ = tokenizer->Decode(tokens_, ShowSpecial::kSkip);
  } else if (tokenizer == nullptr) {
    return MakeError(ErrorCode::kUsage, "{} has no tokenizer: give the prompt as token ids with --ids",
                     engine_.model().path());
  } else {
    // A longer text cannot fit: refusing it here keeps a huge one out of the budget.
    const uint64_t max_bytes = uint64_t{context} * tokenizer->max_token_bytes();
    FRUGAL_ASSIGN(prompt_text_, PromptText(max_bytes));
    if (prompt_text_.size() > max_bytes) {
      return MakeError(ErrorCode::kUsage,
                       "the prompt has {} bytes, at least {} tokens: the context has {} (-c)",
                       prompt_text_.size(), prompt_text_.size() / tokenizer->max_token_bytes(), context);
    }
    FRUGAL_ASSIGN(tokens_, tokenizer->Encode(prompt_text_, SpecialTokens::kAdd));
  }
  if (tokens_.empty()) return Error{ErrorCode::kUsage, "the prompt is empty"};
  if (tokens_.size() > context) {
    return MakeError(ErrorCode::kUsage, "the prompt has {} tokens: the context has {} (-c)", tokens_.size(),
                     context);
  }
  return {};
}

Status Run::Prefill(Session& session) {
  std::span<const int32_t> left = tokens_;
  while (!left.empty() && !interrupted()) {
    const size_t count = std::min<size_t>(left.size(), engine_.plan().max_rows);
    FRUGAL_TRY(engine_.Prefill(session, left.first(count)));
    left = left.subspan(count);
    FRUGAL_TRY(memory_.Sample());
  }
  return {};
}

Status Run::Decode(Session& session) {
  Sampler sampler(flags_.sampler, engine_.config().vocab_size);
  const uint64_t wanted = flags_.num_tokens < 0 ? ~uint64_t{0} : static_cast<uint64_t>(flags_.num_tokens);
  const auto stop = [&](StopReason reason) {
    report_.stop = reason;
    return Status();
  };
  while (true) {
    if (interrupted()) return stop(StopReason::kInterrupted);
    if (report_.num_generated >= wanted) return stop(StopReason::kTokenLimit);
    const int32_t id = sampler.Sample(engine_.logits(), tokens_);
    tokens_.push_back(id);
    ++report_.num_generated;
    FRUGAL_TRY(printer_.PrintToken(id));
    if (printer_.closed()) return stop(StopReason::kOutputClosed);
    if (id == engine_.config().eos_id && !flags_.ignore_eos) return stop(StopReason::kEndOfText);
    if (report_.num_generated >= wanted) return stop(StopReason::kTokenLimit);
    if (session.position() == session.max_context()) return stop(StopReason::kContextFull);
    FRUGAL_TRY(engine_.Step(session, std::span(&tokens_.back(), 1), 1));
    if (report_.num_generated % kTokensPerMemorySample == 0) FRUGAL_TRY(memory_.Sample());
  }
}

Status Run::WriteReport() {
  if (flags_.json) {
    fmt::print(stderr, "{}\n", RunReportJson(report_).dump(2));
  } else {
    fmt::print(stderr, "\n{}", FormatRunReport(report_));
  }
  if (flags_.stats_path.empty()) return {};
  std::ofstream file(flags_.stats_path);
  file << RunReportJson(report_).dump(2) << "\n";
  file.close();
  if (!file) return MakeError(ErrorCode::kIo, "--stats {}: it cannot be written", flags_.stats_path);
  return {};
}

Status Run::Do(uint64_t load_ns) {
  PrintFirstLine(engine_);
  FRUGAL_TRY(memory_.Sample());
  FRUGAL_TRY(ReadPrompt());
  tokens_.reserve(engine_.plan().context + 1);
  FRUGAL_ASSIGN(const std::unique_ptr<Session> session, engine_.NewSession());
  if (!printer_.prints_ids()) FRUGAL_TRY(printer_.PrintText(prompt_text_));
  std::unique_ptr<TraceFile> trace;
  if (!flags_.trace_path.empty()) {
    FRUGAL_ASSIGN(trace, TraceFile::Start(flags_.trace_path, engine_));
  }
  const EngineStatistics opened = engine_.statistics();
  FRUGAL_TRY(Prefill(*session));
  const EngineStatistics prefilled = engine_.statistics();
  FRUGAL_TRY(Decode(*session));
  const EngineStatistics decoded = engine_.statistics();
  FRUGAL_TRY(printer_.Finish());
  if (trace != nullptr) FRUGAL_TRY(trace->Finish());
  FRUGAL_TRY(memory_.Sample());

  const EnginePlan& plan = engine_.plan();
  if (report_.stop == StopReason::kContextFull) {
    fmt::print(stderr, "stopped: the context of {} tokens is full (-c)\n", plan.context);
  }
  report_.mode = RunModeName(engine_.options().mode);
  report_.description = engine_.Describe();
  report_.ram_bytes = plan.ram_bytes;
  report_.planned_bytes = plan.peak_bytes();
  report_.peak_bytes = memory_.peak_bytes();
  report_.context = plan.context;
  report_.context_reduced = plan.context_reduced;
  report_.num_threads = plan.num_threads;
  report_.seed = flags_.engine.seed;
  report_.load_ns = load_ns;
  report_.prompt = ReportPhase(opened, prefilled);
  report_.decode = ReportPhase(prefilled, decoded);
  report_.exact = engine_.is_exact();
  report_.recall = decoded.recall;
  if (engine_.thresholds() != nullptr) report_.thresholds = *engine_.thresholds();
  report_.activation = ActivationName(engine_.config().activation);
  report_.active_share = decoded.active_share;
  if (const std::optional<DeviceProfile> profile = FindProfile(engine_.model().path())) {
    report_.flash_bound_ms = report_.decode.FlashBoundMs(*profile, engine_.weights().bundles_on_demand());
  }
  return WriteReport();
}

Status RunModel(RunFlags& flags) {
  flags.sampler.seed = flags.engine.seed;
  FRUGAL_TRY(ValidateSamplerOptions(flags.sampler));
  if (!flags.ids.empty() && flags.prompt_option->count() > 0) {
    return Error{ErrorCode::kUsage, "--ids and a prompt contradict each other"};
  }
  FRUGAL_ASSIGN(EngineOptions options, ResolveEngineFlags(flags.engine));
  FRUGAL_TRY(ChooseMode(flags.engine, &options));
  if (!flags.trace_path.empty()) FRUGAL_TRY(TraceFile::ReserveMemory(options));
  InstallInterruptHandler();
  const uint64_t start = NowNs();
  FRUGAL_ASSIGN(const std::unique_ptr<Engine> engine, Engine::Open(options));
  return Run(flags, *engine).Do(NowNs() - start);
}

}  // namespace

void AddRunVerb(CLI::App& app, Exit& exit) {
  CLI::App& sub = *app.add_subcommand("run", "Continues a prompt, streaming the text as it is made");
  const auto flags = std::make_shared<RunFlags>();
  AddEngineFlags(sub, flags->engine);
  flags->prompt_option = sub.add_option("prompt,-p,--prompt", flags->prompt,
                                        "the prompt; - or none with a pipe: standard input");
  sub.add_option("--ids", flags->ids, "the prompt as token ids: 2,17,5");
  sub.add_option("-n,--n-predict", flags->num_tokens,
                 "tokens to make (default: until the end of text or of the context)")
      ->check(CLI::Range(int64_t{-1}, int64_t{1} << 40));
  sub.add_option("--temp", flags->sampler.temperature, "temperature; 0 takes the likeliest token")
      ->capture_default_str();
  sub.add_option("--top-k", flags->sampler.top_k, "only the K likeliest tokens; 0: all")
      ->capture_default_str();
  sub.add_option("--top-p", flags->sampler.top_p, "only the likeliest tokens that make P together; 1: all")
      ->capture_default_str();
  sub.add_option("--min-p", flags->sampler.min_p,
                 "only tokens at least P times as likely as the likeliest; 0: all")
      ->capture_default_str();
  sub.add_option("--repeat-penalty", flags->sampler.repeat_penalty, "penalty of repeated tokens; 1: none")
      ->capture_default_str();
  sub.add_flag("--print-ids", flags->print_ids, "print the ids that were made instead of text");
  sub.add_flag("--ignore-eos", flags->ignore_eos, "go on behind the end of text");
  sub.add_flag("--json", flags->json, "statistics as JSON on standard error");
  sub.add_option("--stats", flags->stats_path, "statistics as JSON into this file too");
  sub.add_option("--trace", flags->trace_path,
                 "record the bundles that every token demands in this file (`frugal simulate`)");
  exit.RunAsCallback(sub, [flags] { return RunModel(*flags); });
}

}  // namespace frugal
