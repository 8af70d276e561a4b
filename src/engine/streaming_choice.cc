#include "src/engine/streaming_choice.h"

#include <fmt/format.h>

namespace frugal {

bool StreamingPays(const Expectation& flash, const Expectation& hybrid) {
  if (!flash.token_seconds || !hybrid.token_seconds || hybrid.streamed_bytes <= 0) return false;
  return *hybrid.read_seconds < kLeastGainOfSelecting * *flash.read_seconds &&
         *hybrid.token_seconds < kLeastGainOfSelecting * *flash.token_seconds;
}

Result<std::optional<StreamingChoice>> CompareWithStreaming(const OpenedHeader& header, const EngineOptions& options,
                                                            const DeviceProfile& profile) {
  const ModelFile& model = *header.model;
  const bool asked = options.mode == RunMode::kFlash && options.ram_bytes > 0 && !options.resident_type;
  if (!asked || (!header.predictor && !header.thresholds) || !model.has_bundles()) {
    return std::optional<StreamingChoice>();
  }
  const PredictorInfo* const predictor = header.predictor ? &*header.predictor : nullptr;
  FRUGAL_ASSIGN(const EnginePlan flash, MakePlan(model, predictor, header.tokenizer_bytes, options));
  if (!flash.use_predictor() && !flash.sparsified) return std::optional<StreamingChoice>();
  EngineOptions streaming = options;
  streaming.mode = RunMode::kHybrid;
  const Result<EnginePlan> hybrid = MakePlan(model, predictor, header.tokenizer_bytes, streaming);
  if (!hybrid && hybrid.error().code == ErrorCode::kDoesNotFit) return std::optional<StreamingChoice>();
  if (!hybrid) return hybrid.error();
  NeuronUse use;
  if (header.thresholds) {
    use = NeuronsLeft(model.config(), *header.thresholds);
  } else {
    FRUGAL_ASSIGN(use, LoadNeuronUse(*predictor, model.config()));
  }
  const Expectation selecting = ExpectDecode(model, flash, use, &profile);
  const Expectation all = ExpectDecode(model, *hybrid, use, &profile);
  return std::optional<StreamingChoice>({StreamingPays(selecting, all), *selecting.read_seconds, *all.read_seconds});
}

std::string DescribeChoice(const StreamingChoice& choice) {
  return fmt::format("selecting neurons does not pay: it would read for {:.0f} ms a token, streaming all of them for {:.0f}, less than "
                     "{} times as long; --mode flash selects all the same",
                     1e3 * choice.flash_read_seconds, 1e3 * choice.hybrid_read_seconds, kLeastGainOfSelecting);
}

}  // namespace frugal
