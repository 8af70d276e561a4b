// What `run` says about itself afterwards: the statistics of the prompt and of decoding, as a block for
// people and as JSON.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "src/engine/engine.h"
#include "src/io/device_profile.h"

namespace frugal {

// One phase of a run: differences of EngineStatistics.
struct PhaseReport {
  uint64_t num_tokens = 0;
  uint64_t elapsed_ns = 0;  // in the engine: sampling and printing are not part of it
  uint64_t num_reads = 0;
  uint64_t bytes_read = 0;
  uint64_t ffn_bytes_read = 0;
  uint64_t busy_ns = 0;   // at least one read was in flight
  uint64_t stall_ns = 0;  // waited for the flash
  uint64_t num_hits = 0, num_late_hits = 0, num_misses = 0;
  uint64_t num_early = 0, num_early_wrong = 0;  // bundles read before attention; of these, not asked for then
  uint64_t num_retries = 0, num_slow = 0;

  double tokens_per_second() const;
  double ms_per_token() const;
  double PerToken(uint64_t count) const;  // 0 without tokens
  double bytes_per_token() const;
  double gb_per_second() const;  // 10^9 bytes
  double stall_share() const;
  // Reads of bundles are random ones where bundles live on demand, all others sequential.
  double FlashBoundMs(const DeviceProfile& profile, bool bundles_on_demand) const;
  // Hits among the bundles asked for; negative when none was.
  double hit_rate() const;
};

PhaseReport ReportPhase(const EngineStatistics& before, const EngineStatistics& after);

enum class StopReason { kTokenLimit, kEndOfText, kContextFull, kInterrupted, kOutputClosed };
const char* StopReasonName(StopReason reason);

struct RunReport {
  std::string mode;
  std::string description;     // Engine::Describe()
  uint64_t ram_bytes = 0;      // the budget; 0: none
  uint64_t planned_bytes = 0;  // the plan's peak
  uint64_t peak_bytes = 0;     // used, at most
  uint32_t context = 0;
  bool context_reduced = false;
  int num_threads = 1;
  uint64_t seed = 0;
  uint64_t load_ns = 0;
  PhaseReport prompt, decode;
  uint64_t num_generated = 0;
  StopReason stop = StopReason::kTokenLimit;
  bool exact = true;     // no active neuron is missed
  double recall = -1.0;  // sampled; negative: not known
  std::optional<GateThresholds> thresholds;  // by which neurons were left out
  std::string activation;
  double active_share = -1.0;  // of the neurons, in the first tokens; negative: not measured
  // What decoding's reads take at best per token, by the device's measurement; nothing when it was not
  // measured.
  std::optional<double> flash_bound_ms;
};

// A line when more neurons are active than a model with such an activation has, else empty.
std::string SparsityWarning(double active_share, std::string_view activation);
// Lines, each with its newline.
std::string FormatRunReport(const RunReport& report);
nlohmann::ordered_json RunReportJson(const RunReport& report);

}  // namespace frugal
