#include "src/cli/pack_hint.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "src/base/temp_dir_for_test.h"

namespace frugal {
namespace {

TEST(PackHint, ACheckpointIsToBePacked) {
  const TempDir directory;
  const std::string model = directory.File("some-model");
  std::filesystem::create_directory(model);
  for (const char* name : {"some-model/config.json", "some-model/model.safetensors", "some-model/pytorch_model.bin"}) {
    directory.Write(name, "{}");
  }
  const std::string command = "frugal pack " + model + " -o some-model.gguf";
  for (const char* name : {"", "/model.safetensors", "/pytorch_model.bin", "/config.json"}) {
    EXPECT_NE(PackHint(model + name).find(command), std::string::npos) << PackHint(model + name);
  }
}

TEST(PackHint, NothingIsSaidOfOtherFiles) {
  const TempDir directory;
  EXPECT_EQ(PackHint(directory.Write("model.gguf", "GGUF")), "");
  EXPECT_EQ(PackHint(directory.File("absent.gguf")), "");
  EXPECT_NE(PackHint(directory.Write("model.safetensors", "")).find("a directory with a config.json"), std::string::npos);
}

}  // namespace
}  // namespace frugal
