// Which tiles of a ThreadPool::Run are done: noted by the workers, asked for by the engine thread while the others go on.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "src/base/check.h"

namespace frugal {

class TilesDone {
 public:
  explicit TilesDone(uint32_t most_tiles) : is_done_(most_tiles) {}
  static uint64_t MemoryBytes(uint32_t most_tiles) { return most_tiles * sizeof(std::atomic<uint8_t>); }

  // Before a Run, by its caller.
  void Begin(uint32_t num_tiles) {
    CHECK(num_tiles <= is_done_.size());
    for (uint32_t i = 0; i < num_tiles; ++i) is_done_[i].store(0, std::memory_order_relaxed);
    num_tiles_ = num_tiles;
    num_first_ = 0;
  }
  // By whoever computed the tile, as its last act.
  void Note(uint32_t tile) { is_done_[tile].store(1, std::memory_order_release); }
  // How many tiles are done from the first on without a gap. By the Run's caller.
  uint32_t NumFirst() {
    while (num_first_ < num_tiles_ && is_done_[num_first_].load(std::memory_order_acquire) != 0) ++num_first_;
    return num_first_;
  }

 private:
  std::vector<std::atomic<uint8_t>> is_done_;  // [most_tiles]
  uint32_t num_tiles_ = 0, num_first_ = 0;
};

}  // namespace frugal
