// The read plan of bundles of one size: sorted positions become few reads. Neighbours are joined; a gap is
// read over when that costs at most half of a read of its own (device_profile.h: GapWorthReading). Pure arithmetic,
// no memory, any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "src/io/extent_reader.h"

namespace frugal {

// Bundles positions[first .. first + count), and the gaps between them, as one read.
struct PlannedRead {
  uint64_t offset_bytes = 0;
  size_t first = 0;
  size_t count = 0;
  uint64_t size_bytes = 0;  // gaps included
};

struct ReadLimits {
  uint64_t max_gap_bytes = 0;         // the longest gap that is read over; 0: only true neighbours are joined
  uint64_t max_read_bytes = 1 << 20;  // a bundle larger than that is one read all the same
  size_t max_segments = ExtentReader::kMaxSegments;  // one for each bundle and one for each gap
};

// Where the bundles of a layer lie: position i at base_offset_bytes + i * stride_bytes.
struct BundleLayout {
  uint64_t base_offset_bytes = 0;
  uint64_t stride_bytes = 0;
};

class ReadPlanner {
 public:
  explicit ReadPlanner(const ReadLimits& limits);

  // Fills `reads` from the front and returns how many; positions.size() of them are always enough. With fewer
  // it stops when they are full: the next call goes on at positions[reads.back().first + reads.back().count].
  // `positions` are strictly increasing, the layout has been validated against the file.
  size_t Plan(std::span<const uint32_t> positions, const BundleLayout& layout,
              std::span<PlannedRead> reads) const;

  const ReadLimits& limits() const { return limits_; }

 private:
  ReadLimits limits_;
};

}  // namespace frugal
