#include "src/model/checkpoint.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "src/base/bytes.h"
#include "src/format/gguf_source.h"
#include "src/format/hugging_face.h"
#include "src/format/json_file.h"
#include "src/format/packed_format.h"
#include "src/format/untrusted_text.h"
#include "src/kernels/elements.h"

namespace frugal {
namespace {

// A request to read ahead is worth a system call from this size on.
constexpr uint64_t kMinReadAheadBytes = 256 * kKiB;

int64_t ModifiedNs(const struct stat& status) {
  return static_cast<int64_t>(status.st_mtim.tv_sec) * 1'000'000'000 + status.st_mtim.tv_nsec;
}

std::string ShapeText(std::span<const uint64_t> shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

// true or false under one of the keys, which mean the same in different architectures.
Result<std::optional<bool>> FindBool(const nlohmann::json& config, std::initializer_list<const char*> keys, const std::string& path) {
  for (const char* key : keys) {
    const auto found = config.find(key);
    if (found == config.end() || found->is_null()) continue;
    if (!found->is_boolean()) return BadModel("{}: key \"{}\": expected true or false", path, key);
    return std::optional<bool>(found->get<bool>());
  }
  return std::optional<bool>();
}

uint64_t OffsetBytes(DType dtype, uint64_t element) {
  const DTypeTraits traits = TraitsOf(dtype);
  return element / traits.block_elements * traits.block_bytes;
}

}  // namespace

Result<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& path, std::optional<Activation> activation) {
  auto checkpoint = std::unique_ptr<Checkpoint>(new Checkpoint());
  struct stat status = {};
  if (stat(path.c_str(), &status) != 0 || IsCheckpointPath(path)) {
    FRUGAL_TRY(checkpoint->OpenDirectory(path, activation));
  } else {
    FRUGAL_TRY(checkpoint->OpenGguf(path, activation));
  }
  FRUGAL_TRY(checkpoint->OpenFiles());
  const SourceKind kind = checkpoint->gguf_ != nullptr ? SourceKind::kGguf : SourceKind::kHuggingFace;
  checkpoint->names_ = FindSourceNames(checkpoint->config_, kind, *checkpoint->tensors_);
  checkpoint->names_.num_extra_layers = checkpoint->num_extra_layers_;
  return checkpoint;
}

Status Checkpoint::OpenDirectory(const std::string& path, std::optional<Activation> activation) {
  FRUGAL_ASSIGN(const CheckpointDirectory directory, ResolveCheckpointDirectory(path));
  path_ = directory.path;
  model_name_ = directory.name;
  const std::string config_path = path_ + "/config.json";
  FRUGAL_ASSIGN(const nlohmann::json config, ReadJsonFile(config_path));
  FRUGAL_ASSIGN(config_, ParseHuggingFaceConfig(config, config_path));
  if (activation) {
    config_.activation = *activation;
    FRUGAL_TRY(ValidateConfig(config_, config_path));
  }
  FRUGAL_ASSIGN(attention_has_biases_, FindBool(config, {"attention_bias", "bias"}, config_path));
  FRUGAL_ASSIGN(ffn_has_biases_, FindBool(config, {"mlp_bias", "bias"}, config_path));
  const auto extra = config.find("num_nextn_predict_layers");
  if (extra != config.end() && extra->is_number_unsigned()) {
    num_extra_layers_ = static_cast<uint32_t>(std::min<uint64_t>(extra->get<uint64_t>(), ConfigLimits::kLayers));
  }
  FRUGAL_ASSIGN(tensors_, OpenCheckpointTensors(directory));
  return {};
}

Status Checkpoint::OpenGguf(const std::string& path, std::optional<Activation> activation) {
  path_ = path;
  FRUGAL_ASSIGN(std::unique_ptr<ByteSource> bytes, OpenFileSource(path));
  FRUGAL_ASSIGN(GgufReader gguf, GgufReader::Open(std::move(bytes)));
  if (gguf.Find(kPackedVersionKey) != nullptr) {
    return MakeError(ErrorCode::kUsage, "{}: is a packed model already", path);
  }
  FRUGAL_ASSIGN(config_, ReadGgufConfig(gguf, activation));
  const Result<std::string> name = gguf.GetString("general.name");
  model_name_ = name && !name->empty() ? Printable(*name) : "model";
  auto source = std::make_unique<GgufSource>(std::move(gguf), path);
  gguf_ = &source->gguf();
  tensors_ = std::move(source);
  return {};
}

Status Checkpoint::OpenFiles() {
  for (const std::string& path : tensors_->file_paths()) {
    SourceFile source;
    source.path = path;
    FRUGAL_ASSIGN(source.file, OpenRegularFile(path));
    struct stat status = {};
    if (fstat(source.file.fd.get(), &status) != 0) {
      return MakeError(ErrorCode::kIo, "{}: {}", path, std::strerror(errno));
    }
    source.mtime_ns = ModifiedNs(status);
    files_.push_back(std::move(source));
  }
  return {};
}

Result<const TensorInfo*> Checkpoint::Require(const std::string& name, std::span<const uint64_t> shape) {
  const TensorInfo* tensor = tensors_->Find(name);
  if (tensor == nullptr) return BadModel("{}: tensor {} is missing", path_, name);
  if (!std::equal(tensor->shape.begin(), tensor->shape.end(), shape.begin(), shape.end())) {
    return BadModel("{}: tensor {} has the shape {}, {} makes it {}", PathOf(*tensor), name, ShapeText(tensor->shape),
                    gguf_ != nullptr ? "its keys" : "config.json", ShapeText(shape));
  }
  if (!IsFloat(tensor->dtype) && !(IsQuantised(tensor->dtype) && shape.size() == 2)) {
    return BadModel("{}: tensor {} is of type {}, expected F32, F16 or BF16", PathOf(*tensor), name, DTypeName(tensor->dtype));
  }
  required_.insert(name);
  return tensor;
}

std::vector<const TensorInfo*> Checkpoint::UnusedTensors() const {
  std::vector<const TensorInfo*> unused;
  for (const TensorInfo& tensor : tensors_->tensors()) {
    if (!required_.contains(tensor.name) && !IsKnownSuperfluous(tensor.name, config_, names_)) unused.push_back(&tensor);
  }
  return unused;
}

std::string Checkpoint::Place(const TensorInfo& tensor, uint64_t element) const {
  const uint64_t offset_bytes = tensor.extent.offset_bytes + OffsetBytes(tensor.dtype, element);
  return fmt::format("{}: {}: row {}, column {} at offset {}", PathOf(tensor), tensor.name,
                     element / tensor.columns(), element % tensor.columns(), offset_bytes);
}

Status Checkpoint::Read(const TensorInfo& tensor, uint64_t first_element, std::span<std::byte> out) {
  const uint64_t offset_bytes = tensor.extent.offset_bytes + OffsetBytes(tensor.dtype, first_element);
  const uint64_t end_bytes = offset_bytes + out.size();
  CHECK(end_bytes <= tensor.extent.end_bytes());
  const int fd = files_[tensor.file_index].file.fd.get();
  Status read = ReadFully(fd, PathOf(tensor), offset_bytes, out);
  if (!read) return WithContext(std::move(read).error(), tensor.name);
  bytes_read_ += out.size();
  if (out.size() >= kMinReadAheadBytes) {
    // The device reads the next piece while this one is worked on; only hints, so that failures do not
    // matter.
    const uint64_t ahead_bytes = std::min<uint64_t>(out.size(), tensor.extent.end_bytes() - end_bytes);
    if (ahead_bytes > 0) {
      posix_fadvise(fd, static_cast<off_t>(end_bytes), static_cast<off_t>(ahead_bytes), POSIX_FADV_WILLNEED);
    }
    posix_fadvise(fd, static_cast<off_t>(RoundDown(offset_bytes, 4096)),
                  static_cast<off_t>(end_bytes - RoundDown(offset_bytes, 4096)), POSIX_FADV_DONTNEED);
  }
  if (const auto bad = FindNonFinite(tensor.dtype, out)) {
    return BadModel("{}: {}, expected a finite number", Place(tensor, first_element + *bad),
                    NonFiniteText(tensor.dtype, out, *bad));
  }
  return {};
}

void Checkpoint::Forget(const TensorInfo& tensor) {
  const uint64_t begin_bytes = RoundDown(tensor.extent.offset_bytes, 4096);
  posix_fadvise(files_[tensor.file_index].file.fd.get(), static_cast<off_t>(begin_bytes),
                static_cast<off_t>(tensor.extent.end_bytes() - begin_bytes), POSIX_FADV_DONTNEED);
}

Status Checkpoint::CheckUnchanged() const {
  for (const SourceFile& source : files_) {
    struct stat status = {};
    if (fstat(source.file.fd.get(), &status) != 0) {
      return MakeError(ErrorCode::kIo, "{}: {}", source.path, std::strerror(errno));
    }
    if (static_cast<uint64_t>(status.st_size) != source.file.size_bytes ||
        ModifiedNs(status) != source.mtime_ns) {
      return MakeError(ErrorCode::kIo, "{}: the file changed while it was read", source.path);
    }
  }
  return {};
}

bool Checkpoint::HasFile(const std::string& path) const {
  struct stat wanted = {};
  if (stat(path.c_str(), &wanted) != 0) return false;
  return std::any_of(files_.begin(), files_.end(), [&wanted](const SourceFile& source) {
    struct stat status = {};
    return fstat(source.file.fd.get(), &status) == 0 && status.st_dev == wanted.st_dev &&
           status.st_ino == wanted.st_ino;
  });
}

}  // namespace frugal
