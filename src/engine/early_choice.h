// Whether neurons should be guessed before attention. Wrong guesses take reads, and early predictors memory: where reading is all that a
// token waits for, they make it slower; where attention takes long, the others hide behind it.
#pragma once

#include "src/base/result.h"
#include "src/engine/engine.h"
#include "src/io/device_profile.h"

namespace frugal {

// By the expected time of a token with and without. Times of nearly the same length leave it as it usually is: predictors guess early,
// where the file has early ones, a gate sketch does not. False where the plan may not guess.
Result<bool> EarlyPays(const OpenedHeader& header, const EngineOptions& options, const DeviceProfile& profile);

}  // namespace frugal
