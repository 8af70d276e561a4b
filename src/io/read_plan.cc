#include "src/io/read_plan.h"

#include "src/base/check.h"

namespace frugal {

ReadPlanner::ReadPlanner(const ReadLimits& limits) : limits_(limits) {
  CHECK(limits.max_segments > 0 && limits.max_segments <= ExtentReader::kMaxSegments);
}

size_t ReadPlanner::Plan(std::span<const uint32_t> positions, const BundleLayout& layout,
                         std::span<PlannedRead> reads) const {
  CHECK(layout.stride_bytes > 0);
  const uint64_t stride = layout.stride_bytes;
  size_t num_reads = 0;
  size_t num_segments = 0;
  for (size_t i = 0; i < positions.size(); ++i) {
    if (num_reads > 0 && i > 0) {
      DCHECK(positions[i] > positions[i - 1]);
      PlannedRead& last = reads[num_reads - 1];
      const uint64_t gap_bytes = uint64_t{positions[i] - positions[i - 1] - 1} * stride;
      const size_t more_segments = gap_bytes > 0 ? 2 : 1;
      const uint64_t joined_bytes = last.size_bytes + gap_bytes + stride;
      if (gap_bytes <= limits_.max_gap_bytes && joined_bytes <= limits_.max_read_bytes &&
          num_segments + more_segments <= limits_.max_segments) {
        ++last.count;
        last.size_bytes = joined_bytes;
        num_segments += more_segments;
        continue;
      }
    }
    if (num_reads == reads.size()) break;
    reads[num_reads++] = {layout.base_offset_bytes + positions[i] * stride, i, 1, stride};
    num_segments = 1;
  }
  return num_reads;
}

}  // namespace frugal
