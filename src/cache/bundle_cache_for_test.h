// What the tests of BundleCache share: a cache over a file of bundles whose every byte says which bundle it belongs to.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "src/cache/bundle_cache.h"
#include "src/io/fault_reader.h"

namespace frugal {

class BundleCacheTest : public ::testing::Test {
 protected:
  static constexpr uint32_t kLayers = 2;
  static constexpr uint32_t kPerLayer = 64;
  static constexpr uint64_t kStride = 512;

  void SetUp() override {
    path_ = "bundle_cache_test." + std::to_string(getpid());
    std::ofstream file(path_, std::ios::binary);
    for (uint32_t bundle = 0; bundle < kLayers * kPerLayer; ++bundle) {
      const std::string bytes(kStride, static_cast<char>(bundle + 1));
      hashes_.push_back(XXH3_64bits(bytes.data(), bytes.size()));
      file << bytes;
    }
    file.close();
  }
  void TearDown() override { std::remove(path_.c_str()); }

  void Open(const CacheOptions& options, const FaultOptions& faults = {}) {
    file_.emplace(File::Open(path_, DirectMode::kTry, 512).value());
    OpenedReader opened = OpenReader({}).value();
    reader_ = std::make_unique<WholeReader>(std::make_unique<FaultReader>(std::move(opened.reader), faults), 16);
    BundleSpace space;
    space.file = &*file_;
    space.num_layers = kLayers;
    space.bundles_per_layer = kPerLayer;
    space.stride_bytes = kStride;
    space.up_bytes = 200;  // the border lies inside a sector
    space.layer_offset_bytes = {0, kPerLayer * kStride};
    space.layer_tensor_names = {"blk.0", "blk.1"};
    space.hashes = hashes_;
    cache_ = BundleCache::Create(space, options, *reader_).value();
  }

  Status Wait() {
    while (cache_->num_reading() > 0) {
      WholeCompletion completions[8];
      const size_t count = reader_->Reap(completions, WaitMode::kBlock);
      for (size_t i = 0; i < count; ++i) FRUGAL_TRY(cache_->OnCompletion(completions[i]));
      cache_->SubmitQueued();
    }
    return {};
  }

  // One step's use of a layer; returns its misses.
  uint64_t Use(uint32_t layer, std::vector<uint32_t> positions) {
    std::sort(positions.begin(), positions.end());
    const uint64_t before = cache_->statistics().num_misses;
    const std::vector<uint32_t> counts(positions.size(), 1);
    cache_->NoteUses(layer, positions, counts);
    std::vector<uint32_t> slots(positions.size());
    EXPECT_EQ(cache_->Acquire(layer, positions, slots), positions.size());
    EXPECT_TRUE(Wait());
    for (size_t i = 0; i < slots.size(); ++i) {
      const std::byte* bundle = cache_->slots_base() + slots[i] * kStride;
      const std::byte expected{static_cast<unsigned char>(layer * kPerLayer + positions[i] + 1)};
      EXPECT_TRUE(std::all_of(bundle, bundle + kStride, [&](std::byte b) { return b == expected; }));
    }
    cache_->Unpin(layer, positions);
    return cache_->statistics().num_misses - before;
  }

  static CacheOptions Options(uint32_t num_slots, PolicyKind kind = PolicyKind::kLru) {
    CacheOptions options;
    options.num_slots = num_slots;
    options.policy.kind = kind;
    return options;
  }

  // Slots enough for scraps.
  static CacheOptions Gaps(uint64_t max_gap_bytes) {
    CacheOptions options = Options(100 * BundleCache::kNumScraps * static_cast<uint32_t>(max_gap_bytes / kStride));
    options.max_gap_bytes = max_gap_bytes;
    return options;
  }

  std::string path_;
  std::vector<uint64_t> hashes_;
  std::optional<File> file_;
  std::unique_ptr<WholeReader> reader_;
  std::unique_ptr<BundleCache> cache_;
};

}  // namespace frugal
