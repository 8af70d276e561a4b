#include "src/engine/selector_choice.h"

namespace frugal {
namespace {

const char* SelectorName(SelectorKind kind) {
  switch (kind) {
    case SelectorKind::kAuto:
      return "auto";
    case SelectorKind::kPredictor:
      return "predictor";
    case SelectorKind::kSketch:
      return "sketch";
    case SelectorKind::kGate:
      return "gate";
    case SelectorKind::kAll:
      break;
  }
  return "all";
}

// The gate is a matrix: what it says is exact and costs no bundle.
bool HasGateMatrix(const ModelFile& model) { return model.config().ffn_layout == FfnLayout::kGateAndBundle2; }

}  // namespace

Result<SelectorKind> ChooseSelector(const ModelFile& model, const PredictorInfo* predictor, const EngineOptions& options) {
  const auto refuse = [&](const char* why) {
    return MakeError(ErrorCode::kUsage, "{}: --selector {}: {}", model.path(), SelectorName(options.selector), why);
  };
  // Modes without bundles on demand compute with all neurons, and so does --no-predictor.
  const bool guesses = options.mode == RunMode::kFlash && options.predictor;
  const SelectorKind asked = guesses ? options.selector : SelectorKind::kAuto;
  if (HasGateMatrix(model)) {
    if (asked == SelectorKind::kAuto || asked == SelectorKind::kGate) return SelectorKind::kGate;
    return refuse("the layout gate+bundle2 chooses by its gate: expected auto or gate");
  }
  if (!guesses || asked == SelectorKind::kAll) return SelectorKind::kAll;
  if (asked == SelectorKind::kAuto) return predictor != nullptr ? SelectorKind::kPredictor : SelectorKind::kAll;
  if (!model.has_bundles()) return refuse("the FFN lies in matrices, without bundles to choose from (frugal pack): expected auto or all");
  if (asked == SelectorKind::kPredictor && predictor == nullptr) return refuse("there is no predictor file: run `frugal train` first");
  if (asked != SelectorKind::kPredictor && !model.config().activation.is_sparse()) {
    return refuse("no neuron of this activation is exactly zero: expected auto or all");
  }
  if (asked == SelectorKind::kGate && !model.config().gated) {
    return refuse("the model has no gate: expected auto, predictor, sketch or all");
  }
  return asked;
}

Status RequireSparsifiable(const ModelFile& model) {
  const ModelConfig& config = model.config();
  if (config.activation.is_sparse()) {
    return MakeError(ErrorCode::kUsage, "{}: --sparsify: its activation is {}, whose zeros are left out anyway, exactly: run it without",
                     model.path(), ActivationName(config.activation));
  }
  if (!config.gated) {
    return MakeError(ErrorCode::kUsage,
                     "{}: --sparsify: its FFN has no gate: whether a neuron is small is known only when half of it was read", model.path());
  }
  if (HasGateMatrix(model)) return {};
  return MakeError(ErrorCode::kUsage,
                   "{}: --sparsify: {}; neurons can be left unread where the gate is a matrix and up and down are in bundles: "
                   "`frugal pack SOURCE -o NEW.gguf --layout gate+bundle2` makes such a file",
                   model.path(), model.is_packed() ? fmt::format("its FFN is packed as {}", FfnLayoutName(config.ffn_layout))
                                                   : std::string("it is not packed"));
}

bool MayTakeSketch(const ModelFile& model, SelectorKind chosen, const EngineOptions& options) {
  return chosen == SelectorKind::kAll && options.selector == SelectorKind::kAuto && options.mode == RunMode::kFlash && options.predictor &&
         options.ram_bytes != 0 && model.config().ffn_layout == FfnLayout::kBundle3 && model.config().activation.is_sparse();
}

bool HasSketch(const ModelFile& model, SelectorKind selector) {
  return selector == SelectorKind::kSketch || (selector == SelectorKind::kGate && !HasGateMatrix(model));
}

bool SketchMayGuessEarly(const ModelFile& model, SelectorKind selector) {
  return HasSketch(model, selector) && !model.config().parallel() && model.config().norm_placement == NormPlacement::kPre;
}

std::string DescribeSelector(const ModelFile& model, const EngineOptions& options, const EnginePlan& plan) {
  const bool no_file = options.selector == SelectorKind::kAuto && options.mode == RunMode::kFlash && model.has_bundles();
  const char* const early = plan.use_early ? ", early prediction" : "";
  const char* const hint = !no_file ? "" : options.predictor ? " (no predictor file: run `frugal train`)" : " (--no-predictor)";
  switch (plan.selector) {
    case SelectorKind::kPredictor:
      return fmt::format("predictor{}", early);
    case SelectorKind::kSketch:
      return fmt::format("sketch of the {}, {}{}{}", model.config().gated ? "gate" : "up matrix",
                         plan.exact ? "exact" : "approximate", early, hint);
    case SelectorKind::kGate:
      if (plan.sparsified) return "neurons whose gate is above its layer's threshold";
      if (!model.config().activation.is_sparse()) return "all neurons (--sparsify leaves some out)";
      return fmt::format("neurons whose gate{} is not zero{}", HasSketch(model, plan.selector) ? ", a copy in RAM," : "", early);
    default:
      return fmt::format("all neurons{}", hint);
  }
}

}  // namespace frugal
