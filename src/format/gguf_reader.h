// Reads the header of a GGUF file (v2, v3): keys, values and tensor infos, everything validated. Arrays stay
// in the file and are walked on demand, so that opening a vocabulary of 256,000 tokens costs no memory.
// Weight data are never read here. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "src/base/function_ref.h"
#include "src/base/result.h"
#include "src/format/byte_source.h"
#include "src/tensor/tensor_info.h"

namespace frugal {

enum class GgufType : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

struct GgufArray {
  GgufType element_type = GgufType::kU8;  // never kArray: nested arrays are refused
  uint64_t count = 0;
  uint64_t offset_bytes = 0;  // of the first element in the file
  uint64_t size_bytes = 0;
};

// Integers are widened; strings are copied (at most kMaxStringBytes each).
using GgufValue = std::variant<uint64_t, int64_t, double, bool, std::string, GgufArray>;

struct GgufKeyValue {
  std::string key;
  GgufType type = GgufType::kU8;
  GgufValue value;
  uint64_t offset_bytes = 0;  // of the value in the file, for messages
};

class GgufReader {
 public:
  static constexpr uint64_t kMaxStringBytes = 1 << 20;
  static constexpr uint64_t kMaxKeyBytes = 65535;  // the specification's
  static constexpr uint64_t kMaxNameBytes = 1024;  // the specification says 64; longer ones are in use
  static constexpr uint64_t kMaxKeyValues = 1 << 16;
  static constexpr uint64_t kMaxTensors = 1 << 20;

  // `source` is taken and kept. All errors are kBadModel (kIo when the bytes cannot be read) and name the
  // file, the key or tensor and the offset. Checked: magic, version, counts, types, alignment (a power of two
  // >= 8), names (unique, no NUL, valid UTF-8), dims (1..4 of them, > 0, no overflow), dtype known, offsets
  // aligned, inside the file, each tensor where the one before it (padded) ends, nothing but padding behind
  // the last.
  static Result<GgufReader> Open(std::unique_ptr<ByteSource> source);

  const std::string& name() const;  // of the file, for messages
  uint32_t version() const { return version_; }
  uint64_t alignment_bytes() const { return alignment_bytes_; }
  uint64_t data_offset_bytes() const { return data_offset_bytes_; }
  const std::vector<GgufKeyValue>& key_values() const { return key_values_; }
  const std::vector<TensorInfo>& tensors() const {
    return tensors_;
  }                                                           // in file order; extents absolute in the file
  const TensorInfo* FindTensor(std::string_view name) const;  // nullptr when absent
  const GgufKeyValue* Find(std::string_view key) const;       // nullptr when absent

  // kBadModel when absent or of another type; integers of any width and sign are taken where the value fits.
  Result<uint64_t> GetUint(std::string_view key) const;
  Result<double> GetFloat(std::string_view key) const;
  Result<bool> GetBool(std::string_view key) const;
  Result<std::string> GetString(std::string_view key) const;
  // Walks an array of strings in order; the view is valid during the call only. `fn` may return an error,
  // which ends the walk.
  Status ForEachString(std::string_view key,
                       FunctionRef<Status(uint64_t index, std::string_view text)> fn) const;
  // Walks an array of any integer type; kBadModel at a u64 above 2^63 - 1.
  Status ForEachInt(std::string_view key, FunctionRef<Status(uint64_t index, int64_t value)> fn) const;
  // Walks an array of f32.
  Status ForEachFloat(std::string_view key, FunctionRef<Status(uint64_t index, float value)> fn) const;
  Result<uint64_t> ArrayCount(std::string_view key) const;

 private:
  GgufReader() = default;
  Result<const GgufKeyValue*> Require(std::string_view key) const;
  Error WrongValue(const GgufKeyValue& entry, std::string_view expected) const;

  std::unique_ptr<ByteSource> source_;
  uint32_t version_ = 0;
  uint64_t alignment_bytes_ = 32;
  uint64_t data_offset_bytes_ = 0;
  std::vector<GgufKeyValue> key_values_;
  std::vector<TensorInfo> tensors_;
  std::vector<uint32_t> key_order_;     // indices of key_values_ by key // [num_key_values]
  std::vector<uint32_t> tensor_order_;  // indices of tensors_ by name // [num_tensors]
};

}  // namespace frugal
