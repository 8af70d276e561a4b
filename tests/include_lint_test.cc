// Includes go downward only (docs: ARCHITECTURE.md, "Folders"), libraries stay in the folders that own them, and nothing below cli prints
// or reads the environment.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace frugal {
namespace {

namespace fs = std::filesystem;

struct SourceLine {
  std::string file;  // below the root
  std::string folder;
  std::string text;
  bool is_test = false;
};

std::vector<SourceLine> ReadSources() {
  std::vector<SourceLine> lines;
  const fs::path root = fs::path(FRUGAL_SOURCE_DIR) / "src";
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(root)) {
    const std::string extension = entry.path().extension().string();
    if (extension != ".h" && extension != ".cc") continue;
    const fs::path relative = fs::relative(entry.path(), root);
    std::ifstream file(entry.path());
    for (std::string text; std::getline(file, text);) {
      lines.push_back({relative.string(), relative.begin()->string(), text, relative.string().ends_with("_test.cc")});
    }
  }
  return lines;
}

// Of src/model: what a model is and where its weights come from, nothing of how it runs.
constexpr std::array<std::string_view, 5> kPackMayInclude = {"config.h", "checkpoint.h", "checkpoint_map.h", "row_map.h", "source_names.h"};

TEST(IncludeLintTest, IncludesGoDownwardOnly) {
  const std::map<std::string, std::set<std::string>> allowed = {
      {"base", {}},
      {"tensor", {"base"}},
      {"io", {"base", "tensor"}},
      {"kernels", {"base", "tensor"}},
      {"text", {"base"}},
      {"format", {"base", "tensor", "io"}},
      {"cache", {"base", "tensor", "io"}},
      {"select", {"base", "tensor", "kernels"}},
      {"model", {"base", "tensor", "io", "kernels", "text", "format", "cache", "select"}},
      {"engine", {"base", "tensor", "io", "kernels", "text", "format", "cache", "select", "model"}},
      // model: only kPackMayInclude (docs/decisions/0003-pack-reads-model-config.md).
      {"pack", {"base", "tensor", "io", "kernels", "text", "format", "model"}},
      {"train", {"base", "tensor", "io", "kernels", "text", "format", "cache", "select", "model", "engine"}},
      {"cli", {"base", "tensor", "io", "kernels", "text", "format", "cache", "select", "model", "engine", "pack", "train"}},
  };
  for (const SourceLine& line : ReadSources()) {
    const std::string prefix = "#include \"src/";
    if (!line.text.starts_with(prefix)) continue;
    const std::string target = line.text.substr(prefix.size(), line.text.find('/', prefix.size()) - prefix.size());
    ASSERT_TRUE(allowed.contains(line.folder)) << line.file << ": folder " << line.folder << " is not in the table";
    if (target == line.folder || line.is_test) continue;
    EXPECT_TRUE(allowed.at(line.folder).contains(target)) << line.file << " includes " << target << ", which is not below it";
    if (line.folder == "pack" && target == "model") {
      EXPECT_TRUE(std::any_of(kPackMayInclude.begin(), kPackMayInclude.end(), [&](std::string_view header) {
        return line.text == "#include \"src/model/" + std::string(header) + "\"";
      })) << line.file << ": " << line.text;
    }
  }
}

TEST(IncludeLintTest, LibrariesStayInTheirFolders) {
  const std::map<std::string, std::set<std::string>> owners = {
      {"<liburing.h>", {"io"}}, {"<hwy/", {"kernels"}}, {"<pcre2.h>", {"text"}}, {"<utf8proc.h>", {"text"}}, {"<CLI/", {"cli"}}};
  std::set<std::string> uring_files;
  for (const SourceLine& line : ReadSources()) {
    if (!line.text.starts_with("#include <") && !line.text.starts_with("#include \"hwy/")) continue;
    for (const auto& [library, folders] : owners) {
      if (line.text.find(library) == std::string::npos) continue;
      EXPECT_TRUE(folders.contains(line.folder)) << line.file << ": " << line.text;
      if (library == "<liburing.h>") uring_files.insert(line.file);
    }
  }
  EXPECT_EQ(uring_files.size(), 1u);
}

TEST(IncludeLintTest, NothingBelowCliPrintsExitsOrReadsTheEnvironment) {
  for (const SourceLine& line : ReadSources()) {
    if (line.folder == "cli" || line.is_test || line.file == "base/check.h") continue;
    for (const char* banned : {"std::cout", "std::cerr", "printf(", "fmt::print", "getenv(", " exit(", "std::regex", "-ffast-math", "throw "}) {
      const size_t at = line.text.find(banned);
      if (at == std::string::npos) continue;
      const size_t comment = line.text.find("//");
      EXPECT_TRUE(comment != std::string::npos && comment < at) << line.file << ": " << line.text;
    }
  }
}

}  // namespace
}  // namespace frugal
