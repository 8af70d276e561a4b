#include "src/format/safetensors_header.h"

#include <algorithm>
#include <array>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "src/base/bytes.h"
#include "src/format/json_stream.h"
#include "src/format/untrusted_text.h"

namespace frugal {
namespace {

constexpr uint64_t kMaxNameBytes = 1024;
constexpr size_t kMaxMetadataEntries = 1 << 16;

struct NamedDType {
  std::string_view name;
  DType dtype;
};
constexpr std::array<NamedDType, 6> kDTypes = {{{"F32", DType::kF32},
                                                {"F16", DType::kF16},
                                                {"BF16", DType::kBF16},
                                                {"I8", DType::kI8},
                                                {"I32", DType::kI32},
                                                {"I64", DType::kI64}}};

// {"NAME": {"dtype": "F16", "shape": [..], "data_offsets": [begin, end]}, "__metadata__": {"key": "text"}}
class HeaderHandler : public JsonHandler {
 public:
  HeaderHandler(JsonStream& stream, uint64_t data_offset_bytes)
      : JsonHandler(stream), data_offset_bytes_(data_offset_bytes) {}

  std::vector<TensorInfo> TakeTensors() { return std::move(tensors_); }

  bool null() override { return RefuseValue("null"); }
  bool boolean(bool) override { return RefuseValue("a bool"); }
  bool number_integer(number_integer_t value) override { return RefuseValue(fmt::format("{}", value)); }
  bool number_float(number_float_t, const string_t& text) override { return RefuseValue(Printable(text)); }
  bool binary(binary_t&) override { return RefuseValue("binary"); }
  bool number_unsigned(number_unsigned_t value) override;
  bool string(string_t& text) override;
  bool start_object(std::size_t) override;
  bool end_object() override;
  bool start_array(std::size_t) override;
  bool end_array() override;
  bool key(string_t& name) override;

 private:
  enum class Place { kStart, kTop, kMetadata, kTensor, kDType, kShape, kOffsets, kShapeArray, kOffsetsArray };

  bool RefuseValue(const std::string& found);
  bool RefuseTensor(const std::string& reason) {
    return Refuse(fmt::format("tensor '{}': {}", Printable(tensor_.name), reason));
  }
  bool TopKey(const std::string& name);
  bool TensorKey(const std::string& name);
  bool FinishTensor();

  const uint64_t data_offset_bytes_;
  std::vector<TensorInfo> tensors_;
  Place place_ = Place::kStart;
  bool seen_metadata_ = false;
  bool metadata_is_next_ = false;  // the value that follows the key at the top
  std::set<std::string> metadata_keys_;

  // The tensor that is being read.
  TensorInfo tensor_;
  bool seen_dtype_ = false;
  bool seen_shape_ = false;
  bool seen_offsets_ = false;
  std::vector<uint64_t> offsets_;  // [2]
};

bool HeaderHandler::RefuseValue(const std::string& found) {
  switch (place_) {
    case Place::kStart:
      return Refuse(fmt::format("the header is {}, expected an object", found));
    case Place::kTop:
      return metadata_is_next_
                 ? Refuse(fmt::format("'__metadata__' is {}, expected an object of strings", found))
                 : RefuseTensor(fmt::format("is {}, expected an object", found));
    case Place::kMetadata:
      return Refuse(fmt::format("'__metadata__' holds {}, expected strings only", found));
    case Place::kTensor:
    case Place::kDType:
      return RefuseTensor(fmt::format("its dtype is {}, expected a string", found));
    case Place::kShape:
    case Place::kShapeArray:
      return RefuseTensor(fmt::format("its shape holds {}, expected an array of numbers above 0", found));
    case Place::kOffsets:
    case Place::kOffsetsArray:
      return RefuseTensor(
          fmt::format("its data_offsets hold {}, expected [begin, end] with numbers of 0 or more", found));
  }
  return Refuse("unexpected value");
}

bool HeaderHandler::number_unsigned(number_unsigned_t value) {
  if (place_ == Place::kShapeArray) {
    if (value == 0) return RefuseValue("0");
    if (tensor_.shape.size() == kMaxSafetensorsDims) {
      return RefuseTensor(fmt::format("has more than {} dimensions", kMaxSafetensorsDims));
    }
    tensor_.shape.push_back(value);
    return true;
  }
  if (place_ == Place::kOffsetsArray) {
    if (offsets_.size() == 2) return RefuseTensor("its data_offsets are more than 2, expected [begin, end]");
    offsets_.push_back(value);
    return true;
  }
  return RefuseValue(fmt::format("{}", value));
}

bool HeaderHandler::string(string_t& text) {
  if (place_ == Place::kMetadata) return true;
  if (place_ != Place::kDType) return RefuseValue(fmt::format("the string '{}'", Printable(text)));
  const auto found =
      std::find_if(kDTypes.begin(), kDTypes.end(), [&](const NamedDType& each) { return each.name == text; });
  if (found == kDTypes.end()) {
    return RefuseTensor(fmt::format("is of dtype '{}', which this program does not know", Printable(text)));
  }
  tensor_.dtype = found->dtype;
  seen_dtype_ = true;
  place_ = Place::kTensor;
  return true;
}

bool HeaderHandler::start_object(std::size_t) {
  if (place_ == Place::kStart) {
    place_ = Place::kTop;
    return true;
  }
  if (place_ != Place::kTop) return RefuseValue("an object");
  place_ = metadata_is_next_ ? Place::kMetadata : Place::kTensor;
  return true;
}

bool HeaderHandler::end_object() {
  if (place_ == Place::kTensor && !FinishTensor()) return false;
  place_ = Place::kTop;
  return true;
}

bool HeaderHandler::start_array(std::size_t) {
  if (place_ == Place::kShape) {
    place_ = Place::kShapeArray;
    return true;
  }
  if (place_ == Place::kOffsets) {
    place_ = Place::kOffsetsArray;
    return true;
  }
  return RefuseValue("an array");
}

bool HeaderHandler::end_array() {
  (place_ == Place::kShapeArray ? seen_shape_ : seen_offsets_) = true;
  place_ = Place::kTensor;
  return true;
}

bool HeaderHandler::key(string_t& name) {
  if (place_ == Place::kTop) return TopKey(name);
  if (place_ == Place::kTensor) return TensorKey(name);
  if (metadata_keys_.size() == kMaxMetadataEntries) {
    return Refuse(fmt::format("'__metadata__' has more than {} entries", kMaxMetadataEntries));
  }
  if (!metadata_keys_.insert(name).second) {
    return Refuse(fmt::format("'__metadata__' holds the key '{}' twice", Printable(name)));
  }
  return true;
}

bool HeaderHandler::TopKey(const std::string& name) {
  metadata_is_next_ = name == "__metadata__";
  if (metadata_is_next_) {
    if (std::exchange(seen_metadata_, true)) return Refuse("'__metadata__' is there twice");
    return true;
  }
  if (const char* reason = WhyBadName(name)) {
    return Refuse(fmt::format("the name '{}' of tensor {} {}", Printable(name), tensors_.size(), reason));
  }
  if (name.size() > kMaxNameBytes) {
    return Refuse(fmt::format("the name of tensor {} has {} bytes, expected at most {}", tensors_.size(),
                              name.size(), kMaxNameBytes));
  }
  tensor_ = {};
  tensor_.name = name;
  offsets_.clear();
  seen_dtype_ = seen_shape_ = seen_offsets_ = false;
  return true;
}

bool HeaderHandler::TensorKey(const std::string& name) {
  bool again = false;
  if (name == "dtype") {
    again = seen_dtype_;
    place_ = Place::kDType;
  } else if (name == "shape") {
    again = seen_shape_;
    place_ = Place::kShape;
  } else if (name == "data_offsets") {
    again = seen_offsets_;
    place_ = Place::kOffsets;
  } else {
    return RefuseTensor(
        fmt::format("has a field '{}', expected dtype, shape and data_offsets", Printable(name)));
  }
  return again ? RefuseTensor(fmt::format("has the field '{}' twice", name)) : true;
}

bool HeaderHandler::FinishTensor() {
  if (!seen_dtype_ || !seen_shape_ || !seen_offsets_) {
    return RefuseTensor(fmt::format("has no {}", !seen_dtype_   ? "dtype"
                                                 : !seen_shape_ ? "shape"
                                                                : "data_offsets"));
  }
  if (offsets_.size() != 2 || offsets_[0] > offsets_[1]) {
    return RefuseTensor(fmt::format("its data_offsets are [{}], expected [begin, end] with begin <= end",
                                    fmt::join(offsets_, ", ")));
  }
  std::optional<uint64_t> size_bytes = RowBytes(tensor_.dtype, 1);
  for (const uint64_t dim : tensor_.shape) {
    if (size_bytes) size_bytes = CheckedMultiply(*size_bytes, dim);
  }
  const std::string shape = fmt::format("[{}]", fmt::join(tensor_.shape, ", "));
  if (!size_bytes) return RefuseTensor(fmt::format("its shape {} overflows 64 bits", shape));
  if (*size_bytes != offsets_[1] - offsets_[0]) {
    return RefuseTensor(fmt::format("its data_offsets [{}] hold {} bytes, expected {} for {} of {}",
                                    fmt::join(offsets_, ", "), offsets_[1] - offsets_[0], *size_bytes, shape,
                                    DTypeName(tensor_.dtype)));
  }
  if (!CheckedAdd(data_offset_bytes_, offsets_[1])) {
    return RefuseTensor(fmt::format("its data_offsets [{}] overflow 64 bits", fmt::join(offsets_, ", ")));
  }
  tensor_.extent = {data_offset_bytes_ + offsets_[0], *size_bytes};
  if (tensors_.size() == kMaxSafetensorsTensors) {
    return Refuse(fmt::format("the header lists more than {} tensors", kMaxSafetensorsTensors));
  }
  tensors_.push_back(std::move(tensor_));
  return true;
}

}  // namespace

Result<std::vector<TensorInfo>> ParseSafetensorsHeader(ByteSource& source, Extent header) {
  JsonStream stream(source, header);
  HeaderHandler handler(stream, header.end_bytes());
  FRUGAL_TRY(handler.Walk());
  return handler.TakeTensors();
}

}  // namespace frugal
