#include "src/cli/ablation.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "src/base/bytes.h"
#include "src/base/clock.h"
#include "src/cli/common.h"
#include "src/cli/evaluation.h"
#include "src/engine/expectation.h"

namespace frugal {
namespace {

// Tokens on which the recall is sampled, one layer each.
constexpr size_t kRecallTokens = 64;

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

// The neurons used per token: as the predictor file knows them.
Result<double> ComputeSeconds(const Engine& engine, const EngineOptions& options) {
  NeuronUse use = AllNeuronsUsed(engine.config());
  if (engine.has_predictor()) {
    const std::string path =
        options.predictor_path.empty() ? DefaultPredictorPath(options.model_path) : options.predictor_path;
    FRUGAL_ASSIGN(const PredictorInfo info, PredictorFile::Inspect(path, engine.config()));
    FRUGAL_ASSIGN(use, LoadNeuronUse(info, engine.config()));
  }
  return ExpectDecode(engine.model(), engine.plan(), use, nullptr).compute_seconds;
}

Status MeasureTokens(Engine& engine, Session& session, const AblationText& text, RowMeasurement* row) {
  FRUGAL_TRY(engine.Prefill(session, std::span(text.ids).first(text.num_prompt)));
  const size_t begin = text.num_prompt + text.num_warm_up;
  for (size_t i = text.num_prompt; i < begin; ++i)
    FRUGAL_TRY(ForcedStep(engine, session, text.ids[i], false));
  const EngineStatistics before = engine.statistics();
  for (size_t i = begin; i < text.ids.size(); ++i) {
    FRUGAL_TRY(CheckInterrupt());
    const uint64_t start_ns = NowNs();
    FRUGAL_TRY(ForcedStep(engine, session, text.ids[i], false));
    row->token_ms.push_back(static_cast<double>(NowNs() - start_ns) / 1e6);
  }
  AddPhase(ReportPhase(before, engine.statistics()), &row->traffic);
  if (!engine.has_predictor() || row->recall >= 0) return {};
  session.Rewind(static_cast<uint32_t>(begin));
  engine.ResetRecall();
  const size_t end = std::min(text.ids.size(), begin + kRecallTokens);
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
  options.mode = RunMode::kNaive;
  rows.push_back({"naive", options});
  options.mode = RunMode::kHybrid;
  rows.push_back({"hybrid", options});
  options.mode = RunMode::kFlash;
  options.predictor = true;
  options.window = options.bundling = options.overlap = options.early = false;
  const std::optional<uint32_t> window_tokens = options.window_tokens;
  options.window_tokens.reset();
  rows.push_back({"+ predictor", options});
  options.window = true;
  options.window_tokens = window_tokens;
  rows.push_back({"+ window", options});
  options.bundling = true;
  rows.push_back({"+ bundling", options});
  options.overlap = true;
  rows.push_back({"+ overlap", options});
  options.early = true;
  rows.push_back({"+ early prediction", options});
  return rows;
}

double RowMeasurement::bound_ms() const { return std::max(compute_bound_ms, flash_bound_ms.value_or(0.0)); }

Status MeasureRow(const AblationRow& wanted, const AblationText& text, const DeviceProfile* profile,
                  RowMeasurement* row) {
  CHECK(text.num_prompt >= 1 && text.num_prompt + text.num_warm_up < text.ids.size());
  row->name = wanted.name;
  Result<std::unique_ptr<Engine>> engine = Engine::Open(wanted.options);
  if (!engine && engine.error().code == ErrorCode::kDoesNotFit) {
    row->refusal = engine.error().message;
    return {};
  }
  if (!engine) return engine.error();
  row->description = (*engine)->Describe();
  row->planned_bytes = (*engine)->plan().peak_bytes();
  FRUGAL_ASSIGN(const double compute_seconds, ComputeSeconds(**engine, wanted.options));
  row->compute_bound_ms = 1e3 * compute_seconds;
  FRUGAL_ASSIGN(const std::unique_ptr<Session> session, (*engine)->NewSession());
  FRUGAL_TRY(MeasureTokens(**engine, *session, text, row));
  if (profile != nullptr) {
    row->flash_bound_ms = row->traffic.FlashBoundMs(*profile, (*engine)->weights().bundles_on_demand());
  }
  return {};
}

double Percentile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  const double rank = std::ceil(share * static_cast<double>(values.size()));
  const size_t index = std::min(values.size() - 1, static_cast<size_t>(std::max(1.0, rank)) - 1);
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(index), values.end());
  return values[index];
}

std::string FormatAblation(std::span<const RowMeasurement> rows) {
  std::string text =
      "| | RAM planned | read per token | reads per token | GB/s while reading | reading ms | stalled ms | "
      "total ms (median) | p95 "
      "ms | tokens/s | bound ms | recall |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n";
  for (const RowMeasurement& row : rows) {
    if (!row.refusal.empty()) {
      text += fmt::format("| {} | does not fit the budget | | | | | | | | | | |\n", row.name);
      continue;
    }
    const PhaseReport& traffic = row.traffic;
    text += fmt::format(
        "| {} | {} | {} | {:.1f} | {:.3f} | {:.3f} | {:.3f} | {:.3f} | {:.3f} | {:.1f} | {:.3f}{} | {} |\n",
        row.name, FormatSize(row.planned_bytes),
        FormatSize(static_cast<uint64_t>(traffic.bytes_per_token() + 0.5)),
        PerToken(traffic.num_reads, traffic), traffic.gb_per_second(),
        PerToken(traffic.busy_ns, traffic) / 1e6, PerToken(traffic.stall_ns, traffic) / 1e6,
        Percentile(row.token_ms, 0.5), Percentile(row.token_ms, 0.95), traffic.tokens_per_second(),
        row.bound_ms(), row.flash_bound_ms ? "" : " (flash not measured)",
        row.recall < 0 ? "exact" : fmt::format("{:.1f}%", 100 * row.recall));
  }
  return text;
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
    item["planned_bytes"] = row.planned_bytes;
    item["tokens"] = traffic.num_tokens;
    item["bytes_per_token"] = traffic.bytes_per_token();
    item["ffn_bytes_per_token"] = PerToken(traffic.ffn_bytes_read, traffic);
    item["reads_per_token"] = PerToken(traffic.num_reads, traffic);
    item["gb_per_second_while_reading"] = traffic.gb_per_second();
    item["reading_ms"] = PerToken(traffic.busy_ns, traffic) / 1e6;
    item["stalled_ms"] = PerToken(traffic.stall_ns, traffic) / 1e6;
    item["total_ms_median"] = Percentile(row.token_ms, 0.5);
    item["total_ms_p95"] = Percentile(row.token_ms, 0.95);
    item["tokens_per_second"] = traffic.tokens_per_second();
    item["hit_rate"] = nullptr;
    if (traffic.hit_rate() >= 0) item["hit_rate"] = traffic.hit_rate();
    item["recall"] = nullptr;
    if (row.recall >= 0) item["recall"] = row.recall;
    item["compute_bound_ms"] = row.compute_bound_ms;
    item["flash_bound_ms"] = nullptr;
    if (row.flash_bound_ms) item["flash_bound_ms"] = *row.flash_bound_ms;
    item["bound_ms"] = row.bound_ms();
    json.push_back(std::move(item));
  }
  return json;
}

}  // namespace frugal
