// The narrow waist: opens a packed model within a budget and steps it. Below here nothing prints, above here nothing knows where
// weights live. One thread (the one that calls) owns engine, sessions, cache and ring.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "src/base/thread_pool.h"
#include "src/cache/access_trace.h"
#include "src/engine/plan.h"
#include "src/engine/recall_sampler.h"
#include "src/engine/sampler.h"
#include "src/engine/sparsity_meter.h"
#include "src/model/forward.h"
#include "src/text/tokenizer.h"

namespace frugal {

// One sequence: its KV cache and how far it is.
class Session {
 public:
  uint32_t position() const { return position_; }
  uint32_t max_context() const { return kv_.max_context(); }
  // Takes back what lies behind `position` (rejected tokens, a new prompt).
  void Rewind(uint32_t position) {
    CHECK(position <= position_);
    position_ = position;
  }

 private:
  friend class Engine;
  KvCache kv_;
  uint32_t position_ = 0;
};

struct EngineStatistics {
  WeightsStatistics weights;
  ForwardTimes times;
  uint64_t num_steps = 0;
  uint64_t num_rows = 0;
  uint64_t step_ns = 0;
  double recall = -1.0;  // sampled; negative: not sampled
  double active_share = -1.0;  // of the neurons, in the first tokens of a model that is said to be sparse; negative: not measured
  std::vector<uint64_t> tiles_done;  // by worker
};

class Engine {
 public:
  // Opens header, plans, refuses (kDoesNotFit) before any weight is read, then reads what is resident.
  static Result<std::unique_ptr<Engine>> Open(const EngineOptions& options);
  ~Engine();

  // The session's KV memory is a line of the plan: one session at a time for now.
  Result<std::unique_ptr<Session>> NewSession();

  // Runs the tokens at the session's position; logits of the last `num_logit_rows` (1 .. plan().max_logit_rows). At most plan().max_rows
  // tokens. kUsage when the context is full or an id is outside the vocabulary.
  Status Step(Session& session, std::span<const int32_t> tokens, uint32_t num_logit_rows, const LayerObserver* observer = nullptr);
  // The same for any number of tokens, in batches; logits of the last token.
  Status Prefill(Session& session, std::span<const int32_t> tokens);
  // From now on every step's active sets are written there; nullptr ends that. `trace` outlives its use.
  void set_trace(AccessTraceWriter* trace) { trace_ = trace; }
  // [num_logit_rows, vocab_size], valid until the next Step.
  std::span<const float> logits() const { return forward_->logits(); }
  std::span<const float> logits(uint32_t row) const {
    return logits().subspan(size_t{row} * config().vocab_size, config().vocab_size);
  }

  const EnginePlan& plan() const { return plan_; }
  const EngineOptions& options() const { return options_; }
  const ModelFile& model() const { return *model_; }
  const ModelConfig& config() const { return model_->config(); }
  const Tokenizer* tokenizer() const { return tokenizer_.has_value() ? &*tokenizer_ : nullptr; }
  Weights& weights() { return *weights_; }
  bool has_predictor() const { return plan_.use_predictor(); }
  // nullptr without one.
  const PredictorInfo* predictor_info() const { return has_predictor() ? &predictors_->info() : nullptr; }
  // Whether the selector misses no active neuron.
  bool is_exact() const { return plan_.exact; }
  // Of a run that leaves out neurons; else nullptr.
  const GateThresholds* thresholds() const { return thresholds_ ? &*thresholds_ : nullptr; }
  EngineStatistics statistics() const;
  void ResetRecall();

  // A line for people: mode, selector, layout, I/O backend, direct or not.
  std::string Describe() const;

 private:
  Engine() = default;
  Status OpenSelectors();
  Status PinPopular();

  EngineOptions options_;
  std::unique_ptr<ModelFile> model_;
  EnginePlan plan_;
  std::optional<Tokenizer> tokenizer_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<Weights> weights_;
  std::optional<PredictorFile> predictors_;
  std::optional<GateThresholds> thresholds_;
  std::unique_ptr<Selector> selector_, early_;
  std::unique_ptr<Forward> forward_;
  std::optional<RecallSampler> recall_;
  std::optional<SparsityMeter> sparsity_;  // of a model that is said to be sparse, or is sparsified
  AccessTraceWriter* trace_ = nullptr;
  std::vector<BatchRow> rows_;  // [max_rows]
  uint64_t num_steps_ = 0, num_rows_ = 0, step_ns_ = 0;
};

// NAME.predict.gguf for NAME.gguf.
std::string DefaultPredictorPath(const std::string& model_path);

// What Open finds before it reads weights: for `plan`.
struct OpenedHeader {
  std::unique_ptr<ModelFile> model;
  std::optional<PredictorInfo> predictor;
  std::optional<GateThresholds> thresholds;  // where the options sparsify
  const GateThresholds* thresholds_or_null() const { return thresholds ? &*thresholds : nullptr; }
  TokenizerBytes tokenizer_bytes;
};
Result<OpenedHeader> OpenHeader(const EngineOptions& options);

}  // namespace frugal
