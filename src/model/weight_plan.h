// Where every weight lives (design.md section 4). The engine's planner fills a WeightPlan; Weights carries it out; the forward pass does
// not know. naive, hybrid, resident and flash differ in nothing but this.
#pragma once

#include <cstdint>
#include <vector>

#include "src/cache/bundle_cache.h"
#include "src/model/model_file.h"

namespace frugal {

enum class FfnPlacement {
  kBlocks,    // cut into blocks like the matrices: resident or streamed in layer order
  kOnDemand,  // bundles in slots
};

struct WeightPlan {
  FfnPlacement ffn = FfnPlacement::kBlocks;
  // Of the matrices and, with kBlocks, of the bundles: as many blocks as fit in this many bytes are resident, spread evenly
  // over the forward pass; the others are streamed in its order.
  uint64_t resident_bytes = ~uint64_t{0};
  uint64_t block_bytes = 1 << 20;       // most bytes of a streamed read (blocks are cut to fit)
  uint32_t num_stream_buffers = 3;      // read ahead = this - 1
  uint32_t num_scan_buffers = 0;        // for prefill: layers streamed past the cache; 0: never
  CacheOptions cache;                   // with kOnDemand
  VerifyMode verify = VerifyMode::kFirst;
  bool overlap = true;                  // false: every read is waited for where it is submitted
  // Float matrices of attention and output become this type when they are read; all of them must be resident then, or results
  // would depend on what fits.
  std::optional<DType> resident_type;
  int32_t only_layer = -1;              // training: only this layer's weights exist, resident
};

// A run of whole rows of a matrix or of a layer's bundles.
struct WeightBlock {
  uint32_t matrix = kNoMatrix;  // or:
  uint32_t layer = 0;           // the layer whose bundles these are, when matrix == kNoMatrix
  uint64_t first_row = 0, num_rows = 0;
  uint32_t file_index = 0;
  Extent extent;                // in the file
  bool resident = false;
  uint64_t memory_bytes = 0;    // resident: its size there; differs from the extent's where MemoryType differs from the file's
  uint64_t memory_offset = 0;   // of its first byte; resident: in the resident buffer; streamed: in its read's buffer
  uint32_t group = 0;           // streamed: the read it comes with
  uint64_t first_hash = 0;      // of its first chunk (matrices)
};

// One large sequential read: consecutive streamed blocks that are neighbours in the file.
struct StreamGroup {
  uint32_t file_index = 0;
  Extent extent;
  uint32_t first_block = 0, num_blocks = 0;  // in the order of use
};

struct BlockLayout {
  std::vector<WeightBlock> blocks;  // in the order of the forward pass
  std::vector<StreamGroup> groups;  // likewise
  uint64_t resident_bytes = 0;
  uint64_t stream_buffer_bytes = 0;  // the largest group; 0 when nothing is streamed
  uint64_t streamed_bytes = 0;       // read per pass

  // Of the lists themselves, and of a mark for each block.
  uint64_t TableBytes() const { return blocks.size() * (sizeof(WeightBlock) + 1) + groups.size() * sizeof(StreamGroup); }
};

// A matrix's type in memory.
DType MemoryType(const ModelFile& model, const WeightPlan& plan, uint32_t matrix);
// Whether any product of the plan takes quantised inputs.
bool UsesQuantisedInputs(const ModelFile& model, const WeightPlan& plan);

// The blocks that a plan gives. In a packed file a block's bytes begin at a chunk of its tensor's hashes and at a multiple of 4096; in what
// runs in place anywhere, and what is read for it begins and ends at multiples of 4096.
BlockLayout LayOutBlocks(const ModelFile& model, const WeightPlan& plan);
// The groups in which one layer's bundles are read past the cache.
BlockLayout LayOutScan(const ModelFile& model, uint32_t layer, uint64_t block_bytes);

}  // namespace frugal
