// Whether a gate sketch should guess before attention too. It takes no memory, but its wrong guesses take reads: where reading is all
// that a token waits for, they make it slower; where attention takes long, the others hide behind it.
#pragma once

#include "src/base/result.h"
#include "src/engine/engine.h"
#include "src/io/device_profile.h"

namespace frugal {

// By the expected time of a token with and without (EngineOptions::sketch_early). False where the plan has no sketch, or may not guess.
Result<bool> EarlySketchPays(const OpenedHeader& header, const EngineOptions& options, const DeviceProfile& profile);

}  // namespace frugal
