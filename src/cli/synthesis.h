// A synthetic model with all that belongs to it: the packed file, its predictors, the text for which its
// activity is as promised. It is here because predictor files are train's, synthetic weights are pack's.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "src/base/function_ref.h"
#include "src/base/result.h"
#include "src/pack/synthetic_model.h"

namespace frugal {

struct SynthesisPaths {
  std::string model, predictor, tokens;
};
// NAME.gguf, NAME.predict.gguf, NAME.tokens.txt.
SynthesisPaths SynthesisPathsOf(const std::string& model_path);

// Writes the three files. `progress` as Pack has it.
Result<SyntheticReport> WriteSynthesis(const SyntheticOptions& options, SyntheticModel& model, ThreadPool& pool,
                                       FunctionRef<void(double share, std::string_view what)> progress);

}  // namespace frugal
