#include "src/cli/ablation.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "src/base/bytes.h"
#include "src/base/clock.h"
#include "src/cli/common.h"
#include "src/cli/evaluation.h"
#include "src/engine/expectation.h"
#include "src/engine/streaming_choice.h"

namespace frugal {
namespace {

// Tokens on which the recall is sampled, one layer each.
constexpr size_t kRecallTokens = 64;
constexpr uint64_t kMostRecordingBytes = 4 * kMiB;

double PerToken(uint64_t value, const PhaseReport& traffic) {
  return traffic.num_tokens == 0 ? 0.0 : static_cast<double>(value) / static_cast<double>(traffic.num_tokens);
}

// An observer turns off the engine's own sampling, whose reads would be counted.
Status ForcedStep(Engine& engine, Session& session, int32_t id, bool sampled) {
  const auto observe = [](const LayerObservation&) -> Status { return {}; };
  const LayerObserver observer(observe);
  return engine.Step(session, {&id, 1}, 1, sampled ? nullptr : &observer);
}

Status CheckInterrupt() {
  if (interrupted()) return Error{ErrorCode::kFailed, "interrupted"};
  return {};
}

// Reads that the block device under the file has completed since it was there; nothing where the system does not say.
std::optional<uint64_t> DeviceReads(const std::string& path) {
  struct stat info;
  if (stat(path.c_str(), &info) != 0) return std::nullopt;
  std::ifstream file(fmt::format("/sys/dev/block/{}:{}/stat", major(info.st_dev), minor(info.st_dev)));
  uint64_t reads = 0;
  if (!(file >> reads)) return std::nullopt;
  return reads;
}

Result<Expectation> Expect(const Engine& engine, const EngineOptions& options, const DeviceProfile* profile) {
  NeuronUse use = AllNeuronsUsed(engine.config());
  if (engine.has_predictor()) {
    const std::string path =
        options.predictor_path.empty() ? DefaultPredictorPath(options.model_path) : options.predictor_path;
    FRUGAL_ASSIGN(const PredictorInfo info, PredictorFile::Inspect(path, engine.config()));
    FRUGAL_ASSIGN(use, LoadNeuronUse(info, engine.config()));
  }
  if (engine.thresholds() != nullptr) use = NeuronsLeft(engine.config(), *engine.thresholds());
  return ExpectDecode(engine.model(), engine.plan(), use, profile);
}

Status MeasureTokens(Engine& engine, Session& session, const AblationText& text, ReadRecording& recording, RowMeasurement* row) {
  size_t begin = text.num_prompt + text.num_warm_up;
  const uint64_t budget_ns = static_cast<uint64_t>(text.seconds_per_round * 1e9);
  // The warm-up fills the slots. A mode without them takes the same ids with the prompt, in batches.
  const size_t num_prefilled = engine.weights().bundles_on_demand() ? text.num_prompt : std::max(text.num_prompt, begin - 1);
  FRUGAL_TRY(engine.Prefill(session, std::span(text.ids).first(num_prefilled)));
  // Where a token takes seconds, there are few slots to fill.
  const uint64_t warm_up_start_ns = NowNs();
  for (size_t i = num_prefilled; i < begin; ++i) {
    FRUGAL_TRY(CheckInterrupt());
    FRUGAL_TRY(ForcedStep(engine, session, text.ids[i], false));
    if (i >= text.num_prompt && NowNs() - warm_up_start_ns > budget_ns) begin = i + 1;
  }
  const EngineStatistics before = engine.statistics();
  const std::optional<uint64_t> device_before = DeviceReads(engine.options().model_path);
  recording.Start();
  const uint64_t round_start_ns = NowNs();
  size_t end = begin;
  while (end < text.ids.size() && (end - begin < AblationText::kLeastTokens || NowNs() - round_start_ns < budget_ns)) {
    FRUGAL_TRY(CheckInterrupt());
    const uint64_t start_ns = NowNs();
    FRUGAL_TRY(ForcedStep(engine, session, text.ids[end++], false));
    row->token_ms.push_back(static_cast<double>(NowNs() - start_ns) / 1e6);
    recording.EndGroup();
  }
  recording.EndRecording();
  const std::optional<uint64_t> device_after = DeviceReads(engine.options().model_path);
  AddPhase(ReportPhase(before, engine.statistics()), &row->traffic);
  if (device_before && device_after) row->device_reads = row->device_reads.value_or(0) + *device_after - *device_before;
  if (!engine.has_predictor() || row->recall >= 0) return {};
  session.Rewind(static_cast<uint32_t>(begin));
  engine.ResetRecall();
  end = std::min(end, begin + kRecallTokens);
  for (size_t i = begin; i < end; ++i) FRUGAL_TRY(ForcedStep(engine, session, text.ids[i], true));
  row->recall = engine.statistics().recall;
  return {};
}

}  // namespace

std::vector<AblationRow> AblationRows(const EngineOptions& base) {
  std::vector<AblationRow> rows;
  EngineOptions options = base;
  options.logit_rows = 1;
  options.sample_recall_every = 1;
  options.overlap = true;
  options.sparsify = false;  // they compute with all neurons
  options.mode = RunMode::kNaive;
  rows.push_back({"naive", "naive", options});
  options.mode = RunMode::kHybrid;
  rows.push_back({"hybrid", "hybrid", options});
  options.sparsify = base.sparsify;
  options.mode = RunMode::kFlash;
  options.predictor = true;
  options.window = options.bundling = options.overlap = options.early = false;
  const std::optional<uint32_t> window_tokens = options.window_tokens;
  options.window_tokens.reset();
  rows.push_back({"predictor", options.sparsify ? "+ thresholds" : "+ predictor", options});
  options.window = true;
  options.window_tokens = window_tokens;
  rows.push_back({"window", "+ window", options});
  options.bundling = true;
  rows.push_back({"bundling", "+ bundling", options});
  options.overlap = true;
  rows.push_back({"overlap", "+ overlap", options});
  if (options.sparsify) return rows;
  options.early = true;
  rows.push_back({"early", "+ early prediction", options});
  return rows;
}

std::vector<AblationRow> SweepRows(const EngineOptions& base, std::span<const double> shares, uint64_t file_bytes) {
  const AblationRow all = AblationRows(base).back();
  std::vector<AblationRow> rows;
  for (const double share : shares) {
    AblationRow row = all;
    row.key = row.name = fmt::format("{:g}%", 100 * share);
    row.options.ram_bytes = static_cast<uint64_t>(share * static_cast<double>(file_bytes));
    rows.push_back(std::move(row));
  }
  return rows;
}

AblationRow LayoutRow(const EngineOptions& base, const std::string& layout_path) {
  AblationRow row = AblationRows(base).back();
  row.key = "layout";
  row.name = "+ layout";
  row.options.model_path = layout_path;
  row.options.predictor_path.clear();
  row.options.sparsify_path.clear();
  return row;
}

Status CheckSameShape(const ModelFile& model, const ModelFile& layout) {
  const auto check = [&](const char* what, const auto& expected, const auto& found) -> Status {
    if (expected == found) return {};
    return MakeError(ErrorCode::kUsage,
                     "--layout: {}: its {} is {}, that of {} is {}: it is no other order of the same model",
                     layout.path(), what, found, model.path(), expected);
  };
  const ModelConfig &a = model.config(), &b = layout.config();
  FRUGAL_TRY(check("num_layers", a.num_layers, b.num_layers));
  FRUGAL_TRY(check("hidden_size", a.hidden_size, b.hidden_size));
  FRUGAL_TRY(check("ffn_size", a.ffn_size, b.ffn_size));
  FRUGAL_TRY(check("embedding_size", a.embedding_size, b.embedding_size));
  FRUGAL_TRY(check("num_heads", a.num_heads, b.num_heads));
  FRUGAL_TRY(check("vocab_size", a.vocab_size, b.vocab_size));
  FRUGAL_TRY(check("max_context", a.max_context, b.max_context));
  for (uint32_t layer = 0; layer < a.num_layers; ++layer) {
    const BundleInfo &bundle = model.bundles()[layer], &other = layout.bundles()[layer];
    FRUGAL_TRY(check("stride of a bundle", bundle.stride_bytes, other.stride_bytes));
    FRUGAL_TRY(check("type of up rows", DTypeName(bundle.up_type), DTypeName(other.up_type)));
    FRUGAL_TRY(check("type of down rows", DTypeName(bundle.down_type), DTypeName(other.down_type)));
  }
  return {};
}

double RowMeasurement::total_ms(double share) const { return Percentile(token_ms, share); }
double RowMeasurement::io_ms() const { return PerToken(traffic.busy_ns, traffic) / 1e6; }
double RowMeasurement::stall_ms() const { return PerToken(traffic.stall_ns, traffic) / 1e6; }
double RowMeasurement::compute_ms() const { return traffic.ms_per_token() - stall_ms(); }
double RowMeasurement::bare_ms(double share) const { return Percentile(bare.together_ms, share); }
double RowMeasurement::bound_ms() const {
  return std::max(Percentile(bare.reads_ms, 0.5), Percentile(bare.memory_ms, 0.5));
}

Status MeasureRow(const AblationRow& wanted, const AblationText& text, const DeviceProfile* profile,
                  RowMeasurement* row) {
  CHECK(text.num_prompt >= 1 && text.num_prompt + text.num_warm_up < text.ids.size());
  row->name = wanted.name;
  EngineOptions options = wanted.options;
  // The recording's memory comes out of the budget, and so does that of the expectation.
  const uint64_t ram_bytes = row->ram_bytes = options.ram_bytes;
  const uint64_t recording_bytes = ram_bytes == 0 ? kMostRecordingBytes : std::min(kMostRecordingBytes, ram_bytes / 64);
  ReadRecording recording(recording_bytes / sizeof(ReadRecord));
  if (ram_bytes > 0) {
    FRUGAL_ASSIGN(const ModelFile model, ModelFile::Open(options.model_path, options.activation));
    const uint64_t use_bytes = uint64_t{model.config().num_layers} * model.config().ffn_size * 2 * sizeof(float);
    options.ram_bytes = LeftOfBudget(ram_bytes, recording_bytes + use_bytes);
  }
  options.decorate_reader = [&recording](std::unique_ptr<ExtentReader> inner) {
    return MakeRecordingReader(std::move(inner), recording);
  };
  uint32_t queue_depth = 0;
  {
    Result<std::unique_ptr<Engine>> engine = Engine::Open(options);
    if (!engine && engine.error().code == ErrorCode::kDoesNotFit) {
      row->refusal = engine.error().message;
      return {};
    }
    if (!engine) return engine.error();
    row->description = (*engine)->Describe();
    row->planned_bytes = (*engine)->plan().peak_bytes();
    if ((*engine)->thresholds() != nullptr) row->left_out_share = static_cast<double>((*engine)->thresholds()->share);
    queue_depth = (*engine)->plan().weights_options.queue_depth;
    FRUGAL_ASSIGN(const Expectation expectation, Expect(**engine, wanted.options, profile));
    row->touched_bytes_per_token = expectation.touched_bytes;
    row->expected_ms = 1e3 * expectation.token_seconds.value_or(0);
    row->expected_bytes_per_token = expectation.read_bytes();
    FRUGAL_ASSIGN(const std::unique_ptr<Session> session, (*engine)->NewSession());
    const size_t tokens_before = row->token_ms.size();
    FRUGAL_TRY(MeasureTokens(**engine, *session, text, recording, row));
    if ((*engine)->weights().bundles_on_demand()) {
      // As many bundles as were used, where the plan has a guess.
      const double used = PerToken(row->traffic.num_hits + row->traffic.num_late_hits + row->traffic.num_misses, row->traffic);
      row->touched_bytes_per_token += (used - expectation.bundles_used) * static_cast<double>((*engine)->model().bundles()[0].down_offset_bytes);
    }
    // As much of the KV cache as lay behind the measured tokens, where the plan has half of it.
    const EnginePlan& plan = (*engine)->plan();
    const double tokens = static_cast<double>(row->token_ms.size() - tokens_before);
    const double filled = (static_cast<double>(text.num_prompt + text.num_warm_up) + tokens / 2) / plan.context;
    row->touched_bytes_per_token += (filled - 0.5) * static_cast<double>(plan.ledger.line_bytes("KV cache"));
  }
  BareLoopInput bare;
  bare.options = &options;
  bare.recording = &recording;
  bare.touched_bytes = static_cast<uint64_t>(row->touched_bytes_per_token);
  bare.queue_depth = queue_depth;
  return RunBareLoop(bare, &row->bare);
}

double Percentile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  const double rank = std::ceil(share * static_cast<double>(values.size()));
  const size_t index = std::min(values.size() - 1, static_cast<size_t>(std::max(1.0, rank)) - 1);
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(index), values.end());
  return values[index];
}

std::string FormatGain(std::span<const RowMeasurement> rows) {
  const auto hybrid = std::find_if(rows.begin(), rows.end(), [](const RowMeasurement& row) { return row.name == "hybrid"; });
  if (hybrid == rows.end() || hybrid == rows.end() - 1) return "";
  const RowMeasurement& flash = rows.back();
  const auto median_reads = [](const RowMeasurement& row) { return Percentile(row.bare.reads_ms, 0.5); };
  if (!hybrid->refusal.empty() || !flash.refusal.empty() || flash.total_ms(0.5) <= 0 || median_reads(flash) <= 0) return "";
  const double measured = hybrid->total_ms(0.5) / flash.total_ms(0.5);
  const double allowed = hybrid->bare_ms(0.5) / flash.bare_ms(0.5);
  const double by_reads = median_reads(*hybrid) / median_reads(flash);
  std::string text = fmt::format("\n{} against hybrid: {:.2f} times; their bare loops: {:.2f} times ({:.2f} of it), reads alone {:.2f} times",
                                 flash.name, measured, allowed, measured / allowed, by_reads);
  if (by_reads < kLeastGainOfSelecting) text += fmt::format("; below {}: streaming all neurons is the better choice", kLeastGainOfSelecting);
  return text + "\n";
}

std::string FormatAblation(std::span<const RowMeasurement> rows) {
  std::string text =
      "| | RAM | read per token | GB/s | reads per token | the device's count | recall |\n|---|---:|---:|---:|---:|---:|---:|\n";
  for (const RowMeasurement& row : rows) {
    if (!row.refusal.empty()) {
      text += fmt::format("| {} | does not fit the budget | | | | | |\n", row.name);
      continue;
    }
    const PhaseReport& traffic = row.traffic;
    text += fmt::format("| {} | {} | {} | {:.3f} | {:.1f} | {} | {} |\n", row.name, FormatSize(row.planned_bytes),
                        FormatSize(static_cast<uint64_t>(traffic.bytes_per_token() + 0.5)), traffic.gb_per_second(),
                        PerToken(traffic.num_reads, traffic),
                        row.device_reads ? fmt::format("{:.1f}", PerToken(*row.device_reads, traffic)) : "unknown",
                        row.left_out_share > 0 ? fmt::format("lossy, {:.0f}% left out", 100 * row.left_out_share)
                        : row.recall < 0       ? "exact"
                                               : fmt::format("{:.1f}%", 100 * row.recall));
  }
  text +=
      "\n| ms per token | I/O | compute | stall | median | p95 | p99 | tokens/s | bare loop | its p99 | x bare loop | bound | x bound "
      "| plan |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n";
  for (const RowMeasurement& row : rows) {
    if (!row.refusal.empty()) continue;
    const double median = row.total_ms(0.5);
    const auto times = [median](double other) { return other > 0 ? fmt::format("{:.2f}", median / other) : std::string("-"); };
    text += fmt::format(
        "| {} | {:.3f} | {:.3f} | {:.3f} | {:.3f} | {:.3f} | {:.3f} | {:.2f} | {:.3f} | {:.3f} | {} | {:.3f} | {} | {} |\n", row.name,
        row.io_ms(), row.compute_ms(), row.stall_ms(), median, row.total_ms(0.95), row.total_ms(0.99),
        row.traffic.tokens_per_second(), row.bare_ms(0.5), row.bare_ms(0.99), times(row.bare_ms(0.5)), row.bound_ms(),
        times(row.bound_ms()),
        row.expected_ms > 0
            ? fmt::format("{:.3f}, {}", row.expected_ms, FormatSize(static_cast<uint64_t>(row.expected_bytes_per_token + 0.5)))
            : "not measured: `frugal probe`");
  }
  return text + FormatGain(rows);
}

nlohmann::ordered_json AblationToJson(std::span<const RowMeasurement> rows) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const RowMeasurement& row : rows) {
    nlohmann::ordered_json item = {{"name", row.name}, {"fits", row.refusal.empty()}};
    if (!row.refusal.empty()) {
      item["refusal"] = row.refusal;
      json.push_back(std::move(item));
      continue;
    }
    const PhaseReport& traffic = row.traffic;
    item["description"] = row.description;
    item["ram_bytes"] = row.ram_bytes;
    item["planned_bytes"] = row.planned_bytes;
    item["tokens"] = traffic.num_tokens;
    item["bytes_per_token"] = traffic.bytes_per_token();
    item["ffn_bytes_per_token"] = PerToken(traffic.ffn_bytes_read, traffic);
    item["reads_per_token"] = PerToken(traffic.num_reads, traffic);
    item["gb_per_second_while_reading"] = traffic.gb_per_second();
    item["device_reads_per_token"] = nullptr;
    if (row.device_reads) item["device_reads_per_token"] = PerToken(*row.device_reads, traffic);
    item["io_ms"] = row.io_ms();
    item["compute_ms"] = row.compute_ms();
    item["stall_ms"] = row.stall_ms();
    item["total_ms_median"] = row.total_ms(0.5);
    item["total_ms_p95"] = row.total_ms(0.95);
    item["total_ms_p99"] = row.total_ms(0.99);
    item["tokens_per_second"] = traffic.tokens_per_second();
    item["hit_rate"] = nullptr;
    if (traffic.hit_rate() >= 0) item["hit_rate"] = traffic.hit_rate();
    item["left_out_share"] = row.left_out_share;
    item["recall"] = nullptr;
    if (row.recall >= 0) item["recall"] = row.recall;
    item["touched_bytes_per_token"] = row.touched_bytes_per_token;
    item["bare_loop_ms_median"] = row.bare_ms(0.5);
    item["bare_loop_ms_p99"] = row.bare_ms(0.99);
    item["reads_alone_ms_median"] = Percentile(row.bare.reads_ms, 0.5);
    item["memory_alone_ms_median"] = Percentile(row.bare.memory_ms, 0.5);
    item["memory_gb_per_second"] = row.bare.memory_bytes_per_second() / 1e9;
    item["flash_gb_per_second"] = row.bare.read_bytes_per_second() / 1e9;
    item["iops"] = row.bare.reads_per_second();
    item["bound_ms"] = row.bound_ms();
    item["plan_ms"] = row.expected_ms;
    item["plan_bytes_per_token"] = row.expected_bytes_per_token;
    json.push_back(std::move(item));
  }
  return json;
}

}  // namespace frugal
