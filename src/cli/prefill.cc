#include "src/cli/prefill.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>

#include "src/base/bytes.h"
#include "src/base/clock.h"
#include "src/cli/ablation.h"
#include "src/cli/bare_loop.h"
#include "src/io/recording_reader.h"
#include "src/kernels/fma_loop.h"
#include "src/kernels/listed_rows.h"
#include "src/select/selector.h"

namespace frugal {
namespace {

constexpr uint64_t kRecordingBytes = 2 * kMiB;
constexpr uint64_t kPeakSteps = 2'000'000;  // some milliseconds

double SinceMs(uint64_t start_ns) { return static_cast<double>(NowNs() - start_ns) / 1e6; }

Result<double> MeasurePeak(int num_threads) {
  FRUGAL_ASSIGN(const std::unique_ptr<ThreadPool> pool, ThreadPool::Create(num_threads));
  double best = 0;
  for (int round = 0; round < 5; ++round) {
    std::vector<uint64_t> flops(static_cast<size_t>(num_threads));
    const uint64_t start_ns = NowNs();
    pool->Run(num_threads, [&](int tile, int) { flops[static_cast<size_t>(tile)] = FmaLoop(kPeakSteps); });
    const double seconds = static_cast<double>(NowNs() - start_ns) / 1e9;
    best = std::max(best, static_cast<double>(flops[0]) * num_threads / seconds);
  }
  return best;
}

void CountNeurons(const LayerObservation& layer, PrefillNeurons* counts) {
  for (const uint64_t word : layer.active) counts->chosen += static_cast<uint64_t>(std::popcount(word));
  for (uint32_t row = 0; row < layer.num_rows; ++row) {
    const float* const activations = layer.activations + row * layer.activation_stride;
    counts->active += CountNonZero(activations, layer.positions.size());
  }
}

// Of the whole run: another program may have had a processor while one row's was measured.
double BestPeak(std::span<const PrefillMeasurement> rows) {
  double best = 0;
  for (const PrefillMeasurement& row : rows) best = std::max(best, row.peak_flops_per_second);
  return best;
}

}  // namespace

std::vector<PrefillRow> PrefillRows(const EngineOptions& base, SelectorKind selector, uint32_t num_tokens) {
  EngineOptions options = base;
  options.max_batch = num_tokens;
  options.logit_rows = 1;
  options.sample_recall_every = 0;
  options.predictor = false;
  std::vector<PrefillRow> rows = {{"all neurons", options}};
  options.predictor = true;
  switch (selector) {
    case SelectorKind::kPredictor:
      rows.push_back({"predictor", options});
      break;
    case SelectorKind::kSketch:
      rows.push_back({"gate sketch", options});
      break;
    case SelectorKind::kGate:
      rows = {{"gate", options}};
      break;
    default:
      break;
  }
  return rows;
}

double PrefillMeasurement::bound_ms(double peak) const { return std::max(compute_bound_ms(peak), Percentile(reads_alone_ms, 0.5)); }

double PrefillFlops(const ModelConfig& config, uint64_t num_tokens, const PrefillNeurons& neurons, const PredictorInfo* predictor) {
  const double hidden = config.hidden_size, ffn = config.ffn_size, query = config.query_size(), kv = config.kv_size();
  const double tokens = static_cast<double>(num_tokens), layers = config.num_layers;
  double products = tokens * layers * 2 * hidden * (query + kv);  // q and o, k and v
  switch (config.ffn_layout) {
    case FfnLayout::kMatrices:
      products += tokens * layers * (config.gated ? 3 : 2) * hidden * ffn;
      break;
    case FfnLayout::kGateAndBundle2:
      products += tokens * layers * hidden * ffn;
      [[fallthrough]];
    case FfnLayout::kUpDown:
      products += static_cast<double>(neurons.chosen + neurons.active) * hidden;
      break;
    case FfnLayout::kBundle3:
      products += static_cast<double>(2 * neurons.chosen + neurons.active) * hidden;
      break;
  }
  for (uint32_t layer = 0; layer < config.num_layers; ++layer) {
    const double rank = predictor != nullptr ? predictor->layers[layer].rank : 0;
    const uint64_t window = std::min<uint64_t>(config.window(layer) != 0 ? config.window(layer) : num_tokens, num_tokens);
    const double first = static_cast<double>(window), others = static_cast<double>(num_tokens - window);
    products += tokens * rank * (hidden + ffn) + 2 * query * (first * (first + 1) / 2 + others * first);  // scores, values
  }
  products += static_cast<double>(config.embedding_size) * config.vocab_size;
  if (config.has_projections()) products += 2 * tokens * hidden * config.embedding_size;
  return 2 * products;
}

Status MeasurePrefill(const PrefillRow& wanted, std::span<const int32_t> ids, PrefillMeasurement* row) {
  row->name = wanted.name;
  row->num_tokens = ids.size();
  FRUGAL_ASSIGN(const double peak, MeasurePeak(wanted.options.num_threads));
  row->peak_flops_per_second = std::max(row->peak_flops_per_second, peak);
  EngineOptions options = wanted.options;
  ReadRecording recording(kRecordingBytes / sizeof(ReadRecord));
  options.ram_bytes = LeftOfBudget(options.ram_bytes, kRecordingBytes);
  options.decorate_reader = [&recording](std::unique_ptr<ExtentReader> inner) {
    return MakeRecordingReader(std::move(inner), recording);
  };
  uint32_t queue_depth = 0;
  for (const size_t count : {PrefillMeasurement::kShortTokens, ids.size()}) {
    const bool is_short = count == PrefillMeasurement::kShortTokens;
    if (is_short && count >= ids.size()) continue;
    const uint64_t open_ns = NowNs();
    FRUGAL_ASSIGN(const std::unique_ptr<Engine> opened, OpenWithinBudget(options, &row->refusal));
    if (opened == nullptr) return {};
    Engine& engine = *opened;
    row->open_ms.push_back(SinceMs(open_ns));
    queue_depth = engine.plan().weights_options.queue_depth;
    row->batch = engine.plan().max_rows;
    FRUGAL_ASSIGN(const std::unique_ptr<Session> session, engine.NewSession());
    const uint64_t before = engine.statistics().weights.reads.bytes_read;
    // Counting goes through the activations once, which takes less than a hundredth of what making them took.
    PrefillNeurons counts;
    const auto observe = [&counts](const LayerObservation& layer) -> Status {
      CountNeurons(layer, &counts);
      return {};
    };
    const LayerObserver observer(observe);
    recording.Start();
    const uint64_t start_ns = NowNs();
    for (size_t at = 0; at < count; at += row->batch) {
      FRUGAL_TRY(engine.Step(*session, ids.subspan(at, std::min<size_t>(row->batch, count - at)), 1, is_short ? nullptr : &observer));
    }
    (is_short ? row->first_token_ms : row->prompt_ms).push_back(SinceMs(start_ns));
    recording.EndGroup();
    recording.EndRecording();
    if (is_short) continue;
    row->bytes_read = engine.statistics().weights.reads.bytes_read - before;
    row->needed_flops = PrefillFlops(engine.config(), ids.size(), counts, engine.predictor_info());
  }
  BareLoopOptions bare;
  bare.engine_options = &options;
  bare.queue_depth = queue_depth;
  FRUGAL_ASSIGN(const std::unique_ptr<BareLoop> loop, BareLoop::Open(bare));
  BareLoopTimes times;
  FRUGAL_TRY(loop->Repeat(recording, 0, &times));
  row->reads_alone_ms.insert(row->reads_alone_ms.end(), times.reads_ms.begin(), times.reads_ms.end());
  return {};
}

std::string FormatPrefill(std::span<const PrefillMeasurement> rows) {
  const double peak = BestPeak(rows);
  std::string text = fmt::format(
      "| prompt | tokens, batch | ms | tokens/s | read | reads alone, ms | arithmetic at the peak, ms | bound / measured | "
      "first token of {}, ms | opening, ms |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
      PrefillMeasurement::kShortTokens);
  for (const PrefillMeasurement& row : rows) {
    if (!row.refusal.empty()) {
      text += fmt::format("| {} | does not fit the budget | | | | | | | | |\n", row.name);
      continue;
    }
    const double ms = Percentile(row.prompt_ms, 0.5);
    text += fmt::format("| {} | {}, {} | {:.1f} | {:.1f} | {} | {:.1f} | {:.1f} | {:.2f} | {} | {:.1f} |\n", row.name, row.num_tokens, row.batch,
                        ms, 1e3 * static_cast<double>(row.num_tokens) / ms, FormatSize(row.bytes_read),
                        Percentile(row.reads_alone_ms, 0.5), row.compute_bound_ms(peak), row.bound_ms(peak) / ms,
                        row.first_token_ms.empty() ? "-" : fmt::format("{:.1f}", Percentile(row.first_token_ms, 0.5)),
                        Percentile(row.open_ms, 0.5));
  }
  return text;
}

nlohmann::ordered_json PrefillToJson(std::span<const PrefillMeasurement> rows) {
  const double peak = BestPeak(rows);
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const PrefillMeasurement& row : rows) {
    nlohmann::ordered_json item = {{"name", row.name}, {"fits", row.refusal.empty()}};
    if (!row.refusal.empty()) {
      item["refusal"] = row.refusal;
    } else {
      item["tokens"] = row.num_tokens;
      item["batch"] = row.batch;
      item["ms"] = Percentile(row.prompt_ms, 0.5);
      item["bytes_read"] = row.bytes_read;
      item["needed_flops"] = row.needed_flops;
      item["peak_flops_per_second"] = peak;
      item["reads_alone_ms"] = Percentile(row.reads_alone_ms, 0.5);
      item["bound_ms"] = row.bound_ms(peak);
      item["open_ms"] = Percentile(row.open_ms, 0.5);
      item["first_token_ms"] = nullptr;
      if (!row.first_token_ms.empty()) item["first_token_ms"] = Percentile(row.first_token_ms, 0.5);
    }
    json.push_back(std::move(item));
  }
  return json;
}

}  // namespace frugal
