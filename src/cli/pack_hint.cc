#include "src/cli/pack_hint.h"

#include <fmt/format.h>

#include <algorithm>
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

bool RunsCheckpoints(std::string_view verb) {
  constexpr std::array<std::string_view, 4> kVerbs = {"run", "plan", "eval", "inspect"};
  return std::find(kVerbs.begin(), kVerbs.end(), verb) != kVerbs.end();
}

std::string PackHint(std::string_view verb, const std::string& path) {
  const bool in_place = RunsCheckpoints(verb);
  if (in_place && IsCheckpointPath(path)) return "";
  std::error_code error;
  fs::path directory = path;
  if (!fs::is_directory(directory, error)) {
    if (!IsCheckpointFile(directory)) return "";
    directory = directory.has_parent_path() ? directory.parent_path() : fs::path(".");
  }
  const auto resolved = ResolveCheckpointDirectory(directory.string());
  const bool has_config = resolved && fs::exists(fs::path(resolved->path) / "config.json", error);
  if (in_place) return has_config ? fmt::format("; the model is its directory, {}", Printable(directory.string())) : "";
  if (!has_config) return "; `frugal pack DIR -o NAME.gguf` makes one of a directory with a config.json";
  return fmt::format("; a checkpoint is packed first: frugal pack {} -o {}.gguf", Printable(directory.string()), Printable(resolved->name));
}

}  // namespace frugal
