// How fast this machine's processor multiplies weights of each type: what `plan` needs to know where that, not memory, is the bottleneck.
#pragma once

#include <vector>

#include "src/base/result.h"
#include "src/io/device_profile.h"

namespace frugal {

// Of all types that weights may have, with all usable cores at work. Takes about half a second.
Result<std::vector<ProductSpeed>> MeasureProductSpeeds();

}  // namespace frugal
