// frugal simulate --trace FILE: which eviction policy would have missed how often.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "src/cli/progress_bar.h"
#include "src/cli/replay.h"
#include "src/cli/trace_file.h"
#include "src/cli/verbs.h"

namespace frugal {
namespace {

// The first tokens of any run miss whatever the policy.
constexpr size_t kDefaultWarmUp = 128;

struct SimulateFlags {
  std::string trace_path, svg_path;
  std::vector<std::string> slots;
  std::vector<double> half_lives;
  uint32_t warm_up = 0;
  CLI::Option* warm_up_option = nullptr;
  bool json = false;
};

Result<ReplayOptions> ResolveSimulateFlags(const SimulateFlags& flags, const AccessTrace& trace) {
  ReplayOptions options;
  if (!flags.slots.empty()) options.slots_shares.clear();
  for (const std::string& text : flags.slots) {
    FRUGAL_ASSIGN(const double share, ParseShare("--slots", text));
    if (share * trace.header().num_bundles() < 1) {
      return MakeError(ErrorCode::kUsage, "--slots: {}: is less than one of {} neurons", text,
                       trace.header().num_bundles());
    }
    options.slots_shares.push_back(share);
  }
  std::sort(options.slots_shares.begin(), options.slots_shares.end());
  if (!flags.half_lives.empty()) options.half_lives = flags.half_lives;
  options.warm_up_tokens =
      flags.warm_up_option->count() > 0 ? flags.warm_up : std::min(kDefaultWarmUp, trace.num_tokens() / 2);
  if (options.warm_up_tokens >= trace.num_tokens()) {
    return MakeError(ErrorCode::kUsage, "--warm-up: {} leaves nothing of the trace's {} tokens",
                     options.warm_up_tokens, trace.num_tokens());
  }
  return options;
}

Status Simulate(const SimulateFlags& flags) {
  FRUGAL_ASSIGN(const AccessTrace trace, ReadTrace(flags.trace_path));
  FRUGAL_ASSIGN(const ReplayOptions options, ResolveSimulateFlags(flags, trace));
  ProgressBar bar("replaying");
  const Replay replay =
      ReplayTrace(trace, options, [&bar](double share, std::string_view what) { bar.Update(share, what); });
  bar.Finish();
  if (!flags.svg_path.empty()) FRUGAL_TRY(WriteTextFile(flags.svg_path, ReplaySvg(replay)));
  StandardOutput output;
  return output.Print(flags.json ? ReplayToJson(replay).dump(2) + "\n" : FormatReplay(replay));
}

}  // namespace

void AddSimulateVerb(CLI::App& app, Exit& exit) {
  CLI::App& sub =
      *app.add_subcommand("simulate", "Replays an access trace through eviction policies and cache sizes");
  const auto flags = std::make_shared<SimulateFlags>();
  sub.add_option("trace,--trace", flags->trace_path, "what run, eval or bench recorded with --trace")
      ->required();
  sub.add_option("--slots", flags->slots,
                 "shares of the FFN, such as 10%,23.5% (default: eight from 5% to 60%)")
      ->delimiter(',');
  sub.add_option("--half-life", flags->half_lives, "half-lives of decayed frequency, in tokens (default: 16)")
      ->delimiter(',')
      ->check(CLI::Range(0.1, 1e6));
  flags->warm_up_option = sub.add_option(
      "--warm-up", flags->warm_up, "tokens that are replayed and not counted (default: 128, at most half)");
  sub.add_option("--svg", flags->svg_path, "draw the miss rates into this file");
  sub.add_flag("--json", flags->json, "print JSON");
  exit.RunAsCallback(sub, [flags] { return Simulate(*flags); });
}

}  // namespace frugal
