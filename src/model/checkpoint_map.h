// Which tensors of a checkpoint become which of a model's, under the names that GGUF has for these (docs/packed-model.md, "Names"): pack
// copies by it, and a checkpoint that is run in place is read by it. No weight is read here.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/base/result.h"
#include "src/model/checkpoint.h"
#include "src/model/row_map.h"
#include "src/tensor/tensor_info.h"

namespace frugal {

struct MappedTensor {
  enum class Kind {
    kPlain,    // the source's elements in their order
    kRows,     // the source's rows (of a vector: elements) as `rows` says
    kPlusOne,  // a vector, each element 1 more
    kValues,   // `values`, of no source
  };
  enum class Part { kGate, kUp, kDown, kOther };  // of an FFN: its matrix, or its bias
  Kind kind = Kind::kPlain;
  std::string name;                    // "blk.7.attn_q.weight"
  const TensorInfo* source = nullptr;  // lives as long as the checkpoint
  std::vector<uint64_t> shape;         // of the model's tensor
  RowMap rows;                         // of kRows
  std::vector<float> values;           // of kValues
  uint32_t layer = 0;                  // of what belongs to one
  Part part = Part::kOther;
};

// Of models whose GGUF rotates neighbours, and whose checkpoint halves (Llama, Arcee).
enum class RotatedRows {
  kAsStored,
  kAsGguf,  // rows of queries and keys in another order
};

// In the order in which a packed file has them: vectors first, which an engine reads when it opens, then what a token needs in the order in
// which it needs it. kBadModel with file and tensor when one is missing or of a wrong shape or type.
Result<std::vector<MappedTensor>> MapCheckpoint(Checkpoint& checkpoint, RotatedRows rotated);

}  // namespace frugal
