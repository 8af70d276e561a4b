// Where a model's tensors lie in its files, under the names that GGUF has for them: a GGUF's own, or those of a checkpoint that is run in
// place, as checkpoint_map.h maps them. What was fused is apart here. Used while a ModelFile is made.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "src/base/result.h"
#include "src/model/checkpoint.h"
#include "src/tensor/dtype.h"

namespace frugal {

// Rows (of a vector: elements) in runs that follow each other in the file; the runs begin run_stride_bytes apart. One run, but for parts of
// fused tensors.
struct RowRuns {
  uint64_t run_rows = 0;
  uint64_t run_stride_bytes = 0;

  // Of a row, behind the first one. // row_bytes: of one row
  uint64_t OffsetBytes(uint64_t row, uint64_t row_bytes) const {
    return row / run_rows * run_stride_bytes + row % run_rows * row_bytes;
  }
};

struct TensorPlace {
  std::string name;  // in the file, for messages
  DType dtype = DType::kF32;
  std::vector<uint64_t> shape;
  uint32_t file_index = 0;
  uint64_t offset_bytes = 0;  // of its first row
  RowRuns runs;
  bool lacks_one = false;  // stored as w, and means 1 + w
};

class TensorPlaces {
 public:
  // `config` says how fused tensors are split. kBadModel where one has no such rows.
  static Result<TensorPlaces> FromGguf(const GgufReader& gguf, const ModelConfig& config);
  // As MapCheckpoint; kBadModel too for what can only be packed.
  static Result<TensorPlaces> FromCheckpoint(Checkpoint& checkpoint);

  // nullptr where there is none.
  const TensorPlace* Find(const std::string& name) const;

 private:
  std::map<std::string, TensorPlace, std::less<>> places_;
};

}  // namespace frugal
