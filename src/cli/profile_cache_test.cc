#include "src/cli/profile_cache.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "src/base/temp_dir_for_test.h"

namespace frugal {
namespace {

namespace fs = std::filesystem;

class ProfileCacheTest : public ::testing::Test {
 protected:
  static CachedProfile TestProfile() {
    CachedProfile cached;
    cached.effort = ProbeEffort::kQuick;
    cached.profile.sequential_bytes_per_second = 1.5e9;
    cached.profile.random = {{512, 1, 1e4, 5.12e6}, {4096, 32, 2e5, 8.192e8}};
    cached.profile.products = {{DType::kF16, 9e9, 8e9, 7e9}, {DType::kQ4_0, 6e9, 5e9, 4e9}};
    cached.profile.device_name = "disk";
    cached.profile.device_id = "8:0 model=disk";
    cached.profile.backend = "io_uring";
    cached.profile.file_bytes = 1 << 30;
    cached.profile.verified = true;
    cached.profile.measured_at_unix = 1700000000;
    return cached;
  }

  const TempDir temporary_;
  const std::string directory_ = temporary_.path();
};

TEST_F(ProfileCacheTest, WhatIsSavedIsLoaded) {
  const CachedProfile saved = TestProfile();
  const std::string folder = directory_ + "/a/b";  // made by Save
  ASSERT_TRUE(SaveProfile(folder, saved));
  const Result<std::optional<CachedProfile>> loaded = LoadProfile(folder, saved.profile.device_id);
  ASSERT_TRUE(loaded) << loaded.error().message;
  ASSERT_TRUE(loaded->has_value());
  const DeviceProfile& profile = (*loaded)->profile;
  EXPECT_EQ((*loaded)->effort, ProbeEffort::kQuick);
  EXPECT_EQ(profile.sequential_bytes_per_second, saved.profile.sequential_bytes_per_second);
  ASSERT_EQ(profile.random.size(), 2u);
  EXPECT_EQ(profile.random[1].read_bytes, 4096u);
  EXPECT_EQ(profile.random[1].queue_depth, 32u);
  EXPECT_EQ(profile.random[1].iops, 2e5);
  ASSERT_EQ(profile.products.size(), 2u);
  EXPECT_EQ(profile.products[1].dtype, DType::kQ4_0);
  EXPECT_EQ(profile.products[1].matrix, 6e9);
  EXPECT_EQ(profile.products[1].rows, 5e9);
  EXPECT_EQ(profile.products[1].sum, 4e9);
  EXPECT_EQ(profile.device_name, "disk");
  EXPECT_EQ(profile.backend, "io_uring");
  EXPECT_TRUE(profile.verified);
  EXPECT_EQ(profile.measured_at_unix, 1700000000u);
}

TEST_F(ProfileCacheTest, AnEarlierVersionsProfileHasNoProducts) {
  nlohmann::json json = nlohmann::json::parse(ProfileToJson(TestProfile()).dump());
  json.erase("products");
  const Result<CachedProfile> parsed = ProfileFromJson(json.dump(), "p.json");
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_TRUE(parsed->profile.products.empty());
}

TEST_F(ProfileCacheTest, AnUnknownDeviceHasNoProfile) {
  const Result<std::optional<CachedProfile>> loaded = LoadProfile(directory_, "9:9");
  ASSERT_TRUE(loaded);
  EXPECT_FALSE(loaded->has_value());
}

TEST_F(ProfileCacheTest, AnotherDevicesFileIsRefused) {
  const CachedProfile saved = TestProfile();
  ASSERT_TRUE(SaveProfile(directory_, saved));
  fs::rename(ProfilePath(directory_, saved.profile.device_id), ProfilePath(directory_, "9:9"));
  EXPECT_FALSE(LoadProfile(directory_, "9:9"));
}

TEST_F(ProfileCacheTest, EveryDamageOfTheFileIsAnErrorThatNamesIt) {
  const std::string good = ProfileToJson(TestProfile()).dump();
  ASSERT_TRUE(ProfileFromJson(good, "p.json"));
  std::vector<std::string> bad = {"", "[]", "null", "{", good.substr(0, good.size() / 2), good + "x"};
  for (const char* key : {"sequential_bytes_per_second", "random", "file_bytes", "measured_at_unix"}) {
    nlohmann::json without = nlohmann::json::parse(good);
    without.erase(key);
    bad.push_back(without.dump());
    for (const nlohmann::json& value :
         {nlohmann::json("text"), nlohmann::json(-1), nlohmann::json(nullptr)}) {
      nlohmann::json changed = nlohmann::json::parse(good);
      changed[key] = value;
      bad.push_back(changed.dump());
    }
  }
  nlohmann::json no_bandwidth = nlohmann::json::parse(good);
  no_bandwidth["sequential_bytes_per_second"] = 0;
  bad.push_back(no_bandwidth.dump());
  nlohmann::json bad_point = nlohmann::json::parse(good);
  bad_point["random"][0]["read_bytes"] = 0;
  bad.push_back(bad_point.dump());
  bad_point["random"][0] = 3;
  bad.push_back(bad_point.dump());
  nlohmann::json bad_product = nlohmann::json::parse(good);
  for (const char* type : {"no type", "I64"}) {
    bad_product["products"][1]["type"] = type;
    bad.push_back(bad_product.dump());
  }
  bad_product["products"][1] = 3;
  bad.push_back(bad_product.dump());
  bad_product["products"] = nlohmann::json::parse(good)["products"];
  bad_product["products"][0]["sum_bytes_per_second"] = -1;
  bad.push_back(bad_product.dump());
  bad_product["products"] = std::vector<int>(100);
  bad.push_back(bad_product.dump());
  for (const std::string& text : bad) {
    const Result<CachedProfile> parsed = ProfileFromJson(text, "p.json");
    ASSERT_FALSE(parsed) << text;
    EXPECT_NE(parsed.error().message.find("p.json"), std::string::npos) << parsed.error().message;
  }
}

TEST_F(ProfileCacheTest, AFolderThatCannotBeMadeIsAnError) {
  std::ofstream(directory_ + "/file") << "x";
  const Status status = SaveProfile(directory_ + "/file/below", TestProfile());
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, ErrorCode::kIo);
  EXPECT_FALSE(SaveProfile("", TestProfile()));
}

}  // namespace
}  // namespace frugal
