#include "src/format/gguf_parser.h"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <optional>
#include <utility>

#include "src/base/bytes.h"
#include "src/format/untrusted_text.h"

namespace frugal {
namespace {

constexpr uint32_t kMagic = 0x46554747;        // "GGUF"
constexpr uint64_t kMaxHeldBytes = 64 * kMiB;  // of all keys, names and string values together
constexpr uint32_t kMaxDims = 4;
constexpr uint64_t kMaxAlignmentBytes = kMiB;
constexpr uint64_t kMaxTensorBytes = std::numeric_limits<int64_t>::max();  // off_t
// The smallest a key with its value and a tensor info can be: counts are refused before anything is read for
// them.
constexpr uint64_t kMinKeyValueBytes = 8 + 1 + 4 + 1;
constexpr uint64_t kMinTensorInfoBytes = 8 + 1 + 4 + 8 + 4 + 8;

// Names of ggml's types that DType has no place for, so that a refusal says "IQ2_XXS" and not 16 alone.
std::string_view GgmlTypeName(uint32_t number) {
  static constexpr std::array<std::string_view, 40> kNames = {
      "F32",      "F16",      "Q4_0",    "Q4_1",  "Q4_2",       "Q4_3",       "Q5_0",       "Q5_1",
      "Q8_0",     "Q8_1",     "Q2_K",    "Q3_K",  "Q4_K",       "Q5_K",       "Q6_K",       "Q8_K",
      "IQ2_XXS",  "IQ2_XS",   "IQ3_XXS", "IQ1_S", "IQ4_NL",     "IQ3_S",      "IQ2_S",      "IQ4_XS",
      "I8",       "I16",      "I32",     "I64",   "F64",        "IQ1_M",      "BF16",       "Q4_0_4_4",
      "Q4_0_4_8", "Q4_0_8_8", "TQ1_0",   "TQ2_0", "IQ4_NL_4_4", "IQ4_NL_4_8", "IQ4_NL_8_8", "MXFP4"};
  return number < kNames.size() ? kNames[number] : "unknown";
}

template <typename T, typename Wide>
Result<GgufValue> LoadWidened(GgufCursor& cursor, const std::string& what) {
  FRUGAL_ASSIGN(const T value, cursor.Load<T>(what));
  return GgufValue(static_cast<Wide>(value));
}

}  // namespace

Status GgufParser::Parse() {
  FRUGAL_TRY(ParseFixedPart());
  for (uint64_t i = 0; i < num_key_values_; ++i) FRUGAL_TRY(ParseKeyValue());
  key_order = OrderByName(key_values, KeyOf);
  if (const GgufKeyValue* again = FindDuplicate(key_values, key_order, KeyOf)) {
    return BadModel("{}: key '{}' at offset {}: is there twice, expected unique keys", source_.name(),
                    Printable(again->key), again->offset_bytes);
  }
  FRUGAL_TRY(ParseAlignment());
  FRUGAL_TRY(CheckCount("tensors", num_tensors_, GgufReader::kMaxTensors, kMinTensorInfoBytes));
  for (uint64_t i = 0; i < num_tensors_; ++i) FRUGAL_TRY(ParseTensorInfo());
  tensor_order = OrderByName(tensors, NameOf);
  if (const TensorInfo* again = FindDuplicate(tensors, tensor_order, NameOf)) {
    return BadModel(
        "{}: tensor '{}': is there twice, the second time with offset {} in the data; expected unique names",
        source_.name(), Printable(again->name), again->extent.offset_bytes);
  }
  return PlaceTensors();
}

Status GgufParser::ParseFixedPart() {
  std::array<std::byte, kForeignPrefixBytes> first = {};
  const uint64_t first_bytes = std::min<uint64_t>(first.size(), source_.size_bytes());
  FRUGAL_TRY(source_.Read(0, std::span(first).first(first_bytes)));
  if (first_bytes == 0) return BadModel("{}: is empty, expected a GGUF file", source_.name());
  if (first_bytes < sizeof(kMagic) || LoadUnaligned<uint32_t>(first.data()) != kMagic) {
    if (const auto kind = FindForeignKind(std::span(first).first(first_bytes))) {
      return BadModel("{}: is {}, expected a GGUF file", source_.name(), *kind);
    }
    if (first_bytes > 8 && first[8] == std::byte{'{'}) {
      return BadModel("{}: looks like a safetensors file, expected a GGUF file", source_.name());
    }
    return BadModel(
        "{}: the {} bytes at offset 0 are '{}', expected a GGUF file, which begins with 'GGUF'",
        source_.name(), std::min<uint64_t>(4, first_bytes),
        Printable({reinterpret_cast<const char*>(first.data()), std::min<uint64_t>(4, first_bytes)}));
  }
  FRUGAL_TRY(cursor_.Skip(sizeof(kMagic), "magic"));
  FRUGAL_ASSIGN(version, cursor_.Load<uint32_t>("version"));
  if (version != 2 && version != 3) {
    if ((version & 0xffff) == 0 && version != 0) {
      return BadModel(
          "{}: version at offset 4: is {:#x}: this is a big-endian file, expected a little-endian one",
          source_.name(), version);
    }
    return BadModel("{}: version at offset 4: is {}, expected 2 or 3", source_.name(), version);
  }
  FRUGAL_ASSIGN(num_tensors_, cursor_.Load<uint64_t>("number of tensors"));
  FRUGAL_ASSIGN(num_key_values_, cursor_.Load<uint64_t>("number of keys"));
  FRUGAL_TRY(CheckCount("tensors", num_tensors_, GgufReader::kMaxTensors, kMinTensorInfoBytes));
  return CheckCount("keys", num_key_values_, GgufReader::kMaxKeyValues, kMinKeyValueBytes);
}

Status GgufParser::CheckCount(std::string_view what, uint64_t count, uint64_t max_count,
                              uint64_t min_item_bytes) const {
  if (count > max_count) {
    return BadModel("{}: the header counts {} {}, expected at most {}", source_.name(), count, what,
                    max_count);
  }
  if (count > cursor_.left_bytes() / min_item_bytes) {
    return BadModel(
        "{}: the header counts {} {}, but the file ends {} bytes behind offset {}, expected at least {} "
        "bytes for each",
        source_.name(), count, what, cursor_.left_bytes(), cursor_.offset_bytes(), min_item_bytes);
  }
  return {};
}

Status GgufParser::Hold(uint64_t size_bytes, std::string_view what) {
  held_bytes_ += size_bytes;
  if (held_bytes_ <= kMaxHeldBytes) return {};
  return BadModel("{}: {} at offset {}: the texts of the header take more than {}", source_.name(), what,
                  cursor_.offset_bytes(), FormatSize(kMaxHeldBytes));
}

Status GgufParser::ParseKeyValue() {
  GgufKeyValue entry;
  const uint64_t at = cursor_.offset_bytes();
  FRUGAL_TRY(
      cursor_.LoadString(GgufReader::kMaxKeyBytes, fmt::format("key {}", key_values.size()), entry.key));
  FRUGAL_TRY(Hold(entry.key.size(), "key"));
  if (const char* reason = WhyBadName(entry.key)) {
    return BadModel("{}: key {} at offset {}: '{}' {}", source_.name(), key_values.size(), at,
                    Printable(entry.key), reason);
  }
  const std::string what = fmt::format("key '{}'", Printable(entry.key));
  const uint64_t type_at = cursor_.offset_bytes();
  FRUGAL_ASSIGN(const uint32_t type, cursor_.Load<uint32_t>(what));
  if (type >= kGgufTypes.size()) {
    return BadModel("{}: {} at offset {}: value type {}, expected 0 to {}", source_.name(), what, type_at,
                    type, kGgufTypes.size() - 1);
  }
  entry.type = static_cast<GgufType>(type);
  entry.offset_bytes = cursor_.offset_bytes();
  FRUGAL_ASSIGN(entry.value, ParseValue(entry.type, what));
  key_values.push_back(std::move(entry));
  return {};
}

Result<GgufValue> GgufParser::ParseValue(GgufType type, const std::string& what) {
  switch (type) {
    case GgufType::kU8:
      return LoadWidened<uint8_t, uint64_t>(cursor_, what);
    case GgufType::kI8:
      return LoadWidened<int8_t, int64_t>(cursor_, what);
    case GgufType::kU16:
      return LoadWidened<uint16_t, uint64_t>(cursor_, what);
    case GgufType::kI16:
      return LoadWidened<int16_t, int64_t>(cursor_, what);
    case GgufType::kU32:
      return LoadWidened<uint32_t, uint64_t>(cursor_, what);
    case GgufType::kI32:
      return LoadWidened<int32_t, int64_t>(cursor_, what);
    case GgufType::kU64:
      return LoadWidened<uint64_t, uint64_t>(cursor_, what);
    case GgufType::kI64:
      return LoadWidened<int64_t, int64_t>(cursor_, what);
    case GgufType::kF32:
      return LoadWidened<float, double>(cursor_, what);
    case GgufType::kF64:
      return LoadWidened<double, double>(cursor_, what);
    case GgufType::kBool: {
      const uint64_t at = cursor_.offset_bytes();
      FRUGAL_ASSIGN(const uint8_t value, cursor_.Load<uint8_t>(what));
      if (value > 1)
        return BadModel("{}: {} at offset {}: a bool of {}, expected 0 or 1", source_.name(), what, at,
                        value);
      return GgufValue(value == 1);
    }
    case GgufType::kString: {
      std::string text;
      FRUGAL_TRY(cursor_.LoadString(GgufReader::kMaxStringBytes, what, text));
      FRUGAL_TRY(Hold(text.size(), what));
      return GgufValue(std::move(text));
    }
    case GgufType::kArray: {
      FRUGAL_ASSIGN(const GgufArray array, ParseArray(what));
      return GgufValue(array);
    }
  }
  return BadModel("{}: {}: value type {}", source_.name(), what, static_cast<uint32_t>(type));
}

Result<GgufArray> GgufParser::ParseArray(const std::string& what) {
  const uint64_t at = cursor_.offset_bytes();
  FRUGAL_ASSIGN(const uint32_t type, cursor_.Load<uint32_t>(what));
  if (type >= kGgufTypes.size() || type == static_cast<uint32_t>(GgufType::kArray)) {
    return BadModel("{}: {} at offset {}: an array of type {}, expected 0 to {} and no nested array",
                    source_.name(), what, at, type, kGgufTypes.size() - 1);
  }
  GgufArray array;
  array.element_type = static_cast<GgufType>(type);
  FRUGAL_ASSIGN(array.count, cursor_.Load<uint64_t>(what));
  array.offset_bytes = cursor_.offset_bytes();
  const bool strings = array.element_type == GgufType::kString;
  const uint64_t element_bytes = strings ? sizeof(uint64_t) : TraitsOf(array.element_type).size_bytes;
  if (array.count > cursor_.left_bytes() / element_bytes) {
    return BadModel(
        "{}: {} at offset {}: an array of {} elements of type {}, but the file ends after {} bytes",
        source_.name(), what, at, array.count, TraitsOf(array.element_type).name, cursor_.left_bytes());
  }
  if (!strings) {
    FRUGAL_TRY(cursor_.Skip(array.count * element_bytes, what));
  } else {
    for (uint64_t i = 0; i < array.count; ++i) {
      FRUGAL_ASSIGN(const uint64_t length, cursor_.LoadStringLength(GgufReader::kMaxStringBytes, what));
      FRUGAL_TRY(cursor_.Skip(length, what));
    }
  }
  array.size_bytes = cursor_.offset_bytes() - array.offset_bytes;
  return array;
}

Status GgufParser::ParseAlignment() {
  const GgufKeyValue* entry = FindByName(key_values, key_order, "general.alignment", KeyOf);
  if (entry == nullptr) return {};
  uint64_t value = 0;
  if (const auto* natural = std::get_if<uint64_t>(&entry->value)) {
    value = *natural;
  } else if (const auto* integer = std::get_if<int64_t>(&entry->value); integer != nullptr && *integer >= 0) {
    value = static_cast<uint64_t>(*integer);
  } else {
    return BadModel("{}: key 'general.alignment' at offset {}: is of type {} or negative, expected a u32",
                    source_.name(), entry->offset_bytes, TraitsOf(entry->type).name);
  }
  if (value < 8 || value > kMaxAlignmentBytes || !std::has_single_bit(value)) {
    return BadModel("{}: key 'general.alignment' at offset {}: is {}, expected a power of two from 8 to {}",
                    source_.name(), entry->offset_bytes, value, kMaxAlignmentBytes);
  }
  alignment_bytes = value;
  return {};
}

Status GgufParser::ParseTensorInfo() {
  TensorInfo tensor;
  const uint64_t at = cursor_.offset_bytes();
  FRUGAL_TRY(cursor_.LoadString(GgufReader::kMaxNameBytes, fmt::format("name of tensor {}", tensors.size()),
                                tensor.name));
  FRUGAL_TRY(Hold(tensor.name.size(), "tensor name"));
  if (const char* reason = WhyBadName(tensor.name)) {
    return BadModel("{}: tensor {} at offset {}: its name '{}' {}", source_.name(), tensors.size(), at,
                    Printable(tensor.name), reason);
  }
  const std::string what = fmt::format("tensor '{}'", Printable(tensor.name));
  FRUGAL_ASSIGN(const uint32_t num_dims, cursor_.Load<uint32_t>(what));
  if (num_dims < 1 || num_dims > kMaxDims) {
    return BadModel("{}: {} at offset {}: has {} dimensions, expected 1 to {}", source_.name(), what, at,
                    num_dims, kMaxDims);
  }
  tensor.shape.resize(num_dims);
  for (uint32_t i = 0; i < num_dims; ++i) {  // innermost first in the file
    FRUGAL_ASSIGN(tensor.shape[num_dims - 1 - i], cursor_.Load<uint64_t>(what));
  }
  const uint64_t type_at = cursor_.offset_bytes();
  FRUGAL_ASSIGN(const uint32_t type, cursor_.Load<uint32_t>(what));
  if (!FindDTypeTraits(type)) {
    const bool of_experts = tensor.name.find("_exps.") != std::string::npos;
    return BadModel("{}: {} at offset {}: is of type {} ({}), which this program does not know{}", source_.name(), what, type_at, type,
                    GgmlTypeName(type), of_experts ? "; mixture-of-experts models are not supported yet" : "");
  }
  tensor.dtype = static_cast<DType>(type);
  FRUGAL_ASSIGN(tensor.extent.offset_bytes, cursor_.Load<uint64_t>(what));
  FRUGAL_TRY(SizeTensor(tensor, at));
  tensors.push_back(std::move(tensor));
  return {};
}

Status GgufParser::SizeTensor(TensorInfo& tensor, uint64_t at) const {
  const std::string what =
      fmt::format("{}: tensor '{}' at offset {}", source_.name(), Printable(tensor.name), at);
  const std::string shape = fmt::format("[{}]", fmt::join(tensor.shape, ", "));
  if (std::find(tensor.shape.begin(), tensor.shape.end(), 0u) != tensor.shape.end()) {
    return BadModel("{}: its shape is {}, expected every dimension above 0", what, shape);
  }
  if (tensor.columns() % TraitsOf(tensor.dtype).block_elements != 0) {
    return BadModel("{}: its rows have {} elements, expected a multiple of {} for {}", what, tensor.columns(),
                    TraitsOf(tensor.dtype).block_elements, DTypeName(tensor.dtype));
  }
  std::optional<uint64_t> size_bytes = RowBytes(tensor.dtype, tensor.columns());
  for (size_t i = 0; size_bytes && i + 1 < tensor.shape.size(); ++i) {
    size_bytes = CheckedMultiply(*size_bytes, tensor.shape[i]);
  }
  if (!size_bytes || *size_bytes > kMaxTensorBytes) {
    return BadModel("{}: its shape {} of {} overflows 63 bits", what, shape, DTypeName(tensor.dtype));
  }
  tensor.extent.size_bytes = *size_bytes;
  return {};
}

// Offsets in the file count from the data section. They must be what every writer makes of the order of the
// infos: each tensor begins where the one before it, padded, ends. Anything else is a damaged or doctored
// header.
Status GgufParser::PlaceTensors() {
  data_offset_bytes = RoundUp(cursor_.offset_bytes(), alignment_bytes);
  const uint64_t file_bytes = source_.size_bytes();
  uint64_t end_bytes = cursor_.offset_bytes();  // of all that is accounted for
  uint64_t expected = 0;                        // offset of the next tensor in the data section
  for (TensorInfo& tensor : tensors) {
    const std::string what = fmt::format("{}: tensor '{}'", source_.name(), Printable(tensor.name));
    const uint64_t offset = tensor.extent.offset_bytes;
    if (offset % alignment_bytes != 0) {
      return BadModel("{}: its offset {} is no multiple of the alignment {}", what, offset, alignment_bytes);
    }
    if (offset != expected) {
      return BadModel("{}: its offset {} {} the tensor before it, expected offset {} in the data section",
                      what, offset, offset < expected ? "overlaps or precedes" : "leaves a hole behind",
                      expected);
    }
    // expected <= file_bytes + alignment_bytes here, so that the sum cannot overflow.
    const uint64_t begin_bytes = data_offset_bytes + offset;
    if (begin_bytes > file_bytes || tensor.extent.size_bytes > file_bytes - begin_bytes) {
      return BadModel("{}: its {} bytes at offset {} reach beyond the end of the file at {}", what,
                      tensor.extent.size_bytes, begin_bytes, file_bytes);
    }
    tensor.extent.offset_bytes = begin_bytes;
    end_bytes = tensor.extent.end_bytes();
    expected = RoundUp(end_bytes, alignment_bytes) - data_offset_bytes;
  }
  if (file_bytes > RoundUp(end_bytes, alignment_bytes)) {
    return BadModel("{}: {} bytes follow the last tensor at offset {}, expected the end of the file",
                    source_.name(), file_bytes - end_bytes, end_bytes);
  }
  return {};
}

}  // namespace frugal
