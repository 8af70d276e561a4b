// What to do with a path that a verb cannot take: said behind the error.
#pragma once

#include <string>
#include <string_view>

namespace frugal {

// Whether a verb takes a checkpoint as it lies.
bool RunsCheckpoints(std::string_view verb);

// For a verb that takes packed models alone: "; a checkpoint is packed first: frugal pack DIR -o NAME.gguf" of a directory, a safetensors or
// a PyTorch file. For others: "; the model is its directory, DIR" of another file of a checkpoint. Else empty.
std::string PackHint(std::string_view verb, const std::string& path);

}  // namespace frugal
