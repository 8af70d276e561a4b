// The bytes of finished parts in the partial file. They are read by the same build of the program on the same
// machine only (the fingerprint sees to that), so the layout has no version of its own.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "src/train/layer_fit.h"
#include "src/train/layer_run.h"

namespace frugal {

std::vector<std::byte> EncodeText(const TokenSequences& text);
Result<TokenSequences> DecodeText(std::span<const std::byte> bytes);

std::vector<std::byte> EncodeLayer(const LayerPredictors& layer);
Result<LayerPredictors> DecodeLayer(std::span<const std::byte> bytes);

}  // namespace frugal
