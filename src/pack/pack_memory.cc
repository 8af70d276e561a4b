#include <algorithm>

#include "src/base/bytes.h"
#include "src/format/hashed_gguf_writer.h"
#include "src/pack/pack_plan.h"

namespace frugal {
namespace {

// Stack, heap of the libraries, tables of the headers, kernel memory: measured 5 MiB with OPT-6.7B's headers.
constexpr uint64_t kProcessBytes = 12 * kMiB;
// The transposition writes a bundle in runs of as many elements as rows of fc2 fit a buffer: 512 bytes for
// OPT-6.7B, whose rows have 32 KiB.
constexpr uint64_t kMaxStagingBytes = 8 * kMiB;
constexpr uint64_t kMinStagingBytes = 256 * kKiB;
// Every panel reads fc2 again, in runs as short as its columns: time grows with their number.
constexpr uint64_t kMaxPanels = 64;

}  // namespace

Result<PackMemory> PlanPackMemory(const PackPlan& plan, const ModelConfig& config, uint64_t tokenizer_bytes,
                                  uint64_t orders_bytes, uint64_t ram_bytes) {
  const uint64_t ffn_size = config.ffn_size;
  PackMemory memory;
  memory.ledger.Add("process", kProcessBytes, "code, stack, headers");
  memory.ledger.Add("tokenizer", tokenizer_bytes, "while it is read and written");
  memory.ledger.Add("hashes", HashedGgufWriter::MemoryBytes(plan.num_hashes), "written last");
  memory.ledger.Add("order", orders_bytes + 3 * ffn_size * sizeof(uint32_t),
                    "of the layers, where given; of one layer, its inverse, its biases");
  const uint64_t fixed_bytes = memory.ledger.total_bytes();
  // A staging buffer holds a row of any matrix, and a layer's biases.
  const uint64_t min_staging_bytes =
      std::max(kMinStagingBytes, RoundUp(std::max(ffn_size, plan.largest_row) * sizeof(float), 4096));
  const uint64_t min_positions = plan.stride_bytes > 0 ? (ffn_size + kMaxPanels - 1) / kMaxPanels : 0;
  const uint64_t position_bytes = plan.stride_bytes + plan.wide_down_bytes;
  const uint64_t smallest_bytes = fixed_bytes + 2 * min_staging_bytes + min_positions * position_bytes;
  if (smallest_bytes > ram_bytes) {
    const uint64_t in_mib = (smallest_bytes + kMiB - 1) / kMiB;
    return MakeError(ErrorCode::kDoesNotFit,
                     "packing needs at least {} of RAM, but the budget is {}; the smallest that works is "
                     "--ram {}M",
                     FormatSize(smallest_bytes), FormatSize(ram_bytes), in_mib);
  }
  const uint64_t left_bytes = ram_bytes - fixed_bytes;
  memory.staging_bytes = std::clamp(RoundDown(left_bytes / 8, 4096), min_staging_bytes,
                                    std::max(kMaxStagingBytes, min_staging_bytes));
  // Where an eighth is too much for the smallest panel, the panel goes first.
  const uint64_t for_staging = (left_bytes - min_positions * position_bytes) / 2;
  memory.staging_bytes =
      std::min(memory.staging_bytes, std::max(RoundDown(for_staging, 4096), min_staging_bytes));
  if (min_positions == 0) {
    memory.ledger.Add("staging", 2 * memory.staging_bytes, "what is read, and what is converted");
    return memory;
  }
  const uint64_t most_positions =
      std::min((left_bytes - 2 * memory.staging_bytes) / position_bytes, ffn_size);
  const uint64_t num_panels = (ffn_size + most_positions - 1) / most_positions;
  memory.panel_positions = (ffn_size + num_panels - 1) / num_panels;
  memory.ledger.Add("staging", 2 * memory.staging_bytes, "what is read, and what is converted");
  memory.ledger.Add("panel", memory.panel_positions * position_bytes,
                    fmt::format("{} of {} bundles of a layer", memory.panel_positions, ffn_size));
  return memory;
}

}  // namespace frugal
