// What lies on the stack of the pickle reader. Part of pickle.h.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "src/tensor/dtype.h"

namespace frugal {

// The Python objects that tensors need; those of storages say their element type.
enum class PickleGlobal : uint32_t {
  kRebuildTensor,
  kRebuildParameter,
  kRebuildParameterWithState,
  kRebuildFromType,
  kTensorType,
  kOrderedDict,
  kStorage,
};

struct PickleGlobalInfo {
  std::string_view module, name;
  PickleGlobal global;
  std::optional<DType> dtype;  // of storages; nothing where DType has none
};

constexpr std::array<PickleGlobalInfo, 19> kPickleGlobals = {{
    {"torch._utils", "_rebuild_tensor_v2", PickleGlobal::kRebuildTensor, {}},
    {"torch._utils", "_rebuild_parameter", PickleGlobal::kRebuildParameter, {}},
    {"torch._utils", "_rebuild_parameter_with_state", PickleGlobal::kRebuildParameterWithState, {}},
    {"torch._tensor", "_rebuild_from_type_v2", PickleGlobal::kRebuildFromType, {}},
    {"torch", "Tensor", PickleGlobal::kTensorType, {}},
    {"torch.nn.parameter", "Parameter", PickleGlobal::kTensorType, {}},
    {"collections", "OrderedDict", PickleGlobal::kOrderedDict, {}},
    {"torch", "FloatStorage", PickleGlobal::kStorage, DType::kF32},
    {"torch", "HalfStorage", PickleGlobal::kStorage, DType::kF16},
    {"torch", "BFloat16Storage", PickleGlobal::kStorage, DType::kBF16},
    {"torch", "CharStorage", PickleGlobal::kStorage, DType::kI8},
    {"torch", "IntStorage", PickleGlobal::kStorage, DType::kI32},
    {"torch", "LongStorage", PickleGlobal::kStorage, DType::kI64},
    {"torch", "DoubleStorage", PickleGlobal::kStorage, {}},
    {"torch", "ByteStorage", PickleGlobal::kStorage, {}},
    {"torch", "BoolStorage", PickleGlobal::kStorage, {}},
    {"torch", "ShortStorage", PickleGlobal::kStorage, {}},
    {"torch", "ComplexFloatStorage", PickleGlobal::kStorage, {}},
    {"torch", "ComplexDoubleStorage", PickleGlobal::kStorage, {}},
}};

enum class PickleKind : uint32_t {
  kNone,
  kBool,
  kInt,     // payload: the number
  kFloat,   // nothing is kept: no tensor needs one
  kText,    // payload: where its bytes lie in the pickle; count: how many
  kBytes,   // nothing is kept
  kTuple,   // payload: index of its first item; count: how many
  kList,    // nothing is kept
  kDict,    // payload: index of the dict
  kGlobal,  // payload: index in kPickleGlobals
  kStorage, // payload: index of the storage
  kTensor,  // payload: index of the tensor
};

constexpr std::string_view PickleKindName(PickleKind kind) {
  constexpr std::array<std::string_view, 12> kNames = {"None", "a bool",  "a number", "a float",  "a string", "bytes",
                                                       "a tuple", "a list", "a dict", "a function or type", "a storage", "a tensor"};
  return kNames[static_cast<size_t>(kind)];
}

struct PickleValue {
  PickleKind kind = PickleKind::kNone;
  uint32_t count = 0;
  int64_t payload = 0;
};

// "GLOBAL"; nothing when no protocol has the opcode.
std::optional<std::string_view> PickleOpcodeName(uint8_t opcode);

}  // namespace frugal
