// What `pack` writes, in the order of the file, and the memory it needs for that. No weight is read here.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "src/base/memory_ledger.h"
#include "src/base/result.h"
#include "src/model/checkpoint.h"
#include "src/model/row_map.h"
#include "src/tensor/dtype.h"

namespace frugal {

struct PlannedTensor {
  enum class Kind {
    kPlain,      // the source's elements in their order
    kRows,       // the source's rows (of a vector: elements) as `rows` says
    kPositions,  // rows, or of a vector elements, in the order of the layer's positions
    kPlusOne,    // a vector, each element 1 more
    kValues,     // `values`, of no source
    kBundles,    // rows of gate (of some layouts) and up, columns of down
    kOrder,      // the order itself
    kLargestDifference,  // between a weight as written and the source's
  };
  Kind kind = Kind::kPlain;
  std::string name;
  const TensorInfo* source = nullptr;  // up of bundles; lives as long as the checkpoint
  const TensorInfo* gate = nullptr;    // of bundles with a gate
  const TensorInfo* down = nullptr;    // of bundles
  DType dtype = DType::kF32;           // as written; of bundles the up row's
  std::vector<uint64_t> shape;         // as written
  RowMap rows;                         // of kRows
  std::vector<float> values;           // of kValues
  uint32_t layer = 0;                  // of kPositions, kBundles, kOrder
};

struct PackPlan {
  std::vector<PlannedTensor> tensors;  // the hashes that follow them are the writer's
  FfnLayout layout = FfnLayout::kMatrices;
  std::optional<DType> gate_type;  // of bundles with a gate
  DType up_type = DType::kF32, down_type = DType::kF32;
  uint64_t up_offset_bytes = 0, down_offset_bytes = 0;  // in a bundle
  uint64_t stride_bytes = 0;                            // 0 without bundles
  uint64_t wide_down_bytes = 0;  // of a down row before its last conversion, at most; 0 where there is none
  uint64_t num_parameters = 0;
  uint64_t source_bytes = 0;  // to be read at least
  uint64_t num_hashes = 0;
  uint64_t largest_row = 0;  // elements of the longest row that is read or written
};

struct PackPlanOptions {
  // Of all matrices and bundles, each its own when absent; vectors always keep theirs, as is usual in GGUF: they take next to
  // nothing, and every engine computes with them in float.
  std::optional<DType> type;
  std::optional<DType> down_type;  // of down, in bundles or a matrix, instead of `type`
  // Of gated models: kGateAndBundle2, which is also the default where the activation is sparse, or, there alone, kBundle3.
  std::optional<FfnLayout> layout;
  uint32_t align_bytes = 512;
};

// kBadModel when a tensor is missing or of a wrong shape or type, or when the layers' bundles would differ in their types.
// Position embeddings are never quantised: only a row of them is used. kUsage when rows are no whole quantised blocks, and when
// down has quantised blocks of the source that a bundle cannot keep and no down_type is given.
Result<PackPlan> PlanPack(Checkpoint& checkpoint, const PackPlanOptions& options);

struct PackMemory {
  uint64_t staging_bytes = 0;    // of each of two buffers
  uint64_t panel_positions = 0;  // bundles that are put together at once
  MemoryLedger ledger;
};

// The largest buffers that pay off within the budget. `orders_bytes`: of the neurons, of all layers, where
// they are given. kDoesNotFit names the smallest budget that works.
Result<PackMemory> PlanPackMemory(const PackPlan& plan, const ModelConfig& config, uint64_t tokenizer_bytes,
                                  uint64_t orders_bytes, uint64_t ram_bytes);

}  // namespace frugal
