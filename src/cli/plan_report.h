// What `frugal plan` says of an EnginePlan, as text and as JSON. Pure formatting, so that it can be tested
// without a terminal.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "src/engine/engine.h"
#include "src/engine/expectation.h"
#include "src/engine/layout_choice.h"

namespace frugal {

// The same budget with another choice of flags.
struct PlanAlternative {
  std::string flags;  // "as asked", "--resident q8_0"
  bool lossy = false;
  uint32_t num_slots = 0;
  double slots_share = 0;  // of the FFN
  double read_bytes = 0;   // expected per token
  std::optional<double> token_seconds;
};

struct PlanReport {
  const ModelFile* model = nullptr;
  const EnginePlan* plan = nullptr;
  const EngineOptions* options = nullptr;
  // The smallest budget if the context may be reduced to its least; only when that is less than
  // plan->smallest_bytes.
  std::optional<uint64_t> smallest_reduced_bytes;
  uint32_t reduced_context = 0;
  Expectation expectation;
  std::string basis;  // NeuronUse::basis
  std::vector<PlanAlternative> alternatives;  // what was asked first; empty where there is nothing to choose
  LayoutComparison layouts;
  std::string device_name;  // empty: not measured
  std::string selector;     // "predictor", "all neurons (no predictor file ...)"
};

enum class TensorDetail { kGrouped, kEach };
std::string FormatPlan(const PlanReport& report, TensorDetail detail);
nlohmann::ordered_json PlanToJson(const PlanReport& report);

// A table and its best lines; empty for none.
std::string FormatAlternatives(const std::vector<PlanAlternative>& alternatives);

// Tensors of all layers that live alike as one line: "blk.*.attn_q.weight".
struct TensorGroup {
  std::string name;
  std::string where;
  uint64_t num_tensors = 0;
  uint64_t size_bytes = 0;
  uint64_t resident_bytes = 0;
};
std::vector<TensorGroup> GroupTensors(const std::vector<PlacedTensor>& tensors);

// `bytes` as --ram takes it, rounded up to whole M: "17M".
std::string RamFlag(uint64_t bytes);

}  // namespace frugal
