// A packed model of a full-size shape of which the header alone is written: enough for plans and expectations.
#pragma once

#include <string>

#include "src/model/config.h"
#include "src/tensor/dtype.h"

namespace frugal::testing {

// The weights are a hole in the file. Of the shapes of SyntheticShapes: Falcon, Phi-2, Llama. `config.ffn_layout` is one
// with bundles. The test fails where the file cannot be written.
void WriteHeaderOnlyModel(const ModelConfig& config, DType type, const std::string& path);

}  // namespace frugal::testing
