// Which layout of a gated FFN with a sparse activation is the better one for a budget: the gate as a matrix that chooses exactly
// (gate+bundle2), or inside the bundles, chosen by a gate sketch or by a predictor (bundle3). For `plan`, and for `pack --layout auto`.
// Plans and expectations of files that need not exist; reads headers, no weight.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "src/engine/engine.h"
#include "src/engine/expectation.h"
#include "src/io/device_profile.h"
#include "src/model/packed_form.h"

namespace frugal {

struct LayoutCandidate {
  FfnLayout layout = FfnLayout::kGateAndBundle2;
  SelectorKind selector = SelectorKind::kGate;
  bool exact = false;
  bool is_assumed = false;          // its predictor: there is no file
  bool fits = false;                // the rest is of a plan in the budget
  uint64_t selecting_bytes = 0;     // in RAM for the choice: the gate's resident part, the sketch, the predictors
  uint64_t num_slots = 0;
  double slots_share = 0;           // of the FFN's bundles
  Expectation expectation;
};

struct LayoutComparison {
  std::vector<LayoutCandidate> candidates;  // empty: there is no choice to make
  std::optional<size_t> best;               // none where none fits the budget
  std::string basis;                        // where the activity comes from (NeuronUse::basis)
};

// Whether the model has a choice of layouts: gated, and its activation is sparse.
bool HasLayoutChoice(const ModelConfig& config);

// In flash mode, the options' budget and flags; `form.layout` does not matter. `profile`: nullptr when the device was not measured; then
// the bytes read decide. A layout that guesses has to be kLeastGainOfSelecting times as good as one that does not.
Result<LayoutComparison> CompareLayouts(const OpenedHeader& header, const EngineOptions& options, PackedForm form,
                                        const DeviceProfile* profile);

// "gate+bundle2, the gate chooses", "bundle3, gate sketch", ...
std::string DescribeCandidate(const LayoutCandidate& candidate);

}  // namespace frugal
