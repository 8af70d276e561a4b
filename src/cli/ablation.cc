#include "src/cli/ablation.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "src/base/bytes.h"
#include "src/base/clock.h"
#include "src/cli/common.h"
#include "src/cli/evaluation.h"
#include "src/engine/expectation.h"

namespace frugal {
namespace {

// Tokens on which the recall is sampled, one layer each.
constexpr size_t kRecallTokens = 64;
constexpr uint64_t kMostRecordingBytes = 4 * kMiB;

// An observer turns off the engine's own sampling, whose reads would be counted.
Status MeasuredStep(Engine& engine, Session& session, int32_t id) {
  const auto observe = [](const LayerObservation&) -> Status { return {}; };
  const LayerObserver observer(observe);
  return engine.Step(session, {&id, 1}, 1, &observer);
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

Result<std::optional<PredictorInfo>> InspectPredictor(const Engine& engine, const EngineOptions& options) {
  if (!engine.has_predictor()) return std::optional<PredictorInfo>();
  const std::string path = options.predictor_path.empty() ? DefaultPredictorPath(options.model_path) : options.predictor_path;
  FRUGAL_ASSIGN(PredictorInfo info, PredictorFile::Inspect(path, engine.config()));
  return std::optional<PredictorInfo>(std::move(info));
}

Result<Expectation> Expect(const Engine& engine, const std::optional<PredictorInfo>& predictor, const DeviceProfile* profile) {
  const PredictorInfo* const info = predictor ? &*predictor : nullptr;
  FRUGAL_ASSIGN(const NeuronUse use, ExpectNeuronUse(engine.model(), info, engine.thresholds(), engine.plan()));
  return ExpectDecode(engine.model(), engine.plan(), use, profile);
}

// The warm-up fills the slots; the way there is where the use of neurons is counted, which would take time of the measured tokens.
// Returns how many ids were run.
Result<size_t> WarmUp(Engine& engine, Session& session, const AblationText& text, NeuronUseMeter& meter) {
  const std::span<const int32_t> ids = std::span(text.ids).first(text.num_prompt + text.num_warm_up);
  const auto observe = [&meter](const LayerObservation& layer) -> Status {
    meter.Observe(layer);
    return {};
  };
  const LayerObserver observer(observe);
  for (size_t at = 0; at < text.num_prompt;) {
    FRUGAL_TRY(CheckInterrupt());
    const size_t count = std::min<size_t>(text.num_prompt - at, engine.plan().max_rows);
    FRUGAL_TRY(engine.Step(session, ids.subspan(at, count), 1, &observer));
    at += count;
  }
  // Where a token takes seconds, there are few slots to fill.
  const uint64_t start_ns = NowNs();
  const uint64_t most_ns = static_cast<uint64_t>(std::max(text.seconds_per_round, AblationText::kWarmUpSeconds) * 1e9);
  size_t at = text.num_prompt;
  while (at < ids.size() && NowNs() - start_ns <= most_ns) {
    FRUGAL_TRY(CheckInterrupt());
    FRUGAL_TRY(engine.Step(session, ids.subspan(at++, 1), 1, &observer));
  }
  return at;
}

// Before the measured tokens. Returns how many ids were run.
Result<size_t> Prepare(Engine& engine, Session& session, const AblationText& text, const std::optional<PredictorInfo>& predictor,
                       RowMeasurement* row) {
  if (!engine.weights().bundles_on_demand()) {
    // A mode without slots takes the warm-up's ids with the prompt, in batches.
    const size_t count = std::max(text.num_prompt, text.num_prompt + text.num_warm_up - 1);
    FRUGAL_TRY(engine.Prefill(session, std::span(text.ids).first(count)));
    if (text.num_warm_up > 0) FRUGAL_TRY(MeasuredStep(engine, session, text.ids[count]));
    return text.num_prompt + text.num_warm_up;
  }
  NeuronUseMeter meter(engine.config(), predictor ? &*predictor : nullptr);
  FRUGAL_ASSIGN(const size_t begin, WarmUp(engine, session, text, meter));
  row->use = meter.Measured();
  return begin;
}

// What a token goes through in RAM: as the plan has it, but as many bundles as it used, their down rows where they were active, and as
// much of the KV cache as lay behind it, where the plan has half of it.
double TouchedBytes(const Engine& engine, const Expectation& expectation, const PhaseReport& traffic, const MeasuredUse& use,
                    uint32_t position) {
  double bytes = expectation.touched_bytes;
  if (engine.plan().weights.ffn == FfnPlacement::kOnDemand) {
    const BundleInfo& bundle = engine.model().bundles()[0];
    const double used = traffic.PerToken(traffic.num_hits + traffic.num_late_hits + traffic.num_misses);
    const double active = use.chosen > 0 ? used * use.active / use.chosen : used;
    bytes += (used - expectation.bundles_used) * static_cast<double>(bundle.down_offset_bytes) +
             (active - expectation.bundles_active) * static_cast<double>(bundle.stride_bytes - bundle.down_offset_bytes);
  }
  const EnginePlan& plan = engine.plan();
  const double filled = static_cast<double>(position) / plan.context;
  return bytes + (filled - 0.5) * static_cast<double>(plan.ledger.line_bytes("KV cache"));
}

// What a token is compared with.
struct Yardstick {
  ReadRecording& recording;
  const Expectation& expectation;
  BareLoop& loop;
  uint64_t taken_ns = 0;
};

// One token, and its bare loop where bare loops had no more time than tokens until now.
Status MeasureToken(Engine& engine, Session& session, int32_t id, uint64_t row_ns, Yardstick& yardstick, RowMeasurement* row) {
  const EngineStatistics before = engine.statistics();
  const std::optional<uint64_t> device_before = DeviceReads(engine.options().model_path);
  yardstick.recording.Start();
  const uint64_t start_ns = NowNs();
  FRUGAL_TRY(MeasuredStep(engine, session, id));
  row->token_ms.push_back(static_cast<double>(NowNs() - start_ns) / 1e6);
  yardstick.recording.EndGroup();
  yardstick.recording.EndRecording();
  const PhaseReport traffic = ReportPhase(before, engine.statistics());
  AddPhase(traffic, &row->traffic);
  const std::optional<uint64_t> device_after = DeviceReads(engine.options().model_path);
  if (device_before && device_after) row->device_reads = row->device_reads.value_or(0) + *device_after - *device_before;
  const double touched_bytes = TouchedBytes(engine, yardstick.expectation, traffic, row->use, session.position());
  const double before_this = static_cast<double>(row->token_ms.size() - 1);
  row->touched_bytes_per_token = (row->touched_bytes_per_token * before_this + touched_bytes) / (before_this + 1);
  if (yardstick.taken_ns > row_ns) return {};
  FRUGAL_TRY(engine.weights().Settle());
  const uint64_t loop_start_ns = NowNs();
  FRUGAL_TRY(yardstick.loop.Repeat(yardstick.recording, static_cast<uint64_t>(std::max(0.0, touched_bytes)), &row->bare));
  yardstick.taken_ns += NowNs() - loop_start_ns;
  return {};
}

// `begin`: ids that were run before.
Status MeasureTokens(Engine& engine, Session& session, const AblationText& text, size_t begin, Yardstick& yardstick, RowMeasurement* row) {
  const uint64_t budget_ns = static_cast<uint64_t>(text.seconds_per_round * 1e9);
  uint64_t row_ns = 0;
  size_t end = begin;
  while (end < text.ids.size() && (end - begin < AblationText::kLeastTokens || row_ns < budget_ns)) {
    FRUGAL_TRY(CheckInterrupt());
    FRUGAL_TRY(MeasureToken(engine, session, text.ids[end++], row_ns, yardstick, row));
    row_ns += static_cast<uint64_t>(row->token_ms.back() * 1e6);
  }
  if (engine.is_exact() || row->recall >= 0) return {};
  session.Rewind(static_cast<uint32_t>(begin));
  engine.ResetRecall();
  end = std::min(end, begin + kRecallTokens);
  for (size_t i = begin; i < end; ++i) FRUGAL_TRY(engine.Step(session, std::span(text.ids).subspan(i, 1), 1));
  row->recall = engine.statistics().recall;
  return {};
}

// The plan's ms with the device as the row's bare loop found it: the profile's rates of reading, all by the factor that the row's reads took
// alone, and the memory's.
double ExpectHereMs(Expectation expectation, const DeviceProfile& profile, const RowMeasurement& row) {
  const double reads_ms = Percentile(row.bare.reads_ms, 0.5);
  if (reads_ms <= 0 || row.bare.memory_bytes_per_second() <= 0) return 0;
  const double random_reads = std::max(0.0, row.traffic.PerToken(row.traffic.num_reads) - expectation.stream_reads);
  const double random_bytes = std::max(0.0, row.traffic.bytes_per_token() - expectation.streamed_bytes);
  const double by_profile_ms = 1e3 * ReadBoundSeconds(profile, expectation.streamed_bytes, random_reads, random_bytes);
  DeviceProfile here = ProfileAtSpeed(profile, by_profile_ms / reads_ms);
  here.memory_bytes_per_second = row.bare.memory_bytes_per_second();
  ExpectTimes(&here, &expectation);
  return 1e3 * *expectation.token_seconds;
}

// Streams the engine's own memory, and where that is less than a token touches, more within what the budget leaves.
Result<std::unique_ptr<BareLoop>> OpenBareLoop(Engine& engine, uint64_t ram_bytes, const Expectation& expectation) {
  // Of the budget, for what no line of the plan knows.
  const uint64_t left_free = 6 * kMiB + ram_bytes / 64;
  BareLoopOptions options;
  options.engine_options = &engine.options();
  options.queue_depth = engine.plan().weights_options.queue_depth;
  options.memory = engine.weights().memory();
  uint64_t memory_bytes = 0;
  for (const std::span<const std::byte> part : options.memory) memory_bytes += part.size();
  const uint64_t touched_bytes = static_cast<uint64_t>(expectation.touched_bytes);
  if (memory_bytes < touched_bytes) {
    options.own_memory_bytes = touched_bytes - memory_bytes;
    const uint64_t taken_bytes = engine.plan().peak_bytes() + left_free;
    if (ram_bytes > 0) options.own_memory_bytes = std::min(options.own_memory_bytes, ram_bytes > taken_bytes ? ram_bytes - taken_bytes : 0);
  }
  return BareLoop::Open(options);
}

}  // namespace

double RowMeasurement::total_ms(double share) const { return Percentile(token_ms, share); }
double RowMeasurement::io_ms() const { return traffic.PerToken(traffic.busy_ns) / 1e6; }
double RowMeasurement::stall_ms() const { return traffic.PerToken(traffic.stall_ns) / 1e6; }
double RowMeasurement::compute_ms() const { return traffic.ms_per_token() - stall_ms(); }
double RowMeasurement::bare_ms(double share) const { return Percentile(bare.together_ms, share); }
double RowMeasurement::bound_ms() const {
  return std::max(Percentile(bare.reads_ms, 0.5), Percentile(bare.memory_ms, 0.5));
}

Result<std::unique_ptr<Engine>> OpenWithinBudget(const EngineOptions& options, std::string* refusal) {
  Result<std::unique_ptr<Engine>> opened = Engine::Open(options);
  if (opened || opened.error().code != ErrorCode::kDoesNotFit) return opened;
  *refusal = opened.error().message;
  return std::unique_ptr<Engine>();
}

Status MeasureRow(const AblationRow& wanted, const AblationText& text, const DeviceProfile* profile,
                  RowMeasurement* row) {
  CHECK(text.num_prompt >= 1 && text.num_prompt + text.num_warm_up < text.ids.size());
  row->name = wanted.name;
  row->mode = wanted.options.mode;
  if (profile != nullptr) row->probed_bytes_per_second = profile->sequential_bytes_per_second;
  EngineOptions options = wanted.options;
  // The memory of the recording and of the bare loop comes out of the budget, and so does that of the expectation, which is the meter's when
  // that is made.
  const uint64_t ram_bytes = row->ram_bytes = options.ram_bytes;
  const uint64_t recording_bytes = ram_bytes == 0 ? kMostRecordingBytes : std::min(kMostRecordingBytes, ram_bytes / 64);
  ReadRecording recording(recording_bytes / sizeof(ReadRecord));
  if (ram_bytes > 0) {
    FRUGAL_ASSIGN(const ModelFile model, ModelFile::Open(options.model_path, options.activation));
    const uint64_t use_bytes = uint64_t{model.config().num_layers} * model.config().ffn_size * NeuronUseMeter::kBytesPerNeuron;
    options.ram_bytes = LeftOfBudget(ram_bytes, recording_bytes + use_bytes + BareLoop::MemoryBytes(ram_bytes, options.num_threads));
  }
  options.decorate_reader = [&recording](std::unique_ptr<ExtentReader> inner) {
    return MakeRecordingReader(std::move(inner), recording);
  };
  FRUGAL_ASSIGN(const std::unique_ptr<Engine> opened, OpenWithinBudget(options, &row->refusal));
  if (opened == nullptr) return {};
  Engine& engine = *opened;
  row->description = engine.Describe();
  row->planned_bytes = engine.plan().peak_bytes();
  // Where memory is short, the plan has more use for it than the early predictors' part.
  if (wanted.key == kEarlyKey && !engine.plan().use_early) row->name = wanted.name + ", which the plan leaves out";
  if (engine.thresholds() != nullptr) row->left_out_share = static_cast<double>(engine.thresholds()->share);
  FRUGAL_ASSIGN(const std::optional<PredictorInfo> predictor, InspectPredictor(engine, wanted.options));
  FRUGAL_ASSIGN(const Expectation expectation, Expect(engine, predictor, profile));
  row->expected_ms = 1e3 * expectation.token_seconds.value_or(0);
  row->expected_bytes_per_token = expectation.read_bytes();
  FRUGAL_ASSIGN(const std::unique_ptr<BareLoop> loop, OpenBareLoop(engine, ram_bytes, expectation));
  FRUGAL_ASSIGN(const std::unique_ptr<Session> session, engine.NewSession());
  FRUGAL_ASSIGN(const size_t begin, Prepare(engine, *session, text, predictor, row));
  Yardstick yardstick = {recording, expectation, *loop};
  FRUGAL_TRY(MeasureTokens(engine, *session, text, begin, yardstick, row));
  if (profile != nullptr) row->expected_here_ms = ExpectHereMs(expectation, *profile, *row);
  return {};
}

double Percentile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  const double rank = std::ceil(share * static_cast<double>(values.size()));
  const size_t index = std::min(values.size() - 1, static_cast<size_t>(std::max(1.0, rank)) - 1);
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(index), values.end());
  return values[index];
}

}  // namespace frugal
