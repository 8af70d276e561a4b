#include "src/format/gguf_reader.h"

#include <cmath>
#include <utility>

#include "src/format/gguf_cursor.h"
#include "src/format/gguf_parser.h"
#include "src/format/untrusted_text.h"

namespace frugal {
namespace {

bool IsInteger(GgufType type) {
  switch (type) {
    case GgufType::kU8:
    case GgufType::kI8:
    case GgufType::kU16:
    case GgufType::kI16:
    case GgufType::kU32:
    case GgufType::kI32:
    case GgufType::kU64:
    case GgufType::kI64:
      return true;
    default:
      return false;
  }
}

}  // namespace

Result<GgufReader> GgufReader::Open(std::unique_ptr<ByteSource> source) {
  CHECK(source != nullptr);
  GgufParser parser(*source);
  FRUGAL_TRY(parser.Parse());
  GgufReader reader;
  reader.source_ = std::move(source);
  reader.version_ = parser.version;
  reader.alignment_bytes_ = parser.alignment_bytes;
  reader.data_offset_bytes_ = parser.data_offset_bytes;
  reader.key_values_ = std::move(parser.key_values);
  reader.tensors_ = std::move(parser.tensors);
  reader.key_order_ = std::move(parser.key_order);
  reader.tensor_order_ = std::move(parser.tensor_order);
  return reader;
}

const std::string& GgufReader::name() const { return source_->name(); }

const TensorInfo* GgufReader::FindTensor(std::string_view name) const {
  return FindByName(tensors_, tensor_order_, name, NameOf);
}

const GgufKeyValue* GgufReader::Find(std::string_view key) const {
  return FindByName(key_values_, key_order_, key, KeyOf);
}

Result<const GgufKeyValue*> GgufReader::Require(std::string_view key) const {
  const GgufKeyValue* entry = Find(key);
  if (entry == nullptr) return BadModel("{}: key '{}' is absent", name(), Printable(key));
  return entry;
}

Error GgufReader::WrongValue(const GgufKeyValue& entry, std::string_view expected) const {
  const auto* array = std::get_if<GgufArray>(&entry.value);
  return BadModel("{}: key '{}' at offset {}: is {}{}, expected {}", name(), Printable(entry.key),
                  entry.offset_bytes, array == nullptr ? "of type " : "an array of ",
                  TraitsOf(array == nullptr ? entry.type : array->element_type).name, expected);
}

Result<uint64_t> GgufReader::GetUint(std::string_view key) const {
  FRUGAL_ASSIGN(const GgufKeyValue* entry, Require(key));
  if (const auto* value = std::get_if<uint64_t>(&entry->value)) return *value;
  const auto* value = std::get_if<int64_t>(&entry->value);
  if (value == nullptr) return WrongValue(*entry, "an integer");
  if (*value < 0) {
    return BadModel("{}: key '{}' at offset {}: is {}, expected 0 or more", name(), Printable(key),
                    entry->offset_bytes, *value);
  }
  return static_cast<uint64_t>(*value);
}

Result<double> GgufReader::GetFloat(std::string_view key) const {
  FRUGAL_ASSIGN(const GgufKeyValue* entry, Require(key));
  const auto* value = std::get_if<double>(&entry->value);
  if (value == nullptr) return WrongValue(*entry, "an f32 or f64");
  if (!std::isfinite(*value)) {
    return BadModel("{}: key '{}' at offset {}: is {}, expected a finite number", name(), Printable(key),
                    entry->offset_bytes, *value);
  }
  return *value;
}

Result<bool> GgufReader::GetBool(std::string_view key) const {
  FRUGAL_ASSIGN(const GgufKeyValue* entry, Require(key));
  const auto* value = std::get_if<bool>(&entry->value);
  if (value == nullptr) return WrongValue(*entry, "a bool");
  return *value;
}

Result<std::string> GgufReader::GetString(std::string_view key) const {
  FRUGAL_ASSIGN(const GgufKeyValue* entry, Require(key));
  const auto* value = std::get_if<std::string>(&entry->value);
  if (value == nullptr) return WrongValue(*entry, "a string");
  return *value;
}

Result<uint64_t> GgufReader::ArrayCount(std::string_view key) const {
  FRUGAL_ASSIGN(const GgufKeyValue* entry, Require(key));
  const auto* array = std::get_if<GgufArray>(&entry->value);
  if (array == nullptr) return WrongValue(*entry, "an array");
  return array->count;
}

Status GgufReader::ForEachString(std::string_view key,
                                 FunctionRef<Status(uint64_t, std::string_view)> fn) const {
  FRUGAL_ASSIGN(const GgufKeyValue* entry, Require(key));
  const auto* array = std::get_if<GgufArray>(&entry->value);
  if (array == nullptr || array->element_type != GgufType::kString)
    return WrongValue(*entry, "an array of strings");
  GgufCursor cursor(*source_, array->offset_bytes);
  const std::string what = fmt::format("key '{}'", Printable(key));
  std::string text;
  for (uint64_t i = 0; i < array->count; ++i) {
    FRUGAL_TRY(cursor.LoadString(kMaxStringBytes, what, text));
    FRUGAL_TRY(fn(i, text));
  }
  return {};
}

namespace {

template <typename T>
Result<int64_t> LoadInteger(GgufCursor& cursor, const std::string& what) {
  const uint64_t at = cursor.offset_bytes();
  FRUGAL_ASSIGN(const T value, cursor.Load<T>(what));
  if (!std::in_range<int64_t>(value)) {
    return BadModel("{}: {} at offset {}: is {}, expected at most 2^63 - 1", cursor.name(), what, at, value);
  }
  return static_cast<int64_t>(value);
}

Result<int64_t> LoadIntegerOf(GgufType type, GgufCursor& cursor, const std::string& what) {
  switch (type) {
    case GgufType::kU8:
      return LoadInteger<uint8_t>(cursor, what);
    case GgufType::kI8:
      return LoadInteger<int8_t>(cursor, what);
    case GgufType::kU16:
      return LoadInteger<uint16_t>(cursor, what);
    case GgufType::kI16:
      return LoadInteger<int16_t>(cursor, what);
    case GgufType::kU32:
      return LoadInteger<uint32_t>(cursor, what);
    case GgufType::kI32:
      return LoadInteger<int32_t>(cursor, what);
    case GgufType::kU64:
      return LoadInteger<uint64_t>(cursor, what);
    default:
      return LoadInteger<int64_t>(cursor, what);
  }
}

}  // namespace

Status GgufReader::ForEachInt(std::string_view key, FunctionRef<Status(uint64_t, int64_t)> fn) const {
  FRUGAL_ASSIGN(const GgufKeyValue* entry, Require(key));
  const auto* array = std::get_if<GgufArray>(&entry->value);
  if (array == nullptr || !IsInteger(array->element_type)) return WrongValue(*entry, "an array of integers");
  GgufCursor cursor(*source_, array->offset_bytes);
  const std::string what = fmt::format("key '{}'", Printable(key));
  for (uint64_t i = 0; i < array->count; ++i) {
    FRUGAL_ASSIGN(const int64_t value, LoadIntegerOf(array->element_type, cursor, what));
    FRUGAL_TRY(fn(i, value));
  }
  return {};
}

Status GgufReader::ForEachFloat(std::string_view key, FunctionRef<Status(uint64_t, float)> fn) const {
  FRUGAL_ASSIGN(const GgufKeyValue* entry, Require(key));
  const auto* array = std::get_if<GgufArray>(&entry->value);
  if (array == nullptr || array->element_type != GgufType::kF32) return WrongValue(*entry, "an array of f32");
  GgufCursor cursor(*source_, array->offset_bytes);
  const std::string what = fmt::format("key '{}'", Printable(key));
  for (uint64_t i = 0; i < array->count; ++i) {
    FRUGAL_ASSIGN(const float value, cursor.Load<float>(what));
    FRUGAL_TRY(fn(i, value));
  }
  return {};
}

}  // namespace frugal
