// The yardstick of a decoding step: the bytes that it touches are streamed from RAM by the same threads while the extents that it read are
// read again, and nothing else is done. What a step takes longer than this is the engine's own.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "src/engine/options.h"
#include "src/io/recording_reader.h"

namespace frugal {

struct BareLoopInput {
  const EngineOptions* options = nullptr;   // file, backend, threads, budget
  const ReadRecording* recording = nullptr;
  uint64_t touched_bytes = 0;               // per token
  uint32_t queue_depth = 64;
};

// What is left of a budget (0: none) for an engine whose measuring takes `taken_bytes` of it: never 0, which would be no budget at all.
uint64_t LeftOfBudget(uint64_t ram_bytes, uint64_t taken_bytes);

// One entry per recorded token and repetition.
struct BareLoopTimes {
  std::vector<double> together_ms;  // the bare loop; its reads alone where no memory is touched
  std::vector<double> reads_ms;     // its reads alone
  std::vector<double> memory_ms;    // its streaming alone
  uint64_t touched_bytes = 0;       // sums, for bandwidths
  uint64_t read_bytes = 0;
  uint64_t num_reads = 0;

  double memory_bytes_per_second() const;
  double read_bytes_per_second() const;
  double reads_per_second() const;
};

// Adds one repetition of every recorded token to `times`; allocates within the budget. kIo when a read fails.
Status RunBareLoop(const BareLoopInput& input, BareLoopTimes* times);

}  // namespace frugal
