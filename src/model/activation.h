// The activation of an FFN on spans: which kernel a config asks for.
#pragma once

#include <cstddef>

#include "src/kernels/layer_kernels.h"
#include "src/model/config.h"

namespace frugal {

// Of an FFN without gate, and of the gate. In place.
inline void Activate(const Activation& activation, float* x, size_t size) {
  switch (activation.kind) {
    case ActivationKind::kRelu:
    case ActivationKind::kDRelu:
      return ThresholdRelu(x, 0.0f, size);
    case ActivationKind::kFatRelu:
      return ThresholdRelu(x, activation.threshold, size);
    case ActivationKind::kRelu2:
      return SquaredRelu(x, size);
    case ActivationKind::kSilu:
      return Silu(x, size);
    case ActivationKind::kGelu:
      return Gelu(x, size);
    case ActivationKind::kGeluTanh:
      return GeluTanh(x, size);
  }
}

// x becomes x * gate, with `gate` activated already.
inline void ApplyGate(const Activation& activation, const float* gate, float* x, size_t size) {
  if (activation.kind == ActivationKind::kDRelu) ThresholdRelu(x, 0.0f, size);
  Multiply(x, gate, size);
}

}  // namespace frugal
