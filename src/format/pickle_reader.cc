#include "src/format/pickle_reader.h"

#include <algorithm>

namespace frugal {
namespace {

using Kind = PickleKind;
using Value = PickleValue;

constexpr uint8_t kMaxProtocol = 5;

}  // namespace

Result<std::vector<PickledTensor>> PickleReader::Run() {
  while (!stopped_) {
    opcode_at_ = at_;
    FRUGAL_ASSIGN(const uint8_t opcode, Take<uint8_t>());
    FRUGAL_TRY(Step(opcode));
  }
  if (at_ != pickle_.size()) return RefuseAt(at_, fmt::format("{} bytes follow the end", pickle_.size() - at_));
  return TakeTensors();
}

Result<std::string_view> PickleReader::TakeText(uint64_t size_bytes) {
  if (size_bytes > pickle_.size() - at_) return Refuse(fmt::format("a string of {} bytes reaches beyond the end", size_bytes));
  const std::string_view text(reinterpret_cast<const char*>(pickle_.data()) + at_, size_bytes);
  at_ += size_bytes;
  return text;
}

Result<std::string_view> PickleReader::TakeLine() {
  const std::string_view rest(reinterpret_cast<const char*>(pickle_.data()) + at_, pickle_.size() - at_);
  const size_t end = rest.find('\n');
  if (end == std::string_view::npos || end > kMaxPickleNameBytes) return Refuse("expected a line");
  at_ += end + 1;
  return rest.substr(0, end);
}

Status PickleReader::Push(Value value) {
  if (stack_.size() + items_.size() + num_dict_items_ + dicts_.size() + storages_.size() >= kMaxPickleValues) {
    return Refuse(fmt::format("holds more than {} values", kMaxPickleValues));
  }
  stack_.push_back(value);
  return {};
}

Status PickleReader::PushText(Kind kind, uint64_t size_bytes) {
  FRUGAL_ASSIGN(const std::string_view text, TakeText(size_bytes));
  return Push({kind, static_cast<uint32_t>(text.size()), static_cast<int64_t>(at_ - text.size())});
}

Result<PickleValue> PickleReader::Pop() {
  if (stack_.size() <= bottom()) return Refuse("takes a value from an empty stack");
  const Value value = stack_.back();
  stack_.pop_back();
  return value;
}

Result<size_t> PickleReader::PopMark() {
  if (marks_.empty()) return Refuse("expected a mark on the stack");
  const size_t begin = marks_.back();
  marks_.pop_back();
  return begin;
}

// The values of the stack from `begin` on become one.
Status PickleReader::PushTuple(size_t begin) {
  if (stack_.size() < begin || begin < bottom()) return Refuse("takes a value from an empty stack");
  const size_t count = stack_.size() - begin;
  const Value tuple = {Kind::kTuple, static_cast<uint32_t>(count), static_cast<int64_t>(items_.size())};
  items_.insert(items_.end(), stack_.begin() + static_cast<std::ptrdiff_t>(begin), stack_.end());
  stack_.resize(begin);
  return Push(tuple);
}

// Keys and values from `begin` on go into the dict below them.
Status PickleReader::SetItems(size_t begin) {
  if (begin <= bottom() || begin > stack_.size()) return Refuse("expected a dict on the stack");
  const Value dict = stack_[begin - 1];
  if (dict.kind != Kind::kDict || (stack_.size() - begin) % 2 != 0) {
    return Refuse(fmt::format("sets items of {}, expected pairs for a dict", PickleKindName(dict.kind)));
  }
  Items& items = dicts_[static_cast<size_t>(dict.payload)];
  for (size_t i = begin; i < stack_.size(); i += 2) items.emplace_back(stack_[i], stack_[i + 1]);
  num_dict_items_ += stack_.size() - begin;
  stack_.resize(begin);
  return {};
}

Status PickleReader::Memoize(uint64_t index) {
  if (stack_.size() <= bottom()) return Refuse("memoizes a value of an empty stack");
  if (index >= kMaxPickleMemo) return Refuse(fmt::format("memo entry {}, expected at most {}", index, kMaxPickleMemo - 1));
  if (index >= memo_.size()) memo_.resize(index + 1);
  memo_[index] = stack_.back();
  next_memo_ = std::max(next_memo_, index + 1);
  return {};
}

Status PickleReader::GetMemo(uint64_t index) {
  if (index >= memo_.size() || !memo_[index]) return Refuse(fmt::format("memo entry {} was never written", index));
  return Push(*memo_[index]);
}

// The opcodes that a state dict is made of; protocol 2 as torch.save writes, and what protocols 3 to 5 spell otherwise.
Status PickleReader::Step(uint8_t opcode) {
  switch (opcode) {
    case 0x80: {  // PROTO
      FRUGAL_ASSIGN(const uint8_t protocol, Take<uint8_t>());
      if (opcode_at_ == 0 && protocol >= 2 && protocol <= kMaxProtocol) return {};
      return Refuse(fmt::format("protocol {}, expected 2 to {} at the beginning", protocol, kMaxProtocol));
    }
    case 0x95: {  // FRAME: how much to read at once
      FRUGAL_TRY(Take<uint64_t>());
      return {};
    }
    case '.':  // STOP
      stopped_ = true;
      return {};
    case '(':  // MARK
      if (marks_.size() == kMaxPickleMarks) return Refuse(fmt::format("nested deeper than {}", kMaxPickleMarks));
      marks_.push_back(stack_.size());
      return {};
    case 'N': case 0x88: case 0x89: case 'J': case 'K': case 'M': case 0x8a: case 'G':
    case 'X': case 0x8c: case 0x8d: case 'U': case 'T': case 'B': case 'C':
      return StepData(opcode);
    case ')': case 't': case 0x85: case 0x86: case 0x87: case '}': case 's': case 'u': case ']': case 'a': case 'e':
      return StepContainer(opcode);
    case 'q': case 'r': case 0x94: case 'h': case 'j':
      return StepMemo(opcode);
    case 'c': case 0x93: case 'Q': case 'R': case 'b':
      return StepObject(opcode);
    default:
      break;
  }
  if (const auto known = PickleOpcodeName(opcode)) return Refuse(fmt::format("opcode {} is not what tensors need", *known));
  return Refuse(fmt::format("byte {:#04x} is no opcode", opcode));
}

Status PickleReader::StepData(uint8_t opcode) {
  switch (opcode) {
    case 'N': return Push({Kind::kNone, 0, 0});
    case 0x88: return Push({Kind::kBool, 0, 1});
    case 0x89: return Push({Kind::kBool, 0, 0});
    case 'J': {  // BININT
      FRUGAL_ASSIGN(const int32_t value, Take<int32_t>());
      return PushInt(value);
    }
    case 'K': {  // BININT1
      FRUGAL_ASSIGN(const uint8_t value, Take<uint8_t>());
      return PushInt(value);
    }
    case 'M': {  // BININT2
      FRUGAL_ASSIGN(const uint16_t value, Take<uint16_t>());
      return PushInt(value);
    }
    case 0x8a: {  // LONG1: two's complement, little-endian, as many bytes as it takes
      FRUGAL_ASSIGN(const uint8_t size_bytes, Take<uint8_t>());
      FRUGAL_ASSIGN(const std::string_view text, TakeText(size_bytes));
      if (size_bytes > 8) return Refuse(fmt::format("a number of {} bytes, expected at most 8", size_bytes));
      uint64_t bits = size_bytes > 0 && static_cast<uint8_t>(text.back()) >= 0x80 ? UINT64_MAX : 0;
      for (size_t i = text.size(); i-- > 0;) bits = bits << 8 | static_cast<uint8_t>(text[i]);
      return PushInt(static_cast<int64_t>(bits));
    }
    case 'G': {  // BINFLOAT
      FRUGAL_TRY(Take<uint64_t>());
      return Push({Kind::kFloat, 0, 0});
    }
    case 'X': case 'T': case 'B': {  // BINUNICODE, BINSTRING (Python 2's text), BINBYTES
      FRUGAL_ASSIGN(const uint32_t size_bytes, Take<uint32_t>());
      return PushText(opcode == 'B' ? Kind::kBytes : Kind::kText, size_bytes);
    }
    case 0x8d: {  // BINUNICODE8
      FRUGAL_ASSIGN(const uint64_t size_bytes, Take<uint64_t>());
      return PushText(Kind::kText, size_bytes);
    }
    default: {  // SHORT_BINUNICODE, SHORT_BINSTRING, SHORT_BINBYTES
      FRUGAL_ASSIGN(const uint8_t size_bytes, Take<uint8_t>());
      return PushText(opcode == 'C' ? Kind::kBytes : Kind::kText, size_bytes);
    }
  }
}

Status PickleReader::StepContainer(uint8_t opcode) {
  switch (opcode) {
    case ')': return PushTuple(stack_.size());  // EMPTY_TUPLE
    case 0x85: case 0x86: case 0x87: {          // TUPLE1 to TUPLE3
      const size_t count = opcode - size_t{0x84};
      if (stack_.size() < count) return Refuse("takes a value from an empty stack");
      return PushTuple(stack_.size() - count);
    }
    case 't': {  // TUPLE
      FRUGAL_ASSIGN(const size_t begin, PopMark());
      return PushTuple(begin);
    }
    case '}': {  // EMPTY_DICT
      dicts_.emplace_back();
      return Push({Kind::kDict, 0, static_cast<int64_t>(dicts_.size() - 1)});
    }
    case 's':  // SETITEM
      if (stack_.size() < 2) return Refuse("takes a value from an empty stack");
      return SetItems(stack_.size() - 2);
    case 'u': {  // SETITEMS
      FRUGAL_ASSIGN(const size_t begin, PopMark());
      return SetItems(begin);
    }
    case ']': return Push({Kind::kList, 0, 0});  // EMPTY_LIST
    case 'a': {                                  // APPEND
      FRUGAL_TRY(Pop());
      break;
    }
    default: {  // APPENDS
      FRUGAL_ASSIGN(const size_t begin, PopMark());
      stack_.resize(begin);
    }
  }
  if (stack_.size() <= bottom() || stack_.back().kind != Kind::kList) return Refuse("expected a list on the stack");
  return {};
}

Status PickleReader::StepMemo(uint8_t opcode) {
  switch (opcode) {
    case 'q': {  // BINPUT
      FRUGAL_ASSIGN(const uint8_t index, Take<uint8_t>());
      return Memoize(index);
    }
    case 'r': {  // LONG_BINPUT
      FRUGAL_ASSIGN(const uint32_t index, Take<uint32_t>());
      return Memoize(index);
    }
    case 'h': {  // BINGET
      FRUGAL_ASSIGN(const uint8_t index, Take<uint8_t>());
      return GetMemo(index);
    }
    case 'j': {  // LONG_BINGET
      FRUGAL_ASSIGN(const uint32_t index, Take<uint32_t>());
      return GetMemo(index);
    }
    default: return Memoize(next_memo_);  // MEMOIZE
  }
}

Status PickleReader::StepObject(uint8_t opcode) {
  switch (opcode) {
    case 'c': {  // GLOBAL
      FRUGAL_ASSIGN(const std::string_view module, TakeLine());
      FRUGAL_ASSIGN(const std::string_view name, TakeLine());
      return PushGlobal(module, name);
    }
    case 0x93: {  // STACK_GLOBAL
      FRUGAL_ASSIGN(const Value name, Pop());
      FRUGAL_ASSIGN(const Value module, Pop());
      if (name.kind != Kind::kText || module.kind != Kind::kText) return Refuse("expected the names of module and object");
      return PushGlobal(TextOf(module), TextOf(name));
    }
    case 'Q': return PushStorage();  // BINPERSID
    case 'R': return Reduce();
    default: {  // BUILD: the state of a dict or tensor is nothing that weights need
      FRUGAL_TRY(Pop());
      const bool fits = stack_.size() > bottom() &&
                        (stack_.back().kind == Kind::kDict || stack_.back().kind == Kind::kTensor);
      return fits ? Status() : Status(Refuse("sets the state of what is neither a dict nor a tensor"));
    }
  }
}

}  // namespace frugal
