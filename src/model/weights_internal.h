// What weights.cc and weights_load.cc share.
#pragma once

#include <cstdint>

namespace frugal {

// Owners of reads, in WholeRead::tag; BundleCache::kTagOwner is the cache's.
constexpr uint64_t kStreamTag = uint64_t{1} << 61;
constexpr uint64_t kScanTag = uint64_t{1} << 60;

}  // namespace frugal
