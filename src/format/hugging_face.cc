#include "src/format/hugging_face.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <span>
#include <system_error>
#include <vector>

#include "src/format/json_file.h"
#include "src/format/pytorch_checkpoint.h"
#include "src/format/regular_file.h"
#include "src/format/safetensors.h"
#include "src/format/untrusted_text.h"

namespace frugal {
namespace {

constexpr uint64_t kMaxRefBytes = 256;
constexpr std::string_view kCachePrefix = "models--";

bool IsDirectory(const std::string& path) {
  struct stat status = {};
  return stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

bool Exists(const std::string& path) {
  struct stat status = {};
  return lstat(path.c_str(), &status) == 0;
}

bool HoldsModel(const std::string& directory) {
  return Exists(directory + "/config.json") || HasShards(directory, kSafetensorsFileName) || HasShards(directory, kPytorchFileName);
}

std::string LastName(const std::string& path) {
  std::error_code error;
  const std::filesystem::path whole = std::filesystem::weakly_canonical(path, error);
  return error ? std::string() : whole.filename().string();
}

// "NAME" of "models--ORG--NAME", else the name itself.
std::string ModelName(const std::string& directory) {
  const std::string name = LastName(directory);
  if (!name.starts_with(kCachePrefix)) return name.empty() ? "model" : Printable(name);
  const size_t dashes = name.rfind("--");
  return Printable(name.substr(dashes + 2));
}

// What refs/main says; the only snapshot where nothing does.
Result<std::string> FindSnapshot(const std::string& path) {
  const std::string ref_path = path + "/refs/main";
  const std::string snapshots_path = path + "/snapshots";
  if (Exists(ref_path)) {
    FRUGAL_ASSIGN(std::string name, ReadTextFile(ref_path, kMaxRefBytes));
    while (!name.empty() && (name.back() == '\n' || name.back() == '\r' || name.back() == ' ')) name.pop_back();
    if (WhyBadName(name) != nullptr || name.find('/') != std::string::npos || name == "." || name == "..") {
      return BadModel("{}: expected the name of a directory in snapshots, found '{}'", ref_path, Printable(name, 80));
    }
    if (!IsDirectory(snapshots_path + "/" + name)) {
      return BadModel("{}: names the snapshot '{}', which is not in {}", ref_path, name, snapshots_path);
    }
    return snapshots_path + "/" + name;
  }
  std::vector<std::string> found;
  std::error_code error;
  for (std::filesystem::directory_iterator at(snapshots_path, error), end; !error && at != end; at.increment(error)) {
    if (IsDirectory(at->path().string())) found.push_back(at->path().string());
  }
  if (error) return MakeError(ErrorCode::kIo, "{}: cannot be read: {}", snapshots_path, error.message());
  if (found.size() != 1) {
    return BadModel("{}: {} snapshots and no refs/main, expected one: name the directory of the snapshot itself", snapshots_path,
                    found.size());
  }
  return found[0];
}

// A snapshot lies in models--ORG--NAME/snapshots, and its own name is a hash.
std::string NameOfSnapshot(const std::string& directory) {
  std::error_code error;
  const std::filesystem::path whole = std::filesystem::weakly_canonical(directory, error);
  if (!error && whole.parent_path().filename() == "snapshots") return ModelName(whole.parent_path().parent_path().string());
  return ModelName(directory);
}

std::string ParentOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace

bool IsCheckpointPath(const std::string& path) {
  if (IsDirectory(path)) return true;
  if (!path.ends_with(kSafetensorsExtension) && !path.ends_with(kPytorchExtension)) return false;
  const Result<RegularFile> file = OpenRegularFile(path);
  std::array<char, 4> magic = {};
  if (!file || file->size_bytes < magic.size()) return true;
  const Status read = ReadFully(file->fd.get(), path, 0, std::as_writable_bytes(std::span(magic)));
  return !read || std::string_view(magic.data(), magic.size()) != "GGUF";
}

Result<CheckpointDirectory> ResolveCheckpointDirectory(const std::string& path) {
  struct stat status = {};
  if (stat(path.c_str(), &status) != 0) {
    if (errno == ELOOP) return BadModel("{}: is a symbolic link that leads in a circle", path);
    return MakeError(ErrorCode::kIo, "{}: cannot be opened: {}", path, std::strerror(errno));
  }
  if (!IsDirectory(path) && IsCheckpointPath(path)) {
    const std::string parent = ParentOf(path);
    return CheckpointDirectory{parent, NameOfSnapshot(parent), path};
  }
  CheckpointDirectory directory{path, NameOfSnapshot(path), ""};
  if (!HoldsModel(path) && IsDirectory(path + "/snapshots")) {
    FRUGAL_ASSIGN(directory.path, FindSnapshot(path));
    directory.name = ModelName(path);
  }
  if (IsDirectory(directory.path) && !HoldsModel(directory.path)) {
    return BadModel("{}: is a directory that holds neither config.json nor weights: no checkpoint", directory.path);
  }
  return directory;
}

Result<std::unique_ptr<TensorSource>> OpenCheckpointTensors(const std::string& directory) {
  if (HasShards(directory, kSafetensorsFileName) || !IsDirectory(directory)) {
    FRUGAL_ASSIGN(std::unique_ptr<TensorSource> source, SafetensorsDirectory::Open(directory));
    return source;
  }
  if (HasShards(directory, kPytorchFileName)) {
    FRUGAL_ASSIGN(std::unique_ptr<TensorSource> source, PytorchCheckpoint::Open(directory));
    return source;
  }
  return BadModel("{}: holds neither {} nor {}, nor the index of either's shards", directory, kSafetensorsFileName, kPytorchFileName);
}

Result<std::unique_ptr<TensorSource>> OpenCheckpointTensors(const CheckpointDirectory& directory) {
  const std::string& file = directory.file;
  if (file.empty()) return OpenCheckpointTensors(directory.path);
  const bool is_pytorch = file.ends_with(kPytorchExtension);
  // "model-00001-of-00002.safetensors" of model.safetensors.index.json.
  const bool is_shard = file.find("-of-", file.rfind('/') + 1) != std::string::npos;
  if (is_shard && HasShards(directory.path, is_pytorch ? kPytorchFileName : kSafetensorsFileName)) {
    return BadModel("{}: is one of several files of a model: name their directory, {}", file, directory.path);
  }
  if (is_pytorch) {
    FRUGAL_ASSIGN(std::unique_ptr<TensorSource> source, PytorchCheckpoint::OpenFile(file));
    return source;
  }
  FRUGAL_ASSIGN(std::unique_ptr<TensorSource> source, SafetensorsDirectory::OpenFile(file));
  return source;
}

}  // namespace frugal
