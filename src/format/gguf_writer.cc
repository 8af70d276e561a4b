#include "src/format/gguf_writer.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include "src/base/bytes.h"
#include "src/format/gguf_reader.h"
#include "src/format/untrusted_text.h"

namespace frugal {
namespace {

constexpr std::string_view kMagic = "GGUF";
constexpr uint32_t kVersion = 3;
constexpr uint64_t kFixedHeaderBytes = kMagic.size() + sizeof(kVersion) + 2 * sizeof(uint64_t);
constexpr uint32_t kMaxAlignmentBytes = kMiB;  // what GgufReader accepts

template <typename T>
requires std::is_trivially_copyable_v<T>
void Append(std::string& to, T value) { to.append(reinterpret_cast<const char*>(&value), sizeof(value)); }

void AppendString(std::string& to, std::string_view text) {
  Append(to, static_cast<uint64_t>(text.size()));
  to += text;
}

// Bytes of the tensor; nothing for a shape that no GGUF file can have.
std::optional<uint64_t> SizeOf(DType dtype, std::span<const uint64_t> shape) {
  if (shape.empty() || shape.size() > 4) return std::nullopt;
  std::optional<uint64_t> size_bytes = RowBytes(dtype, shape.back());
  for (const uint64_t dim : shape.first(shape.size() - 1)) {
    if (size_bytes) size_bytes = CheckedMultiply(*size_bytes, dim);
  }
  if (!size_bytes || *size_bytes == 0 || *size_bytes > (uint64_t{1} << 62)) return std::nullopt;
  return size_bytes;
}

std::span<const std::byte> AsBytes(const std::string& text) { return std::as_bytes(std::span(text)); }

}  // namespace

struct GgufWriter::Tensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<uint64_t> shape;  // outermost first
  uint64_t size_bytes = 0;
  uint64_t offset_bytes = 0;   // in the data section
  uint64_t written_bytes = 0;  // of all parts together
};

GgufWriter::GgufWriter() = default;
GgufWriter::~GgufWriter() = default;

Result<std::unique_ptr<GgufWriter>> GgufWriter::Open(const std::string& path, Overwrite overwrite,
                                                     uint32_t alignment_bytes) {
  if (alignment_bytes < 8 || alignment_bytes > kMaxAlignmentBytes || !std::has_single_bit(alignment_bytes)) {
    return MakeError(ErrorCode::kUsage, "{}: alignment {}: expected a power of two from 8 to {}", path,
                     alignment_bytes, kMaxAlignmentBytes);
  }
  auto writer = std::unique_ptr<GgufWriter>(new GgufWriter());
  FRUGAL_ASSIGN(writer->file_, OutputFile::Open(path, overwrite));
  writer->alignment_bytes_ = alignment_bytes;
  writer->AddUint32("general.alignment", alignment_bytes);
  return writer;
}

// The key and the type of its value; the caller appends the value.
void GgufWriter::BeginKey(std::string_view key, GgufType type) {
  CHECK(!began_);
  const char* reason = key.size() > GgufReader::kMaxKeyBytes ? "is too long" : WhyBadName(key);
  if (reason != nullptr && !problem_) {
    problem_ = MakeError(ErrorCode::kFailed, "{}: the key '{}' {}", file_->path(), Printable(key), reason);
  }
  if (!keys_.emplace(key).second && !problem_) {
    problem_ =
        MakeError(ErrorCode::kFailed, "{}: the key '{}' was added twice", file_->path(), Printable(key));
  }
  AppendString(key_bytes_, key);
  Append(key_bytes_, static_cast<uint32_t>(type));
}

void GgufWriter::BeginArray(std::string_view key, GgufType element_type, uint64_t count) {
  BeginKey(key, GgufType::kArray);
  Append(key_bytes_, static_cast<uint32_t>(element_type));
  Append(key_bytes_, count);
}

// Strings longer than GgufReader takes are refused here, so that no file is made that cannot be read.
void GgufWriter::AppendText(std::string_view key, std::string_view text) {
  if (text.size() > GgufReader::kMaxStringBytes && !problem_) {
    problem_ = MakeError(ErrorCode::kFailed, "{}: key '{}': a string of {} bytes, expected at most {}",
                         file_->path(), Printable(key), text.size(), GgufReader::kMaxStringBytes);
  }
  AppendString(key_bytes_, text);
}

void GgufWriter::AddUint32(std::string_view key, uint32_t value) {
  BeginKey(key, GgufType::kU32);
  Append(key_bytes_, value);
}

void GgufWriter::AddUint64(std::string_view key, uint64_t value) {
  BeginKey(key, GgufType::kU64);
  NoteReplaceable(key);
  Append(key_bytes_, value);
}

void GgufWriter::AddFloat32(std::string_view key, float value) {
  BeginKey(key, GgufType::kF32);
  Append(key_bytes_, value);
}

void GgufWriter::AddFloat64(std::string_view key, double value) {
  BeginKey(key, GgufType::kF64);
  NoteReplaceable(key);
  Append(key_bytes_, value);
}

void GgufWriter::AddBool(std::string_view key, bool value) {
  BeginKey(key, GgufType::kBool);
  Append(key_bytes_, static_cast<uint8_t>(value));
}

void GgufWriter::AddString(std::string_view key, std::string_view value) {
  BeginKey(key, GgufType::kString);
  AppendText(key, value);
}

void GgufWriter::AddStringArray(std::string_view key, std::span<const std::string> values) {
  BeginArray(key, GgufType::kString, values.size());
  for (const std::string& value : values) AppendText(key, value);
}

void GgufWriter::AddStringArray(std::string_view key, std::span<const std::string_view> values) {
  BeginArray(key, GgufType::kString, values.size());
  for (const std::string_view value : values) AppendText(key, value);
}

void GgufWriter::AddInt32Array(std::string_view key, std::span<const int32_t> values) {
  BeginArray(key, GgufType::kI32, values.size());
  for (const int32_t value : values) Append(key_bytes_, value);
}

void GgufWriter::AddFloat32Array(std::string_view key, std::span<const float> values) {
  BeginArray(key, GgufType::kF32, values.size());
  for (const float value : values) Append(key_bytes_, value);
}

size_t GgufWriter::AddTensor(std::string_view name, DType dtype, std::span<const uint64_t> shape) {
  CHECK(!began_);
  const std::optional<uint64_t> size_bytes = SizeOf(dtype, shape);
  const char* reason =
      name.size() > GgufReader::kMaxNameBytes ? "has a name that is too long" : WhyBadName(name);
  if (!size_bytes) reason = "has a shape that no GGUF file can hold";
  if (!tensor_names_.emplace(name).second) reason = "was added twice";
  if (reason != nullptr && !problem_) {
    problem_ = MakeError(ErrorCode::kFailed, "{}: tensor '{}' with the shape [{}] of {}: {}", file_->path(),
                         Printable(name), fmt::join(shape, ", "), DTypeName(dtype), reason);
  }
  Tensor tensor;
  tensor.name = name;
  tensor.dtype = dtype;
  tensor.shape.assign(shape.begin(), shape.end());
  tensor.size_bytes = size_bytes.value_or(0);
  tensor.offset_bytes = data_bytes_;
  const std::optional<uint64_t> end_bytes =
      CheckedAdd(data_bytes_, RoundUp(tensor.size_bytes, alignment_bytes_));
  if ((!end_bytes || *end_bytes > (uint64_t{1} << 62)) && !problem_) {
    problem_ = MakeError(ErrorCode::kFailed, "{}: tensor '{}': the file would be larger than 2^62 bytes",
                         file_->path(), Printable(name));
  }
  data_bytes_ = end_bytes.value_or(data_bytes_);
  info_bytes_ +=
      sizeof(uint64_t) + name.size() + 2 * sizeof(uint32_t) + sizeof(uint64_t) * (shape.size() + 1);
  tensors_.push_back(std::move(tensor));
  return tensors_.size() - 1;
}

uint64_t GgufWriter::data_offset_bytes() const {
  return RoundUp(kFixedHeaderBytes + key_bytes_.size() + info_bytes_, alignment_bytes_);
}

uint64_t GgufWriter::file_bytes() const { return data_offset_bytes() + data_bytes_; }

std::string GgufWriter::MakeHeader() const {
  std::string header(kMagic);
  Append(header, kVersion);
  Append(header, static_cast<uint64_t>(tensors_.size()));
  Append(header, static_cast<uint64_t>(keys_.size()));
  header += key_bytes_;
  for (const Tensor& tensor : tensors_) {
    AppendString(header, tensor.name);
    Append(header, static_cast<uint32_t>(tensor.shape.size()));
    for (auto dim = tensor.shape.rbegin(); dim != tensor.shape.rend(); ++dim) Append(header, *dim);
    Append(header, static_cast<uint32_t>(tensor.dtype));
    Append(header, tensor.offset_bytes);
  }
  return header;
}

std::string GgufWriter::HeaderBytes() const {
  std::string header = MakeHeader();
  header.resize(data_offset_bytes(), '\0');
  return header;
}

Status GgufWriter::BeginData(Space space) {
  CHECK(!began_);
  if (problem_) return *problem_;
  if (keys_.size() > GgufReader::kMaxKeyValues || tensors_.size() > GgufReader::kMaxTensors) {
    return MakeError(ErrorCode::kFailed, "{}: {} keys and {} tensors, expected at most {} and {}",
                     file_->path(), keys_.size(), tensors_.size(), GgufReader::kMaxKeyValues,
                     GgufReader::kMaxTensors);
  }
  began_ = true;
  FRUGAL_TRY(space == Space::kReserved ? file_->Reserve(file_bytes()) : file_->SetLength(file_bytes()));
  return file_->Write(0, AsBytes(MakeHeader()), "header");
}

Status GgufWriter::Replace(std::string_view key, const void* value) {
  const auto found = replaceable_.find(key);
  CHECK(began_ && found != replaceable_.end());
  std::memcpy(key_bytes_.data() + found->second, value, sizeof(uint64_t));
  const uint64_t offset_bytes = kFixedHeaderBytes + found->second;
  return file_->Write(offset_bytes, std::as_bytes(std::span(key_bytes_).subspan(found->second, sizeof(uint64_t))), "header");
}

Status GgufWriter::ReplaceFloat64(std::string_view key, double value) { return Replace(key, &value); }
Status GgufWriter::ReplaceUint64(std::string_view key, uint64_t value) { return Replace(key, &value); }

Status GgufWriter::WriteTensorPart(size_t tensor, uint64_t offset_bytes, std::span<const std::byte> data) {
  CHECK(began_ && tensor < tensors_.size());
  Tensor& target = tensors_[tensor];
  CHECK(offset_bytes <= target.size_bytes && data.size() <= target.size_bytes - offset_bytes);
  FRUGAL_TRY(file_->Write(tensor_offset_bytes(tensor) + offset_bytes, data,
                          fmt::format("tensor '{}'", target.name)));
  target.written_bytes += data.size();
  return {};
}

void GgufWriter::SkipTensorPart(size_t tensor, uint64_t size_bytes) {
  CHECK(began_ && tensor < tensors_.size() && size_bytes <= tensors_[tensor].size_bytes - tensors_[tensor].written_bytes);
  tensors_[tensor].written_bytes += size_bytes;
}

uint64_t GgufWriter::tensor_bytes(size_t tensor) const {
  CHECK(tensor < tensors_.size());
  return tensors_[tensor].size_bytes;
}

uint64_t GgufWriter::tensor_offset_bytes(size_t tensor) const {
  CHECK(began_ && tensor < tensors_.size());
  return data_offset_bytes() + tensors_[tensor].offset_bytes;
}

Status GgufWriter::Finish() {
  CHECK(began_);
  for (const Tensor& tensor : tensors_) {
    if (tensor.written_bytes < tensor.size_bytes) {
      return MakeError(ErrorCode::kFailed, "{}: tensor '{}': {} of {} bytes were written", file_->path(),
                       tensor.name, tensor.written_bytes, tensor.size_bytes);
    }
  }
  return file_->Commit();
}

}  // namespace frugal
