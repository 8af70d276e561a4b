#include "src/cli/pack_hint.h"

#include <fmt/format.h>

#include <array>
#include <filesystem>
#include <system_error>

#include "src/format/hugging_face.h"
#include "src/format/untrusted_text.h"

namespace frugal {
namespace {

namespace fs = std::filesystem;

bool IsCheckpointFile(const fs::path& path) {
  const std::array<const char*, 5> extensions = {".safetensors", ".bin", ".pt", ".pth", ".json"};
  for (const char* extension : extensions) {
    if (path.extension() == extension) return true;
  }
  return false;
}

}  // namespace

std::string PackHint(const std::string& path) {
  std::error_code error;
  fs::path directory = path;
  if (!fs::is_directory(directory, error)) {
    if (!IsCheckpointFile(directory)) return "";
    directory = directory.has_parent_path() ? directory.parent_path() : fs::path(".");
  }
  const auto resolved = ResolveCheckpointDirectory(directory.string());
  if (!resolved || !fs::exists(fs::path(resolved->path) / "config.json", error)) {
    return "; `frugal pack DIR -o NAME.gguf` makes one of a directory with a config.json";
  }
  return fmt::format("; a checkpoint is packed first: frugal pack {} -o {}.gguf", Printable(directory.string()), Printable(resolved->name));
}

}  // namespace frugal
