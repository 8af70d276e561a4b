// A selector that needs no training: a copy in RAM of the rows that decide which neurons are active (the gate's; up's where there is no
// gate), in 4 bits or as they are. A token's products with the copy are guesses of its gates, and a neuron is chosen where
//   sketch_row . x + bias + margin > threshold        margin = |row - sketch_row| |x| / sqrt(hidden_size)
// The margin is the error of that product for inputs in random directions: what the sketch is unsure of is read. A copy in the rows' own
// type has no error; then the choice is what the gate itself says, and exact.
//
// Owns the copy. Filled once, before the first Select, by Encode (any thread); afterwards the engine thread's.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "src/base/aligned_buffer.h"
#include "src/base/aligned_vector.h"
#include "src/base/result.h"
#include "src/select/selector.h"
#include "src/select/tiles_done.h"
#include "src/tensor/dtype.h"

namespace frugal {

enum class SketchPrecision {
  kFourBits,  // Q4_0; rows that take no more than that as they are
  kExact,     // all rows as they are
};

struct GateSketchOptions {
  uint32_t hidden_size = 0, ffn_size = 0;
  uint32_t max_tokens = 1;
  int num_threads = 1;
  float threshold = 0.0f;  // a gate is active above it
  SketchPrecision precision = SketchPrecision::kFourBits;
  std::vector<DType> row_types;  // [num_layers]: of the rows that are copied
};

class GateSketch : public Selector {
 public:
  // `biases` [num_layers]: each [ffn_size] or empty; borrowed for the selector's life.
  static Result<std::unique_ptr<GateSketch>> Create(GateSketchOptions options, std::vector<std::span<const float>> biases);
  // All of it, for the ledger.
  static uint64_t MemoryBytes(const GateSketchOptions& options);
  // Of the copy of rows of `row_type`.
  static DType TypeOf(DType row_type, uint32_t hidden_size, SketchPrecision precision);
  // Whether the choice is the gate's own.
  static bool IsExact(const GateSketchOptions& options);

  // Takes one row in, of the layer's row type. `worker` < num_threads: each has its own scratch.
  void Encode(uint32_t layer, uint32_t position, const std::byte* row, int worker);

  void Select(uint32_t layer, const float* x, uint32_t num_tokens, std::span<uint64_t> active, ThreadPool& pool,
              FunctionRef<void(uint32_t)> between_tiles) override;
  bool selects_all() const override { return false; }

 private:
  struct Layer {
    DType type = DType::kQ4_0;
    size_t row_bytes = 0;
    uint64_t offset_bytes = 0;  // of its first row in rows_
    std::span<const float> bias;
  };
  GateSketch(GateSketchOptions options, std::vector<std::span<const float>> biases);
  static uint64_t RowsBytes(const GateSketchOptions& options);
  static bool HasQuantisedRows(const GateSketchOptions& options);
  // Neurons [begin, begin + count) for tokens [first, first + num_tokens).
  void SelectTile(uint32_t layer, const float* x, uint32_t begin, uint32_t count, uint32_t first, uint32_t num_tokens, uint64_t* active,
                  float* scores) const;

  const GateSketchOptions options_;
  std::vector<Layer> layers_;
  AlignedBuffer rows_;
  AlignedVector<float> margins_;       // [num_layers, ffn_size]: for an input of length 1
  AlignedVector<float> scratch_;       // [num_threads, 2, hidden_size]: a row and what its copy says
  AlignedVector<int8_t> input_q_;      // [max_tokens, hidden_size], where a layer's copy is quantised
  AlignedVector<float> input_scales_;  // [max_tokens, hidden_size / 32], likewise
  AlignedVector<float> lengths_;       // [max_tokens]: |x|
  AlignedVector<float> scores_;        // [num_threads, kTileScores]
  TilesDone tiles_done_;               // of the products with the copy
};

}  // namespace frugal
