// Which neurons a run will use, before it: from the statistics of a predictor file, from what a packed file says of its activity
// (format/neuron_activity.h), else from what is usual for the activation, which is then called an assumption. No weight is read.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "src/base/result.h"
#include "src/engine/plan.h"
#include "src/format/gate_thresholds.h"
#include "src/format/neuron_activity.h"
#include "src/model/model_file.h"
#include "src/model/predictor_file.h"

namespace frugal {

// How a text uses the neurons of all layers together.
struct NeuronUse {
  std::vector<float> shares;  // of the tokens, that use each neuron // [num_layers * ffn_size]
  // Entry i: bundles of a token that none of the 2^i tokens before it used. Empty: not known.
  std::vector<double> window_misses;  // [kNumWindows]
  double early_wrong = 0;             // bundles of a token that early prediction names in vain
  double active = 0;                  // bundles of a token that turn out to be active: only their down rows are touched; all where unknown
  std::string basis;                  // where these come from, for the user; empty: every neuron is used
  bool assumed = false;               // nothing of it was measured
};

// Every neuron for every token: what flash does without a selector.
NeuronUse AllNeuronsUsed(const ModelConfig& config);
// The share that --sparsify leaves, the same of every neuron.
NeuronUse NeuronsLeft(const ModelConfig& config, const GateThresholds& thresholds);
// A predictor file's popularity, scaled in each layer to the share that the held-out part of its training
// predicted, and its windows' misses. Layers without a predictor use every neuron. kBadModel names the file and the tensor.
Result<NeuronUse> LoadNeuronUse(const PredictorInfo& predictor, const ModelConfig& config);

// Share of a layer's neurons that a gate sketch of 4 bits marks where `active` is the share of gates above the threshold: gates as if
// they were normally distributed, the sketch's errors too.
double SketchedShare(double active);

// Activity that a packed file knows of, and what it counts: gates that let a neuron through, or neurons that are active (for a dReLU not
// the same).
struct KnownActivity {
  NeuronActivity activity;
  bool of_gates = false;
};
// Nothing where the file has none. kBadModel: its keys.
Result<std::optional<KnownActivity>> FindActivity(const ModelFile& model);

// What an exact gate (without gate: up), or a sketch of it, chooses: of the plan its selector counts. Nothing known: what is usual for the
// activation.
NeuronUse ExpectGateUse(const ModelConfig& config, const std::optional<KnownActivity>& known, const EnginePlan& plan);

// What the plan's selector will choose. `predictor`, `thresholds`: of a plan that uses them. kBadModel: the predictor file, or the model's
// activity keys.
Result<NeuronUse> ExpectNeuronUse(const ModelFile& model, const PredictorInfo* predictor, const GateThresholds* thresholds,
                                  const EnginePlan& plan);

}  // namespace frugal
