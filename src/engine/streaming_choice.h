// Whether selecting neurons pays: where few of them are spared, or the device reads small things slowly, the whole model in large
// sequential reads (hybrid mode) is nearly as fast, and exact.
#pragma once

#include <optional>
#include <string>

#include "src/base/result.h"
#include "src/engine/engine.h"
#include "src/engine/expectation.h"
#include "src/io/device_profile.h"

namespace frugal {

// Flash mode has to be so many times faster than hybrid to be worth what predictors miss.
constexpr double kLeastGainOfSelecting = 1.3;

// Of the same budget. Both by reads alone, which is what modes differ in, and by tokens: a device may be so fast that computing all
// neurons is what takes time. False where hybrid streams nothing, or where the device was not measured.
bool StreamingPays(const Expectation& flash, const Expectation& hybrid);

struct StreamingChoice {
  bool pays = false;
  double flash_read_seconds = 0, hybrid_read_seconds = 0;
};
// Nothing where there is no choice: no flash mode, neither predictor nor thresholds, no budget, or hybrid mode does not fit it.
Result<std::optional<StreamingChoice>> CompareWithStreaming(const OpenedHeader& header, const EngineOptions& options,
                                                            const DeviceProfile& profile);
// For the user, behind the mode's name.
std::string DescribeChoice(const StreamingChoice& choice);

}  // namespace frugal
