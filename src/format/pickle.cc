#include "src/format/pickle.h"

#include "src/format/pickle_reader.h"
#include "src/format/untrusted_text.h"

namespace frugal {
namespace {

using Kind = PickleKind;
using Value = PickleValue;

}  // namespace

Status PickleReader::PushGlobal(std::string_view module, std::string_view name) {
  for (size_t i = 0; i < kPickleGlobals.size(); ++i) {
    if (kPickleGlobals[i].module == module && kPickleGlobals[i].name == name) {
      return Push({Kind::kGlobal, 0, static_cast<int64_t>(i)});
    }
  }
  return Refuse(fmt::format("asks for the Python object '{}.{}', which tensors do not need; nothing of it was run",
                            Printable(module), Printable(name)));
}

// ("storage", type, key, location, number of elements): what torch.save leaves in place of a storage.
Status PickleReader::PushStorage() {
  FRUGAL_ASSIGN(const Value id, Pop());
  const std::span<const Value> parts = id.kind == Kind::kTuple ? ItemsOf(id) : std::span<const Value>();
  if (parts.size() != 5 || parts[0].kind != Kind::kText || TextOf(parts[0]) != "storage" ||
      !IsGlobal(parts[1], PickleGlobal::kStorage) || parts[2].kind != Kind::kText || parts[3].kind != Kind::kText ||
      parts[4].kind != Kind::kInt || parts[4].payload < 0) {
    return Refuse("expected the reference of a storage: ('storage', type, key, location, number of elements)");
  }
  storages_.push_back({static_cast<size_t>(parts[1].payload), TextOf(parts[2]), static_cast<uint64_t>(parts[4].payload)});
  return Push({Kind::kStorage, 0, static_cast<int64_t>(storages_.size() - 1)});
}

Status PickleReader::Reduce() {
  FRUGAL_ASSIGN(const Value arguments, Pop());
  FRUGAL_ASSIGN(const Value function, Pop());
  if (function.kind != Kind::kGlobal || arguments.kind != Kind::kTuple) {
    return Refuse(fmt::format("calls {} with {}, expected a function and a tuple", PickleKindName(function.kind),
                              PickleKindName(arguments.kind)));
  }
  return Call(kPickleGlobals[static_cast<size_t>(function.payload)].global, arguments);
}

Status PickleReader::Call(PickleGlobal function, const Value& arguments) {
  const std::span<const Value> items = ItemsOf(arguments);
  switch (function) {
    case PickleGlobal::kRebuildTensor:
      return RebuildTensor(arguments);
    case PickleGlobal::kRebuildParameter:
    case PickleGlobal::kRebuildParameterWithState:  // (tensor, requires_grad, hooks[, state])
      if (items.size() < 3 || items[0].kind != Kind::kTensor) return Refuse("expected the tensor of a parameter");
      return Push(items[0]);
    case PickleGlobal::kRebuildFromType:
      return RebuildFromType(arguments);
    case PickleGlobal::kOrderedDict:
      if (!items.empty()) return Refuse("expected OrderedDict without arguments");
      dicts_.emplace_back();
      return Push({Kind::kDict, 0, static_cast<int64_t>(dicts_.size() - 1)});
    case PickleGlobal::kTensorType:
    case PickleGlobal::kStorage:
      break;
  }
  return Refuse("calls a type, expected a function that rebuilds tensors");
}

// (storage, offset, shape, strides, requires_grad, hooks[, metadata])
Status PickleReader::RebuildTensor(const Value& arguments) {
  const std::span<const Value> items = ItemsOf(arguments);
  if (items.size() < 6 || items.size() > 7 || items[0].kind != Kind::kStorage || items[1].kind != Kind::kInt ||
      items[1].payload < 0 || items[2].kind != Kind::kTuple || items[3].kind != Kind::kTuple) {
    return Refuse("expected a tensor's storage, offset, shape and strides");
  }
  if (items[2].count != items[3].count || items[2].count > kMaxPickleDims) {
    return Refuse(fmt::format("a tensor of {} dimensions and {} strides, expected as many and at most {}", items[2].count,
                              items[3].count, kMaxPickleDims));
  }
  uint64_t num_elements = 1;
  for (const Value& tuple : {items[2], items[3]}) {
    for (const Value& size : ItemsOf(tuple)) {
      if (size.kind != Kind::kInt || size.payload < 0) return Refuse("expected numbers from 0 on as shape and strides");
    }
  }
  for (const Value& size : ItemsOf(items[2])) {
    const auto product = CheckedMultiply(num_elements, static_cast<uint64_t>(size.payload));
    if (!product || *product > INT64_MAX / 8) return Refuse("the shape of a tensor overflows 64 bits");
    num_elements = *product;
  }
  if (tensors_.size() == kMaxPickleTensors) return Refuse(fmt::format("more than {} tensors", kMaxPickleTensors));
  tensors_.push_back({static_cast<size_t>(items[0].payload), static_cast<uint64_t>(items[1].payload), items[2], items[3],
                      offset_bytes_ + opcode_at_});
  return Push({Kind::kTensor, 0, static_cast<int64_t>(tensors_.size() - 1)});
}

// (function, type, its arguments, state): a tensor with attributes.
Status PickleReader::RebuildFromType(const Value& arguments) {
  const std::span<const Value> items = ItemsOf(arguments);
  if (items.size() != 4 || items[0].kind != Kind::kGlobal || !IsGlobal(items[1], PickleGlobal::kTensorType) ||
      items[2].kind != Kind::kTuple || IsGlobal(items[0], PickleGlobal::kRebuildFromType)) {
    return Refuse("expected the function, type and arguments of a tensor");
  }
  return Call(kPickleGlobals[static_cast<size_t>(items[0].payload)].global, Value(items[2]));
}

Result<PickledTensor> PickleReader::Describe(const Value& name, const Value& value) const {
  if (name.kind != Kind::kText) {
    return Refuse(fmt::format("the state dict has {} as a key, expected names", PickleKindName(name.kind)));
  }
  const std::string_view text = TextOf(name);
  const uint64_t name_at = static_cast<uint64_t>(name.payload);
  if (const char* reason = WhyBadName(text)) {
    return RefuseAt(name_at, fmt::format("the tensor name '{}' {}", Printable(text), reason));
  }
  if (text.size() > kMaxPickleNameBytes) {
    return RefuseAt(name_at, fmt::format("a tensor name of {} bytes, expected at most {}", text.size(), kMaxPickleNameBytes));
  }
  if (value.kind != Kind::kTensor) {
    return RefuseAt(name_at, fmt::format("'{}' is {}, expected a tensor", Printable(text), PickleKindName(value.kind)));
  }
  const Tensor& tensor = tensors_[static_cast<size_t>(value.payload)];
  const Storage& storage = storages_[tensor.storage];
  const PickleGlobalInfo& type = kPickleGlobals[storage.global];
  if (!type.dtype) {
    return BadModel("{}: tensor '{}': offset {}: is of a {}, a type that no weight has", name_, Printable(text), tensor.offset_bytes,
                    type.name);
  }
  PickledTensor described;
  described.name = text;
  described.dtype = *type.dtype;
  for (const Value& size : ItemsOf(tensor.shape)) described.shape.push_back(static_cast<uint64_t>(size.payload));
  for (const Value& stride : ItemsOf(tensor.strides)) described.strides.push_back(static_cast<uint64_t>(stride.payload));
  described.storage_offset = tensor.storage_offset;
  described.storage_key = storage.key;
  described.storage_elements = storage.num_elements;
  described.offset_bytes = tensor.offset_bytes;
  return described;
}

Result<std::vector<PickledTensor>> PickleReader::TakeTensors() {
  if (stack_.size() != 1 || !marks_.empty() || stack_[0].kind != Kind::kDict) {
    return Refuse(fmt::format("ends with {}, expected a dict of tensors",
                              stack_.empty() ? "an empty stack" : PickleKindName(stack_.back().kind)));
  }
  std::vector<PickledTensor> tensors;
  for (const auto& [name, value] : dicts_[static_cast<size_t>(stack_[0].payload)]) {
    FRUGAL_ASSIGN(PickledTensor tensor, Describe(name, value));
    tensors.push_back(std::move(tensor));
  }
  const auto name_of = [](const PickledTensor& tensor) -> const std::string& { return tensor.name; };
  if (const PickledTensor* again = FindDuplicate(tensors, OrderByName(tensors, name_of), name_of)) {
    return BadModel("{}: tensor '{}': offset {}: is there twice, expected unique names", name_, Printable(again->name),
                    again->offset_bytes);
  }
  return tensors;
}

Result<std::vector<PickledTensor>> ReadTensorPickle(std::span<const std::byte> pickle, const std::string& name,
                                                    uint64_t offset_bytes) {
  if (pickle.size() > kMaxPickleBytes) {
    return BadModel("{}: pickle: offset {}: {} bytes, expected at most {}", name, offset_bytes, pickle.size(), kMaxPickleBytes);
  }
  return PickleReader(pickle, name, offset_bytes).Run();
}

}  // namespace frugal
