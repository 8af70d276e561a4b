// What a training run will hold in memory, before it reads any weight: which rows lie in RAM and which in
// temporary files, and how many sequences are sampled together. Pure arithmetic.
#pragma once

#include <cstdint>

#include "src/base/memory_ledger.h"
#include "src/model/model_file.h"
#include "src/model/weight_plan.h"
#include "src/train/row_store.h"
#include "src/train/train.h"

namespace frugal {

// The text: of equal sequences where it is sampled.
struct TextSize {
  uint64_t num_tokens = 0;
  uint64_t num_sequences = 0;
  uint32_t longest = 0;  // tokens of the longest sequence
};

struct TrainPlan {
  MemoryLedger ledger;
  Placement hidden = Placement::kMemory;   // the residual stream of all tokens
  Placement samples = Placement::kMemory;  // a layer's inputs and activity
  uint32_t sample_batch = 0;               // sequences that are sampled together; 0 when the text is given
  WeightPlan sample_weights;
  bool spilled() const { return hidden == Placement::kSpilled || samples == Placement::kSpilled; }
};

struct SamplingPlan {
  uint32_t batch = 0;  // sequences together
  WeightPlan weights;
  uint64_t size_bytes = 0;
};
// As many sequences together as fit beside all the weights; else, weights streamed, as many as fit; the smallest when none fits. The
// result of sampling does not depend on it.
SamplingPlan PlanSampling(const ModelFile& model, const TrainOptions& options, const TextSize& text, uint64_t available_bytes);

// Running one layer over the text, with its weights. behind_run_bytes: taken while the weights are still
// there.
uint64_t LayerRunBytes(const ModelFile& model, const WeightsOptions& options, int num_threads,
                       const TextSize& text, uint64_t behind_run_bytes);

// kDoesNotFit names the smallest budget that works.
Result<TrainPlan> PlanTraining(const ModelFile& model, const TrainOptions& options, const TextSize& text);

}  // namespace frugal
