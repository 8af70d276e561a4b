// Workers for the tiles of one step. The calling thread (the engine thread) is worker 0 and works too; between its
// tiles it runs a hook, which is where reads are submitted and reaped. Results never depend on the number of workers:
// a tile is computed by one worker, whichever it is.
//
// Workers spin for kSpinNs after a step, then sleep on a futex. One Run at a time, from the thread that made the pool.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "src/base/function_ref.h"
#include "src/base/result.h"

namespace frugal {

class ThreadPool {
 public:
  static constexpr int kMaxThreads = 256;
  static constexpr uint32_t kUntakenPerThread = 2;

  // num_threads counts the calling thread: 1 starts none. kFailed when threads cannot be started.
  static Result<std::unique_ptr<ThreadPool>> Create(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // Calls tile(i, worker) once for every i in [0, num_tiles); returns when all are done. Workers take tiles in order, one at a time: a
  // worker that lost its core delays the step by one tile at most. `between_tiles` runs on the caller before each of its tiles, when
  // the others have begun, and while it waits for them; after its first tile not where fewer than kUntakenPerThread tiles for each thread
  // are left to take, which the others would have computed before it ended.
  void Run(int num_tiles, FunctionRef<void(int tile, int worker)> tile, FunctionRef<void()> between_tiles);
  void Run(int num_tiles, FunctionRef<void(int tile, int worker)> tile);

  int num_threads() const { return num_threads_; }
  // Tiles computed by each worker since the start. // [num_threads]
  std::span<const uint64_t> tiles_done() const { return tiles_done_; }

 private:
  explicit ThreadPool(int num_threads);
  void WorkerLoop(int worker);
  // Takes and computes the next tile of the Run that has `generation`; false when it has none left, or is over.
  bool RunNextTile(uint32_t generation, int worker);

  const int num_threads_;
  std::vector<std::thread> threads_;
  std::vector<uint64_t> tiles_done_;  // entry w is written by worker w only, read between Runs
  std::atomic<uint32_t> generation_{0};  // counts Runs; workers sleep on it
  // The current Run's generation (high half) and how many of its tiles nobody took yet: a late worker of an earlier Run takes nothing.
  std::atomic<uint64_t> untaken_{0};
  std::atomic<int> tiles_left_{0};       // not computed yet
  std::atomic<bool> stop_{false};
  // Of the current Run. Written before untaken_, read after a tile was taken, which keeps the Run from ending.
  int num_tiles_ = 0;
  const FunctionRef<void(int, int)>* tile_ = nullptr;
};

}  // namespace frugal
