#include "src/engine/streaming_choice.h"

#include <fmt/format.h>

namespace frugal {

bool StreamingPays(const Expectation& flash, const Expectation& hybrid, double least_gain) {
  if (!flash.token_seconds || !hybrid.token_seconds || hybrid.streamed_bytes <= 0) return false;
  return *hybrid.read_seconds < least_gain * *flash.read_seconds && *hybrid.token_seconds < least_gain * *flash.token_seconds;
}

Result<std::optional<StreamingChoice>> CompareWithStreaming(const OpenedHeader& header, const EngineOptions& options,
                                                            const DeviceProfile& profile) {
  const ModelFile& model = *header.model;
  // Who names a selector wants neurons selected.
  const bool asked = options.mode == RunMode::kFlash && options.selector == SelectorKind::kAuto && options.ram_bytes > 0 &&
                     !options.resident_type;
  if (!asked || !model.has_bundles()) return std::optional<StreamingChoice>();
  const PredictorInfo* const predictor = header.predictor ? &*header.predictor : nullptr;
  FRUGAL_ASSIGN(const EnginePlan flash, MakePlan(model, predictor, header.tokenizer_bytes, options));
  const bool selects = flash.sparsified || (flash.selector != SelectorKind::kAll && model.config().activation.is_sparse());
  if (!selects) return std::optional<StreamingChoice>();
  EngineOptions streaming = options;
  streaming.mode = RunMode::kHybrid;
  const Result<EnginePlan> hybrid = MakePlan(model, predictor, header.tokenizer_bytes, streaming);
  if (!hybrid && hybrid.error().code == ErrorCode::kDoesNotFit) return std::optional<StreamingChoice>();
  if (!hybrid) return hybrid.error();
  FRUGAL_ASSIGN(const NeuronUse use, ExpectNeuronUse(model, predictor, header.thresholds_or_null(), flash));
  const Expectation selecting = ExpectDecode(model, flash, use, &profile);
  const Expectation all = ExpectDecode(model, *hybrid, use, &profile);
  const double least_gain = LeastGainOfSelecting(flash.exact);
  return std::optional<StreamingChoice>({StreamingPays(selecting, all, least_gain), *selecting.read_seconds, *all.read_seconds, least_gain,
                                         use.assumed ? use.basis : ""});
}

std::string DescribeChoice(const StreamingChoice& choice) {
  const std::string gain = choice.least_gain > 1 ? fmt::format(", less than {} times as long", choice.least_gain) : "";
  const std::string assumption = choice.assumption.empty() ? "" : fmt::format(" ({})", choice.assumption);
  return fmt::format("selecting neurons does not pay: it would read for {:.0f} ms a token{}, streaming all of them for {:.0f}{}; --mode "
                     "flash selects all the same",
                     1e3 * choice.flash_read_seconds, assumption, 1e3 * choice.hybrid_read_seconds, gain);
}

}  // namespace frugal
