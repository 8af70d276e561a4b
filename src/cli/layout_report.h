// Which layout of a gated FFN a budget asks for, as text and as JSON, and the answer for `pack --layout auto`.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "src/engine/layout_choice.h"

namespace frugal {

// A table, the better layout and why; empty where there is no choice. `present`: the layout of the file, whose other ones would have to
// be packed.
std::string FormatLayouts(const LayoutComparison& comparison, FfnLayout present);
nlohmann::ordered_json LayoutsToJson(const LayoutComparison& comparison);

struct AutoLayout {
  FfnLayout layout = FfnLayout::kGateAndBundle2;
  std::string reason;  // for the user
};
// For a source that is not packed yet, in flash mode within the budget. Nothing where it has no choice of layouts. kDoesNotFit where no
// layout fits the budget.
Result<std::optional<AutoLayout>> ChooseLayout(const std::string& source_path, std::optional<Activation> activation, const PackedForm& form,
                                               uint64_t ram_bytes);

}  // namespace frugal
