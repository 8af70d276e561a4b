// The stack machine of pickle.h: opcodes in pickle_reader.cc, what makes tensors in pickle.cc. Part of pickle.h.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "src/base/bytes.h"
#include "src/base/result.h"
#include "src/format/pickle.h"
#include "src/format/pickle_values.h"

namespace frugal {

constexpr uint64_t kMaxPickleNameBytes = 1024;  // of tensors, modules and objects

class PickleReader {
 public:
  PickleReader(std::span<const std::byte> pickle, const std::string& name, uint64_t offset_bytes)
      : pickle_(pickle), name_(name), offset_bytes_(offset_bytes) {}

  // Once.
  Result<std::vector<PickledTensor>> Run();

 private:
  struct Storage {
    size_t global = 0;  // in kPickleGlobals
    std::string_view key;
    uint64_t num_elements = 0;
  };
  struct Tensor {
    size_t storage = 0;
    uint64_t storage_offset = 0;
    PickleValue shape, strides;  // tuples
    uint64_t offset_bytes = 0;
  };
  using Items = std::vector<std::pair<PickleValue, PickleValue>>;

  Error RefuseAt(uint64_t at, std::string_view what) const {
    return BadModel("{}: pickle: offset {}: {}", name_, offset_bytes_ + at, what);
  }
  Error Refuse(std::string_view what) const { return RefuseAt(opcode_at_, what); }

  template <typename T>
  Result<T> Take() {
    if (pickle_.size() - at_ < sizeof(T)) return RefuseAt(pickle_.size(), "ends within an opcode, expected STOP as the last one");
    const T value = LoadUnaligned<T>(pickle_.data() + at_);
    at_ += sizeof(T);
    return value;
  }
  Result<std::string_view> TakeText(uint64_t size_bytes);
  Result<std::string_view> TakeLine();

  Status Step(uint8_t opcode);
  Status StepData(uint8_t opcode);
  Status StepContainer(uint8_t opcode);
  Status StepMemo(uint8_t opcode);
  Status StepObject(uint8_t opcode);

  Status Push(PickleValue value);
  Status PushText(PickleKind kind, uint64_t size_bytes);
  Status PushTuple(size_t begin);
  Status PushInt(int64_t value) { return Push({PickleKind::kInt, 0, value}); }
  Result<PickleValue> Pop();
  // The values above the last mark begin there; the mark is gone afterwards.
  Result<size_t> PopMark();
  size_t bottom() const { return marks_.empty() ? 0 : marks_.back(); }
  Status SetItems(size_t begin);
  Status Memoize(uint64_t index);
  Status GetMemo(uint64_t index);

  Status PushGlobal(std::string_view module, std::string_view name);
  Status PushStorage();
  Status Reduce();
  Status Call(PickleGlobal function, const PickleValue& arguments);
  Status RebuildTensor(const PickleValue& arguments);
  Status RebuildFromType(const PickleValue& arguments);

  std::string_view TextOf(const PickleValue& text) const {
    return {reinterpret_cast<const char*>(pickle_.data()) + text.payload, text.count};
  }
  std::span<const PickleValue> ItemsOf(const PickleValue& tuple) const {
    return std::span(items_).subspan(static_cast<size_t>(tuple.payload), tuple.count);
  }
  bool IsGlobal(const PickleValue& value, PickleGlobal global) const {
    return value.kind == PickleKind::kGlobal && kPickleGlobals[static_cast<size_t>(value.payload)].global == global;
  }
  Result<std::vector<PickledTensor>> TakeTensors();
  Result<PickledTensor> Describe(const PickleValue& name, const PickleValue& value) const;

  const std::span<const std::byte> pickle_;
  const std::string& name_;
  const uint64_t offset_bytes_;
  uint64_t at_ = 0, opcode_at_ = 0;
  bool stopped_ = false;
  std::vector<PickleValue> stack_;
  std::vector<size_t> marks_;  // sizes of the stack
  std::vector<std::optional<PickleValue>> memo_;
  uint64_t next_memo_ = 0;     // of MEMOIZE
  std::vector<PickleValue> items_;   // of all tuples
  std::vector<Items> dicts_;
  size_t num_dict_items_ = 0;
  std::vector<Storage> storages_;
  std::vector<Tensor> tensors_;
};

}  // namespace frugal
