// What to do with a path that is no model file but a checkpoint, which has to be packed first: said behind the error.
#pragma once

#include <string>

namespace frugal {

// "; `frugal pack DIR -o NAME.gguf` makes a model file of it" for a directory, a safetensors or a PyTorch file; else empty.
std::string PackHint(const std::string& path);

}  // namespace frugal
