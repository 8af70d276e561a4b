// The tensors that a Python pickle of torch.save names. It is no unpickler: it knows the opcodes and the few globals
// that tensors need, and what it does not know ends with an error that says its name and offset. Nothing is looked up,
// called or imported. One thread; memory is linear in the pickle's bytes, with the limits below.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "src/base/result.h"
#include "src/tensor/dtype.h"

namespace frugal {

constexpr uint64_t kMaxPickleBytes = 32 << 20;   // 100,000 tensors
constexpr size_t kMaxPickleValues = 4 << 20;     // on the stack, in tuples and dicts
constexpr size_t kMaxPickleMemo = 2 << 20;
constexpr size_t kMaxPickleMarks = 256;          // tuples, dicts and lists that are open at once
constexpr size_t kMaxPickleTensors = 1 << 20;
constexpr size_t kMaxPickleDims = 8;

// One entry of the state dict. Numbers are as the pickle has them: 0 <= shape and stride, and the product of the shape
// fits 63 bits. The storage is not looked at.
struct PickledTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<uint64_t> shape;    // outermost first
  std::vector<uint64_t> strides;  // in elements, as many as shape
  uint64_t storage_offset = 0;    // in elements
  std::string storage_key;        // the file of the archive
  uint64_t storage_elements = 0;
  uint64_t offset_bytes = 0;  // of what built it, for messages
};

// `pickle` lies at `offset_bytes` of the file `name` (for messages). Unique names, in the order of the dict. Attributes,
// hooks and states are read over. kBadModel for everything that is not a dict of tensors.
Result<std::vector<PickledTensor>> ReadTensorPickle(std::span<const std::byte> pickle, const std::string& name,
                                                    uint64_t offset_bytes);

}  // namespace frugal
