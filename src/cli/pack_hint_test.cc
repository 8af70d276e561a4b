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
    EXPECT_NE(PackHint("train", model + name).find(command), std::string::npos) << PackHint("train", model + name);
  }
}

TEST(PackHint, WhatRunsInPlaceIsNotToBePacked) {
  const TempDir directory;
  directory.Write("config.json", "{}");
  directory.Write("model.safetensors", "damaged");
  EXPECT_EQ(PackHint("run", directory.path()), "");
  EXPECT_EQ(PackHint("plan", directory.File("model.safetensors")), "");
  EXPECT_EQ(PackHint("eval", directory.File("config.json")), "; the model is its directory, " + directory.path());
}

TEST(PackHint, NothingIsSaidOfOtherFiles) {
  const TempDir directory;
  for (const char* verb : {"train", "run"}) {
    EXPECT_EQ(PackHint(verb, directory.Write("model.gguf", "GGUF")), "");
    EXPECT_EQ(PackHint(verb, directory.File("absent.gguf")), "");
  }
  EXPECT_NE(PackHint("check", directory.Write("model.safetensors", "")).find("a directory with a config.json"), std::string::npos);
  EXPECT_EQ(PackHint("run", directory.Write("vocab.json", "")), "");
}

}  // namespace
}  // namespace frugal
