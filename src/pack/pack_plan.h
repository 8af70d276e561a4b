// What `pack` writes, in the order of the file, and the memory it needs for that. No weight is read here.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "src/base/memory_ledger.h"
#include "src/base/result.h"
#include "src/pack/checkpoint.h"
#include "src/tensor/dtype.h"

namespace frugal {

struct PlannedTensor {
  enum class Kind {
    kPlain,    // the source's elements in their order
    kUpBias,   // a vector, in the order of the layer's positions
    kBundles,  // fc1's rows and fc2's columns
    kOrder,    // the order itself
  };
  Kind kind = Kind::kPlain;
  std::string name;
  const TensorInfo* source = nullptr;  // fc1 of bundles, nothing of orders; lives as long as the checkpoint
  const TensorInfo* down = nullptr;    // fc2 of bundles
  DType dtype = DType::kF32;           // as written; of bundles the up row's
  std::vector<uint64_t> shape;         // as written
  uint32_t layer = 0;                  // of all kinds but kPlain
};

struct PackPlan {
  std::vector<PlannedTensor> tensors;  // the hashes that follow them are the writer's
  DType up_type = DType::kF32, down_type = DType::kF32;
  uint64_t down_offset_bytes = 0;  // in a bundle
  uint64_t stride_bytes = 0;
  uint64_t wide_down_bytes = 0;  // of a down row before it is quantised, at most; 0 when it is not
  uint64_t num_parameters = 0;
  uint64_t source_bytes = 0;  // to be read at least
  uint64_t num_hashes = 0;
};

// `type`: of all matrices and bundles, each its own when absent; vectors always keep theirs, as is usual in
// GGUF: they take next to nothing, and every engine computes with them in float. kBadModel when a tensor is
// missing or of a wrong shape or type, or when the layers' bundles would differ in their types. Position
// embeddings are never quantised: only a row of them is used. kUsage when rows are no whole quantised blocks.
Result<PackPlan> PlanPack(Checkpoint& checkpoint, std::optional<DType> type, uint32_t align_bytes);

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
