// The yardstick of a decoding step: the bytes that it touches are streamed from RAM by as many threads while the extents that it read are
// read again, and nothing else is done. What a step takes longer than this is the engine's own. It is run between the tokens that it is
// compared with, on the engine's own memory: a machine whose memory or disk gets slower or faster does so for both.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "src/base/aligned_buffer.h"
#include "src/base/thread_pool.h"
#include "src/engine/options.h"
#include "src/io/file.h"
#include "src/io/recording_reader.h"
#include "src/io/whole_reader.h"

namespace frugal {

struct BareLoopOptions {
  const EngineOptions* engine_options = nullptr;  // file, backend, threads, budget; outlives the loop
  uint32_t queue_depth = 64;
  std::array<std::span<const std::byte>, 2> memory;  // is streamed, again and again; outlives the loop
  uint64_t own_memory_bytes = 0;  // more of that, allocated by the loop: at least a tile
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

class BareLoop {
 public:
  // The errors of opening the file and its reader.
  static Result<std::unique_ptr<BareLoop>> Open(const BareLoopOptions& options);
  // Of a budget, what a loop takes beside own_memory_bytes.
  static uint64_t MemoryBytes(uint64_t ram_bytes, int num_threads);

  // Adds one repetition of every recorded token, each of which touches `touched_bytes` in RAM, to `times`. kIo when a read fails.
  Status Repeat(const ReadRecording& recording, uint64_t touched_bytes, BareLoopTimes* times);

 private:
  BareLoop(const BareLoopOptions& options, File file) : options_(options), file_(std::move(file)) {}
  Status Allocate();
  // Returns its ms.
  Result<double> RunToken(std::span<const ReadRecord> reads, uint64_t touched_bytes);
  void StreamMemory(uint64_t touched_bytes);
  const std::byte* Tile(uint64_t index) const;
  bool StartRead(const ReadRecord& read);
  void Pump(WaitMode mode);

  const BareLoopOptions options_;
  File file_;
  AlignedBuffer scratch_;  // all reads go there, over each other: nobody looks at them
  uint64_t scratch_at_ = 0;
  AlignedBuffer own_memory_;
  std::vector<std::span<const std::byte>> memory_;
  uint64_t num_memory_tiles_ = 0;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<WholeReader> reader_;  // drains before what it reads into goes
  std::span<const ReadRecord> reads_;
  size_t next_ = 0;
  uint64_t bytes_in_flight_ = 0;
  std::optional<ReadFailure> failure_;
  volatile uint64_t sink_ = 0;
};

}  // namespace frugal
