#include "src/engine/early_choice.h"

#include "src/engine/expectation.h"

namespace frugal {
namespace {

// What estimates do not tell apart: of the shorter time.
constexpr double kNearlyTheSame = 1.05;

}  // namespace

Result<bool> EarlyPays(const OpenedHeader& header, const EngineOptions& options, const DeviceProfile& profile) {
  const ModelFile& model = *header.model;
  const PredictorInfo* const predictor = header.predictor ? &*header.predictor : nullptr;
  EngineOptions guessing = options, waiting = options;
  guessing.sketch_early = true;
  waiting.early = false;
  const Result<EnginePlan> early = MakePlan(model, predictor, header.tokenizer_bytes, guessing);
  if (!early && early.error().code == ErrorCode::kDoesNotFit) return false;  // opening it will say so
  if (!early) return early.error();
  if (!early->use_early) return false;
  FRUGAL_ASSIGN(const EnginePlan on_time, MakePlan(model, predictor, header.tokenizer_bytes, waiting));
  FRUGAL_ASSIGN(const NeuronUse early_use, ExpectNeuronUse(model, predictor, header.thresholds_or_null(), *early));
  FRUGAL_ASSIGN(const NeuronUse on_time_use, ExpectNeuronUse(model, predictor, header.thresholds_or_null(), on_time));
  const double with = *ExpectDecode(model, *early, early_use, &profile).token_seconds;
  const double without = *ExpectDecode(model, on_time, on_time_use, &profile).token_seconds;
  return early->use_predictor() ? with <= without * kNearlyTheSame : with * kNearlyTheSame < without;
}

}  // namespace frugal
