// frugal plan: what a run would take, before any weight is read.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "src/cli/plan_report.h"
#include "src/cli/profile_cache.h"
#include "src/cli/verbs.h"
#include "src/engine/selector_choice.h"

namespace frugal {
namespace {

// plan.cc reduces the context to no less than this before it refuses.
constexpr uint32_t kLeastContext = 64;

struct PlanFlags {
  EngineFlags engine;
  bool json = false, tensors = false;
};

// The smallest budget when the planner may reduce the context.
Result<std::optional<uint64_t>> SmallestReduced(const OpenedHeader& header, EngineOptions options,
                                                const EnginePlan& plan) {
  if (options.context != 0 || plan.context <= kLeastContext) return std::optional<uint64_t>();
  options.context = kLeastContext;
  options.ram_bytes = 0;
  const PredictorInfo* predictor = header.predictor ? &*header.predictor : nullptr;
  FRUGAL_ASSIGN(const EnginePlan reduced,
                MakePlan(*header.model, predictor, header.tokenizer_bytes, options));
  if (reduced.smallest_bytes >= plan.smallest_bytes) return std::optional<uint64_t>();
  return std::optional<uint64_t>(reduced.smallest_bytes);
}

// What else the budget of flash mode may go to; empty when there is no choice.
Result<std::vector<PlanAlternative>> ListAlternatives(const OpenedHeader& header, const EngineOptions& asked,
                                                      const DeviceProfile* profile) {
  std::vector<PlanAlternative> alternatives;
  if (asked.mode != RunMode::kFlash || asked.ram_bytes == 0 || asked.slots_share || asked.num_slots) return alternatives;
  const uint64_t num_bundles = uint64_t{header.model->config().num_layers} * header.model->config().ffn_size;
  const auto add = [&](const char* flags, bool lossy, const EngineOptions& options) -> Status {
    const PredictorInfo* const predictor = header.predictor ? &*header.predictor : nullptr;
    const Result<EnginePlan> plan = MakePlan(*header.model, predictor, header.tokenizer_bytes, options);
    if (!plan && plan.error().code == ErrorCode::kDoesNotFit) return {};
    if (!plan) return plan.error();
    FRUGAL_ASSIGN(const NeuronUse use, ExpectNeuronUse(*header.model, predictor, header.thresholds_or_null(), *plan));
    const Expectation expectation = ExpectDecode(*header.model, *plan, use, profile);
    const uint32_t num_slots = plan->weights.cache.num_slots;
    alternatives.push_back({flags, lossy, num_slots, static_cast<double>(num_slots) / static_cast<double>(num_bundles),
                            expectation.read_bytes(), expectation.token_seconds});
    return {};
  };
  FRUGAL_TRY(add("as asked", asked.resident_type.has_value(), asked));
  EngineOptions options = asked;
  if (asked.early && header.predictor && header.predictor->early_bytes > 0) {
    options.early = false;
    FRUGAL_TRY(add("--no-early", asked.resident_type.has_value(), options));
  }
  options = asked;
  if (IsFloat(header.model->matrices()[header.model->layer(0).q].dtype)) {
    options.resident_type = asked.resident_type ? std::nullopt : std::optional(DType::kQ8_0);
    FRUGAL_TRY(add(asked.resident_type ? "--resident keep" : "--resident q8_0", options.resident_type.has_value(), options));
  }
  options = asked;
  if (asked.kv_type == DType::kF32) {
    options.kv_type = DType::kF16;
    FRUGAL_TRY(add("--kv f16", true, options));
  }
  if (alternatives.size() < 2) alternatives.clear();
  return alternatives;
}

// Empty where neurons are not to be selected, or the model has no choice of layouts.
Result<LayoutComparison> ListLayouts(const PlanFlags& flags, EngineOptions options, const DeviceProfile* profile) {
  if (flags.engine.mode != "auto" && options.mode != RunMode::kFlash) return LayoutComparison();
  options.mode = RunMode::kFlash;
  options.selector = SelectorKind::kAuto;
  FRUGAL_ASSIGN(const OpenedHeader header, OpenHeader(options));
  return CompareLayouts(header, options, PackedForm(), profile);
}

Status Plan(const PlanFlags& flags) {
  FRUGAL_ASSIGN(EngineOptions options, ResolveEngineFlags(flags.engine));
  FRUGAL_TRY(ChooseMode(flags.engine, &options));
  FRUGAL_ASSIGN(const OpenedHeader header, OpenHeader(options));
  const PredictorInfo* predictor = header.predictor ? &*header.predictor : nullptr;
  FRUGAL_ASSIGN(const EnginePlan plan, MakePlan(*header.model, predictor, header.tokenizer_bytes, options));
  FRUGAL_ASSIGN(const NeuronUse use, ExpectNeuronUse(*header.model, predictor, header.thresholds_or_null(), plan));
  const std::optional<DeviceProfile> profile = FindProfile(options.model_path);
  PlanReport report;
  report.model = header.model.get();
  report.plan = &plan;
  report.options = &options;
  FRUGAL_ASSIGN(report.smallest_reduced_bytes, SmallestReduced(header, options, plan));
  report.reduced_context = kLeastContext;
  report.expectation = ExpectDecode(*header.model, plan, use, profile ? &*profile : nullptr);
  FRUGAL_ASSIGN(report.alternatives, ListAlternatives(header, options, profile ? &*profile : nullptr));
  FRUGAL_ASSIGN(report.layouts, ListLayouts(flags, options, profile ? &*profile : nullptr));
  report.basis = use.basis;
  report.device_name = profile ? profile->device_name : "";
  report.selector = DescribeSelector(*header.model, options, plan);
  StandardOutput out;
  if (flags.json)
    return out.Print(PlanToJson(report).dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  return out.Print(FormatPlan(report, flags.tensors ? TensorDetail::kEach : TensorDetail::kGrouped));
}

}  // namespace

void AddPlanVerb(CLI::App& app, Exit& exit) {
  CLI::App* sub =
      app.add_subcommand("plan", "Show what a run would take: memory, where weights live, expected speed");
  auto flags = std::make_shared<PlanFlags>();
  AddEngineFlags(*sub, flags->engine);
  sub->add_flag("--json", flags->json, "print JSON, with every tensor");
  sub->add_flag("--tensors", flags->tensors, "list every tensor instead of groups");
  exit.RunAsCallback(*sub, [flags] { return Plan(*flags); });
}

}  // namespace frugal
