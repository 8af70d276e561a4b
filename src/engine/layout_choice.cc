#include "src/engine/layout_choice.h"

#include <algorithm>

#include "src/base/bytes.h"
#include "src/engine/streaming_choice.h"

namespace frugal {
namespace {

// A predictor that is not there yet, as those of "LLM in a flash" are (section 3.1): rank 128 at a hidden size of 4096, in Q8_0; it
// marks 2 to 3 times the neurons that are active.
constexpr uint32_t kHiddenPerRank = 32;
constexpr double kMarkedPerActive = 2.5;
constexpr float kUsualRecall = 0.95f;
constexpr float kUsualEarlyWrong = 0.3f;  // of those that are marked

PredictorInfo UsualPredictor(const ModelConfig& config) {
  PredictorInfo info;
  const uint64_t rank = RoundUp(std::max(1u, config.hidden_size / kHiddenPerRank), kQuantisedBlock);
  info.max_rank = static_cast<uint32_t>(rank);
  const uint64_t down_bytes = *RowBytes(DType::kQ8_0, RoundUp(config.hidden_size, kQuantisedBlock)) * rank;
  const uint64_t factors = down_bytes + *RowBytes(DType::kQ8_0, rank) * config.ffn_size;
  info.early_bytes = config.num_layers * (factors + config.ffn_size * sizeof(float));
  info.on_time_bytes = info.early_bytes + uint64_t{config.num_layers} * config.ffn_size * sizeof(float);  // popularity
  info.layers.resize(config.num_layers);
  for (PredictorLayerInfo& layer : info.layers) layer.rank = layer.early_rank = info.max_rank;
  return info;
}

// What such a predictor marks where the gates choose `of_gates`.
NeuronUse UsualPrediction(const NeuronUse& of_gates) {
  NeuronUse use = of_gates;
  double marked = 0, chosen = 0;
  for (size_t i = 0; i < use.shares.size(); ++i) {
    chosen += static_cast<double>(use.shares[i]);
    use.shares[i] = std::min(1.0f, use.shares[i] * static_cast<float>(kMarkedPerActive));
    marked += static_cast<double>(use.shares[i]);
  }
  for (double& misses : use.window_misses) misses *= chosen > 0 ? marked / chosen : 1;
  use.active = kUsualRecall * of_gates.active;
  use.early_wrong = kUsualEarlyWrong * marked;
  return use;
}

class Comparer {
 public:
  Comparer(const OpenedHeader& header, const EngineOptions& options, const PackedForm& form, const DeviceProfile* profile)
      : header_(header), options_(options), form_(form), profile_(profile) {}

  Result<LayoutComparison> Run() {
    FRUGAL_ASSIGN(activity_, FindActivity(*header_.model));
    const bool has_file = header_.predictor && header_.model->config().ffn_layout == FfnLayout::kBundle3;
    FRUGAL_TRY(Add(FfnLayout::kGateAndBundle2, SelectorKind::kGate, nullptr));
    FRUGAL_TRY(Add(FfnLayout::kBundle3, SelectorKind::kSketch, nullptr));
    const PredictorInfo usual = UsualPredictor(header_.model->config());
    FRUGAL_TRY(Add(FfnLayout::kBundle3, SelectorKind::kPredictor, has_file ? &*header_.predictor : &usual));
    comparison_.candidates.back().is_assumed = !has_file;
    ChooseBest();
    return std::move(comparison_);
  }

 private:
  Status Add(FfnLayout layout, SelectorKind selector, const PredictorInfo* predictor) {
    LayoutCandidate candidate;
    candidate.layout = layout;
    candidate.selector = selector;
    form_.layout = layout;
    std::optional<ModelFile> packed;
    if (header_.model->config().ffn_layout != layout) {
      FRUGAL_ASSIGN(packed, ModelFile::OpenAsIfPacked(options_.model_path, options_.activation, form_));
    }
    const ModelFile& model = packed ? *packed : *header_.model;
    EngineOptions options = options_;
    options.mode = RunMode::kFlash;
    options.selector = selector;
    const Result<EnginePlan> plan = MakePlan(model, predictor, header_.tokenizer_bytes, options);
    if (!plan && plan.error().code != ErrorCode::kDoesNotFit) return plan.error();
    candidate.fits = plan.has_value();
    if (plan) FRUGAL_TRY(Fill(model, predictor, *plan, &candidate));
    comparison_.candidates.push_back(std::move(candidate));
    return {};
  }

  Status Fill(const ModelFile& model, const PredictorInfo* predictor, const EnginePlan& plan, LayoutCandidate* candidate) {
    const ModelConfig& config = model.config();
    NeuronUse use = ExpectGateUse(config, activity_, plan);
    comparison_.basis = use.basis;
    if (predictor != nullptr && !predictor->path.empty()) {
      FRUGAL_ASSIGN(use, LoadNeuronUse(*predictor, config));
    } else if (predictor != nullptr) {
      use = UsualPrediction(use);
    }
    candidate->exact = plan.exact;
    candidate->num_slots = plan.weights.cache.num_slots;
    candidate->slots_share = static_cast<double>(candidate->num_slots) / static_cast<double>(uint64_t{config.num_layers} * config.ffn_size);
    candidate->selecting_bytes = plan.ledger.line_bytes("gate sketch") + plan.ledger.line_bytes("predictors");
    for (uint32_t layer = 0; layer < config.num_layers; ++layer) {
      const uint32_t gate = model.layer(layer).gate;
      if (gate != kNoMatrix) candidate->selecting_bytes += plan.tensors[gate].resident_bytes;
    }
    candidate->expectation = ExpectDecode(model, plan, use, profile_);
    return {};
  }

  static double Cost(const LayoutCandidate& candidate) {
    return candidate.expectation.token_seconds.value_or(candidate.expectation.read_bytes());
  }

  // Of the exact ones the best, unless one that guesses is better by far. Ties go to the first.
  void ChooseBest() {
    const auto find = [this](bool exact) {
      std::optional<size_t> best;
      for (size_t i = 0; i < comparison_.candidates.size(); ++i) {
        const LayoutCandidate& one = comparison_.candidates[i];
        if (!one.fits || one.exact != exact) continue;
        if (!best || Cost(one) < Cost(comparison_.candidates[*best])) best = i;
      }
      return best;
    };
    const std::optional<size_t> exact = find(true), guess = find(false);
    comparison_.best = exact ? exact : guess;
    if (!exact || !guess) return;
    const std::vector<LayoutCandidate>& candidates = comparison_.candidates;
    if (Cost(candidates[*exact]) > kLeastGainOfSelecting * Cost(candidates[*guess])) comparison_.best = guess;
  }

  const OpenedHeader& header_;
  const EngineOptions& options_;
  PackedForm form_;
  const DeviceProfile* const profile_;
  std::optional<KnownActivity> activity_;
  LayoutComparison comparison_;
};

}  // namespace

bool HasLayoutChoice(const ModelConfig& config) { return config.gated && config.activation.is_sparse(); }

Result<LayoutComparison> CompareLayouts(const OpenedHeader& header, const EngineOptions& options, PackedForm form,
                                        const DeviceProfile* profile) {
  if (!HasLayoutChoice(header.model->config()) || options.ram_bytes == 0) return LayoutComparison();
  return Comparer(header, options, form, profile).Run();
}

std::string DescribeCandidate(const LayoutCandidate& candidate) {
  const char* const name = FfnLayoutName(candidate.layout);
  switch (candidate.selector) {
    case SelectorKind::kGate:
      return fmt::format("{}, the gate chooses", name);
    case SelectorKind::kSketch:
      return fmt::format("{}, gate sketch", name);
    default:
      return fmt::format("{}, predictor{}", name, candidate.is_assumed ? " (usual)" : "");
  }
}

}  // namespace frugal
