// frugal bench: the paper's ablation table, measured, as markdown on standard output and as JSON in a file.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "src/base/bytes.h"
#include "src/cli/ablation_report.h"
#include "src/cli/prefill.h"
#include "src/cli/profile_cache.h"
#include "src/cli/progress_bar.h"
#include "src/cli/text_pieces.h"
#include "src/cli/trace_file.h"
#include "src/cli/verbs.h"
#include "src/engine/early_choice.h"
#include "src/format/byte_source.h"

namespace frugal {
namespace {

constexpr const char* kDefaultPrompt = "Once upon a time";

struct BenchFlags {
  EngineFlags engine;
  std::string prompt = kDefaultPrompt;
  std::string ids, text_path, tokens_path, json_path, svg_path, trace_path, rows, sweep, layout_path;
  std::string separator = "<|story|>";
  uint32_t tokens = 128, warm_up = 32, prompt_tokens = 64, rounds = 3, prefill = 0;
  double seconds = 30;
};

// The ids of a text: its stories one after the other, the first `count`.
Result<std::vector<int32_t>> ReadTextIds(const BenchFlags& flags, const Tokenizer& tokenizer,
                                         uint32_t count) {
  const auto encode = [&tokenizer](const std::string& story) {
    return tokenizer.Encode(story, SpecialTokens::kAdd);
  };
  FRUGAL_ASSIGN(PieceReader reader,
                PieceReader::FromText(flags.text_path, flags.separator, encode, count, count));
  std::vector<int32_t> ids;
  FRUGAL_ASSIGN(const bool any, reader.Next(&ids));
  if (!any || ids.size() < count) {
    return MakeError(ErrorCode::kUsage,
                     "{}: has {} ids, {} are needed (--prompt-tokens, --warm-up and -n together)",
                     flags.text_path, ids.size(), count);
  }
  return ids;
}

// The first `count` ids of the file.
Result<std::vector<int32_t>> ReadTokensFile(const BenchFlags& flags, uint32_t count) {
  FRUGAL_ASSIGN(std::vector<int32_t> ids, ReadIdsFile(flags.tokens_path));
  if (ids.size() < count) {
    return MakeError(ErrorCode::kUsage, "{}: has {} ids, {} are needed (--prompt-tokens, --warm-up and -n together)",
                     flags.tokens_path, ids.size(), count);
  }
  ids.resize(count);
  return ids;
}

// A greedy continuation of a small model soon repeats itself, which would flatter the cache: it is sampled,
// by the seed.
Status Continue(Engine& engine, uint64_t seed, size_t count, std::vector<int32_t>* ids) {
  SamplerOptions options;
  options.seed = seed;
  Sampler sampler(options, engine.config().vocab_size);
  FRUGAL_ASSIGN(const std::unique_ptr<Session> session, engine.NewSession());
  FRUGAL_TRY(engine.Prefill(*session, *ids));
  for (size_t i = 0; i < count; ++i) {
    if (interrupted()) return Error{ErrorCode::kFailed, "interrupted"};
    ids->push_back(sampler.Sample(engine.logits(), *ids));
    if (i + 1 < count) FRUGAL_TRY(engine.Step(*session, {&ids->back(), 1}, 1));
  }
  return {};
}

Result<std::vector<int32_t>> PromptIds(const BenchFlags& flags, const Tokenizer* tokenizer) {
  if (!flags.ids.empty()) return ParseIds(flags.ids);
  if (tokenizer == nullptr) {
    return MakeError(ErrorCode::kUsage, "{}: has no tokenizer: give the prompt as --ids",
                     flags.engine.model_path);
  }
  return tokenizer->Encode(flags.prompt, SpecialTokens::kAdd);
}

// Opens an engine once, for the ids of all rows: with everything switched on, or with what there is in hybrid mode.
Result<AblationText> MakeText(const BenchFlags& flags, EngineOptions options, const TableParts& parts) {
  if (parts.selector == SelectorKind::kAll) options.mode = RunMode::kHybrid;
  FRUGAL_ASSIGN(const std::unique_ptr<Engine> engine, Engine::Open(options));
  PrintFirstLine(*engine);
  AblationText text;
  text.num_warm_up = flags.warm_up;
  text.seconds_per_round = flags.seconds;
  if (!flags.tokens_path.empty()) {
    text.num_prompt = flags.prompt_tokens;
    FRUGAL_ASSIGN(text.ids, ReadTokensFile(flags, flags.prompt_tokens + flags.warm_up + flags.tokens));
    return text;
  }
  if (!flags.text_path.empty()) {
    if (engine->tokenizer() == nullptr) {
      return MakeError(ErrorCode::kUsage, "{}: has no tokenizer: give --ids instead of --text",
                       options.model_path);
    }
    text.num_prompt = flags.prompt_tokens;
    FRUGAL_ASSIGN(text.ids, ReadTextIds(flags, *engine->tokenizer(),
                                        flags.prompt_tokens + flags.warm_up + flags.tokens));
    return text;
  }
  FRUGAL_ASSIGN(text.ids, PromptIds(flags, engine->tokenizer()));
  text.num_prompt = text.ids.size();
  const uint64_t total = text.num_prompt + flags.warm_up + flags.tokens;
  if (text.num_prompt == 0) return Error{ErrorCode::kUsage, "the prompt is empty"};
  if (total > engine->plan().context) {
    return MakeError(ErrorCode::kUsage,
                     "a prompt of {} ids, --warm-up {} and -n {} do not fit a context of {}", text.num_prompt,
                     flags.warm_up, flags.tokens, engine->plan().context);
  }
  FRUGAL_TRY(Continue(*engine, options.seed, flags.warm_up + flags.tokens, &text.ids));
  return text;
}

// "25%,50%": shares, by commas.
Result<std::vector<double>> ParseShares(const std::string& text) {
  std::vector<double> shares;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    FRUGAL_ASSIGN(const double share, ParseShare("--sweep", std::string_view(text).substr(begin, end - begin)));
    shares.push_back(share);
    begin = end + 1;
  }
  return shares;
}

// The rows to measure, with that of --layout behind the others.
Result<std::vector<AblationRow>> WantedRows(const BenchFlags& flags, const EngineOptions& options, const TableParts& parts) {
  if (!flags.sweep.empty()) {
    if (!flags.rows.empty() || !flags.layout_path.empty()) {
      return Error{ErrorCode::kUsage, "--sweep contradicts --rows and --layout"};
    }
    FRUGAL_ASSIGN(const std::vector<double> shares, ParseShares(flags.sweep));
    FRUGAL_ASSIGN(const auto model, OpenFileSource(options.model_path));
    return SweepRows(options, parts, shares, model->size_bytes());
  }
  std::vector<AblationRow> rows = AblationRows(options, parts);
  if (!flags.layout_path.empty()) {
    FRUGAL_ASSIGN(const ModelFile model, ModelFile::Open(options.model_path, options.activation));
    FRUGAL_TRY(model.RequireBundles());
    FRUGAL_ASSIGN(const ModelFile layout, ModelFile::Open(flags.layout_path));
    FRUGAL_TRY(layout.RequireBundles());
    FRUGAL_TRY(CheckSameShape(model, layout));
    rows.push_back(LayoutRow(options, parts, flags.layout_path));
  }
  bool early_pays = true;
  if (const std::optional<DeviceProfile> profile = FindProfile(options.model_path);
      profile && parts.early && flags.rows.find("flash") != std::string::npos) {
    FRUGAL_ASSIGN(const OpenedHeader header, OpenHeader(options));
    FRUGAL_ASSIGN(early_pays, EarlyPays(header, options, *profile));
  }
  return SelectRows(flags.rows, rows, early_pays);
}

// A run of its own, so that recording is in no measurement.
Status RecordTrace(const std::string& path, EngineOptions options, const AblationText& text) {
  FRUGAL_TRY(TraceFile::ReserveMemory(options));
  FRUGAL_ASSIGN(const std::unique_ptr<Engine> engine, Engine::Open(options));
  FRUGAL_ASSIGN(const std::unique_ptr<Session> session, engine->NewSession());
  FRUGAL_ASSIGN(const std::unique_ptr<TraceFile> trace, TraceFile::Start(path, *engine));
  for (size_t i = 0; i < text.ids.size(); ++i) {
    if (interrupted()) return Error{ErrorCode::kFailed, "interrupted"};
    FRUGAL_TRY(engine->Step(*session, std::span(text.ids).subspan(i, 1), 1));
  }
  return trace->Finish();
}

Result<EngineOptions> ResolveBenchFlags(const BenchFlags& flags) {
  if (int{!flags.ids.empty()} + int{!flags.text_path.empty()} + int{!flags.tokens_path.empty()} > 1)
    return Error{ErrorCode::kUsage, "--ids, --text and --tokens-file contradict each other"};
  FRUGAL_ASSIGN(EngineOptions options, ResolveEngineFlags(flags.engine));
  if (options.mode != RunMode::kFlash || !options.predictor || !options.window || !options.bundling ||
      !options.overlap || !options.early) {
    return Error{
        ErrorCode::kUsage,
        "bench switches mode, predictor, window, bundling, overlap and early prediction itself: leave those flags out"};
  }
  FRUGAL_ASSIGN(const ModelFile model, ModelFile::Open(options.model_path, options.activation));
  if (!flags.trace_path.empty()) FRUGAL_TRY(model.RequireBundles());
  const uint32_t most = model.config().max_context;
  if ((!flags.text_path.empty() || !flags.tokens_path.empty()) && options.context == 0) {
    // No more context than is used: the rest of the budget is for weights.
    options.context = flags.prompt_tokens + flags.warm_up + flags.tokens;
    if (options.context > most) {
      return MakeError(ErrorCode::kUsage,
                       "--prompt-tokens {}, --warm-up {} and -n {} are above the model's context of {}",
                       flags.prompt_tokens, flags.warm_up, flags.tokens, most);
    }
  }
  return options;
}

// Why there are fewer rows than a person may expect.
void PrintNote(const std::string& path, const TableParts& parts) {
  if (parts.selector != SelectorKind::kAll) return;
  const char* const why = parts.has_bundles ? "no neurons are selected in this budget (`frugal train` makes predictors)"
                                            : "its FFN lies in matrices, which are streamed whole";
  fmt::print(stderr, "{}: rows of naive and hybrid mode alone: {}\n", path, why);
}

// The rows of the tables, wanted and measured.
struct BenchRows {
  std::vector<AblationRow> wanted;
  std::vector<std::optional<DeviceProfile>> profiles;  // of each: another layout may lie on another device
  std::vector<RowMeasurement> measured;
  std::vector<PrefillRow> prefill_wanted;
  std::vector<PrefillMeasurement> prefill;
};

Result<BenchRows> ListRows(const BenchFlags& flags, const EngineOptions& options, const TableParts& parts) {
  BenchRows rows;
  FRUGAL_ASSIGN(rows.wanted, WantedRows(flags, options, parts));
  for (const AblationRow& row : rows.wanted) rows.profiles.push_back(FindProfile(row.options.model_path));
  rows.measured.resize(rows.wanted.size());
  if (flags.prefill > 0) rows.prefill_wanted = PrefillRows(options, parts.selector, flags.prefill);
  rows.prefill.resize(rows.prefill_wanted.size());
  return rows;
}

Status MeasureRound(const BenchFlags& flags, uint32_t round, const AblationText& text, ProgressBar& bar, BenchRows& rows) {
  const size_t num_rows = rows.wanted.size();
  for (size_t i = 0; i < num_rows; ++i) {
    RowMeasurement& row = rows.measured[i];
    bar.Update(static_cast<double>(round * num_rows + i) / static_cast<double>(flags.rounds * num_rows),
               fmt::format("round {}, {}", round + 1, rows.wanted[i].name));
    if (!row.refusal.empty()) continue;
    FRUGAL_TRY(MeasureRow(rows.wanted[i], text, rows.profiles[i] ? &*rows.profiles[i] : nullptr, &row));
    if (!row.refusal.empty()) continue;
    bar.Note(fmt::format("round {} of {}, {}: median of {} tokens {:.1f} ms, of the bare loop {:.1f} ms", round + 1, flags.rounds, row.name,
                         row.token_ms.size(), row.total_ms(0.5), row.bare_ms(0.5)));
  }
  for (size_t i = 0; i < rows.prefill.size(); ++i) {
    if (!rows.prefill[i].refusal.empty()) continue;
    bar.Update(static_cast<double>(round + 1) / flags.rounds, fmt::format("round {}, prompt, {}", round + 1, rows.prefill_wanted[i].name));
    FRUGAL_TRY(MeasurePrefill(rows.prefill_wanted[i], std::span(text.ids).first(flags.prefill), &rows.prefill[i]));
  }
  return {};
}

Status WriteReports(const BenchFlags& flags, const EngineOptions& options, const AblationText& text, const BenchRows& rows) {
  const size_t measured = text.ids.size() - text.num_prompt - text.num_warm_up;
  const std::optional<DeviceProfile> profile = FindProfile(options.model_path);
  const std::string device = profile ? profile->device_name : "not measured: run `frugal probe`";
  if (!flags.json_path.empty()) {
    nlohmann::ordered_json json = {{"model", options.model_path},     {"ram_bytes", options.ram_bytes},
                                   {"threads", options.num_threads},  {"prompt_ids", text.num_prompt},
                                   {"warm_up_ids", text.num_warm_up}, {"measured_ids", measured},
                                   {"rounds", flags.rounds},          {"device", device}};
    json["rows"] = AblationToJson(rows.measured);
    json.update(FindingsToJson(rows.measured));
    if (!rows.prefill.empty()) json["prefill"] = PrefillToJson(rows.prefill);
    FRUGAL_TRY(WriteTextFile(flags.json_path, json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n"));
  }
  const bool sweep = !flags.sweep.empty();
  if (!flags.svg_path.empty()) {
    const std::string budget = sweep ? "" : " within " + FormatSize(options.ram_bytes);
    const std::string model = std::filesystem::path(options.model_path).filename().string();
    const std::string title = fmt::format("{}{}, {} threads: ms per token", model, budget, options.num_threads);
    FRUGAL_TRY(WriteTextFile(flags.svg_path, sweep ? DrawSweep(rows.measured, title) : DrawAblation(rows.measured, title)));
  }
  std::string report =
      fmt::format("{}, --ram {}, {} threads; {} rounds of at most {} forced tokens after a prompt of {} and {} to warm up; device: {}\n\n",
                  options.model_path, sweep ? "as in the rows" : FormatSize(options.ram_bytes), options.num_threads, flags.rounds, measured,
                  text.num_prompt, text.num_warm_up, device);
  report += FormatAblation(rows.measured);
  if (!rows.prefill.empty()) report += "\n" + FormatPrefill(rows.prefill);
  // By the model's name without folder and ending.
  report += FormatFindings(rows.measured, std::filesystem::path(options.model_path).stem().string());
  StandardOutput out;
  return out.Print(report);
}

Status Bench(const BenchFlags& flags) {
  InstallInterruptHandler();
  FRUGAL_ASSIGN(const EngineOptions options, ResolveBenchFlags(flags));
  FRUGAL_ASSIGN(const TableParts parts, FindTableParts(options));
  PrintNote(options.model_path, parts);
  FRUGAL_ASSIGN(BenchRows rows, ListRows(flags, options, parts));
  FRUGAL_ASSIGN(const AblationText text, MakeText(flags, options, parts));
  if (text.ids.size() < flags.prefill) {
    return MakeError(ErrorCode::kUsage, "--prefill {}: prompt, --warm-up and -n have {} ids together", flags.prefill, text.ids.size());
  }
  ProgressBar bar("measuring");
  Status measured_all;
  for (uint32_t round = 0; measured_all && round < flags.rounds; ++round) measured_all = MeasureRound(flags, round, text, bar, rows);
  bar.Finish();
  // Rows that were measured before an interruption or an error are not lost.
  std::erase_if(rows.measured, [](const RowMeasurement& row) { return row.refusal.empty() && row.traffic.num_tokens == 0; });
  std::erase_if(rows.prefill, [](const PrefillMeasurement& row) { return row.refusal.empty() && row.prompt_ms.empty(); });
  if (!measured_all && rows.measured.empty()) return measured_all;
  if (measured_all && !flags.trace_path.empty()) FRUGAL_TRY(RecordTrace(flags.trace_path, options, text));
  FRUGAL_TRY(WriteReports(flags, options, text, rows));
  return measured_all;
}

}  // namespace

void AddBenchVerb(CLI::App& app, Exit& exit) {
  CLI::App* sub = app.add_subcommand(
      "bench", "Measure the paper's tables: naive, hybrid, + predictor, + window, + bundling, + overlap, + early prediction");
  auto flags = std::make_shared<BenchFlags>();
  AddEngineFlags(*sub, flags->engine);
  sub->add_option("-n,--tokens", flags->tokens, "tokens that are measured")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  sub->add_option("-p,--prompt", flags->prompt,
                  "prompt; what follows it is sampled once and forced for every row")
      ->capture_default_str();
  sub->add_option("--ids,--prompt-ids", flags->ids, "the prompt as token ids: 2,17,5");
  sub->add_option("--text", flags->text_path,
                  "take prompt and tokens from this text (.xz through the program xz)");
  sub->add_option("--story-separator", flags->separator, "as for eval")->capture_default_str();
  sub->add_option("--prompt-tokens", flags->prompt_tokens, "ids of --text or --tokens-file that are the prompt")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  sub->add_option("--warm-up", flags->warm_up, "decoded tokens that are not measured, for at most --row-seconds")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  sub->add_option("--tokens-file", flags->tokens_path, "take prompt and tokens from this file of token ids");
  sub->add_option("--row-seconds", flags->seconds, "a round of a row ends after this time, when 4 tokens are measured")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  sub->add_option("--rounds,--repeat", flags->rounds, "rounds of all rows")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  sub->add_option(
      "--rows", flags->rows,
      "only these rows, by commas: naive, hybrid, predictor (or gate, sketch), window, bundling, overlap, early, layout; flash: "
      "the last one that the model has, without early prediction where `run` does without");
  sub->add_option(
      "--layout", flags->layout_path,
      "the same model with its neurons in another order (`frugal pack --calibrate`), as one more row");
  sub->add_option("--prefill", flags->prefill, "also measure reading in a prompt of so many of the ids, and the time to the first token")
      ->check(CLI::Range(2, 1 << 20));
  sub->add_option("--sweep", flags->sweep,
                  "instead of the table's rows: everything switched on, within these shares of the model's file (25%,50%,75%)");
  sub->add_option("--json", flags->json_path, "write JSON to this file");
  sub->add_option("--svg", flags->svg_path, "draw the rows into this file");
  sub->add_option("--trace", flags->trace_path,
                  "record the bundles that every token demands in this file (`frugal simulate`)");
  exit.RunAsCallback(*sub, [flags] { return Bench(*flags); });
}

}  // namespace frugal
