#include "src/pack/checkpoint.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "src/base/bytes.h"
#include "src/format/json_file.h"
#include "src/format/untrusted_text.h"
#include "src/pack/elements.h"

namespace frugal {
namespace {

// A request to read ahead is worth a system call from this size on.
constexpr uint64_t kMinReadAheadBytes = 256 * kKiB;

int64_t ModifiedNs(const struct stat& status) {
  return static_cast<int64_t>(status.st_mtim.tv_sec) * 1'000'000'000 + status.st_mtim.tv_nsec;
}

std::string ShapeText(std::span<const uint64_t> shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

// Tensors that checkpoints bring and no forward pass uses.
bool IsKnownSuperfluous(std::string_view name) {
  return name == "lm_head.weight" || name.ends_with("rotary_emb.inv_freq") ||
         name.find("mlp.predictor.") != std::string_view::npos ||
         name.ends_with("embed_positions._float_tensor") || name.ends_with("decoder.version");
}

}  // namespace

Result<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& directory) {
  auto checkpoint = std::unique_ptr<Checkpoint>(new Checkpoint());
  checkpoint->directory_ = directory;
  const std::string config_path = directory + "/config.json";
  FRUGAL_ASSIGN(const nlohmann::json config, ReadJsonFile(config_path));
  FRUGAL_ASSIGN(checkpoint->config_, ParseHuggingFaceConfig(config, config_path));
  if (checkpoint->config_.architecture != Architecture::kOpt) {
    return BadModel("{}: checkpoints of architecture \"{}\" cannot be packed, only those of \"opt\"", config_path,
                    ArchitectureName(checkpoint->config_.architecture));
  }
  FRUGAL_ASSIGN(checkpoint->tensors_, SafetensorsDirectory::Open(directory));
  FRUGAL_TRY(checkpoint->OpenFiles());
  const bool bare = checkpoint->tensors_->Find("model.decoder.embed_tokens.weight") == nullptr &&
                    checkpoint->tensors_->Find("decoder.embed_tokens.weight") != nullptr;
  checkpoint->prefix_ = bare ? "decoder." : "model.decoder.";
  return checkpoint;
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

Result<const TensorInfo*> Checkpoint::Require(std::string_view name, std::span<const uint64_t> shape) {
  return RequireFull(prefix_ + std::string(name), shape);
}

Result<const TensorInfo*> Checkpoint::RequireTop(std::string_view name, std::span<const uint64_t> shape) {
  return RequireFull(std::string(name), shape);
}

Result<const TensorInfo*> Checkpoint::RequireFull(const std::string& name, std::span<const uint64_t> shape) {
  const TensorInfo* tensor = tensors_->Find(name);
  if (tensor == nullptr) return BadModel("{}: tensor {} is missing", directory_, name);
  if (!std::equal(tensor->shape.begin(), tensor->shape.end(), shape.begin(), shape.end())) {
    return BadModel("{}: tensor {} has the shape {}, config.json makes it {}", PathOf(*tensor), name,
                    ShapeText(tensor->shape), ShapeText(shape));
  }
  if (!IsFloat(tensor->dtype)) {
    return BadModel("{}: tensor {} is of type {}, expected F32, F16 or BF16", PathOf(*tensor), name,
                    DTypeName(tensor->dtype));
  }
  required_.insert(name);
  return tensor;
}

std::vector<std::string> Checkpoint::UnusedTensors() const {
  std::vector<std::string> lines;
  for (const TensorInfo& tensor : tensors_->tensors()) {
    if (required_.contains(tensor.name) || IsKnownSuperfluous(tensor.name)) continue;
    lines.push_back(fmt::format("{}: tensor {} {} is not used", PathOf(tensor), Printable(tensor.name),
                                ShapeText(tensor.shape)));
  }
  return lines;
}

std::string Checkpoint::Place(const TensorInfo& tensor, uint64_t element) const {
  const uint64_t offset_bytes = tensor.extent.offset_bytes + element * TraitsOf(tensor.dtype).block_bytes;
  return fmt::format("{}: {}: row {}, column {} at offset {}", PathOf(tensor), tensor.name,
                     element / tensor.columns(), element % tensor.columns(), offset_bytes);
}

Status Checkpoint::Read(const TensorInfo& tensor, uint64_t first_element, std::span<std::byte> out) {
  const uint64_t offset_bytes =
      tensor.extent.offset_bytes + first_element * TraitsOf(tensor.dtype).block_bytes;
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
