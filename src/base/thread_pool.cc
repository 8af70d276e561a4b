#include "src/base/thread_pool.h"

#include <system_error>

#include "src/base/clock.h"

namespace frugal {
namespace {

// Longer than what the engine thread mostly does alone between two of a token's products, so that nobody has to be woken.
constexpr uint64_t kSpinNs = 200'000;

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) : num_threads_(num_threads), tiles_done_(num_threads, 0) {}

Result<std::unique_ptr<ThreadPool>> ThreadPool::Create(int num_threads) {
  if (num_threads < 1 || num_threads > kMaxThreads) {
    return MakeError(ErrorCode::kUsage, "threads: {} is out of range 1..{}", num_threads, kMaxThreads);
  }
  std::unique_ptr<ThreadPool> pool(new ThreadPool(num_threads));
  for (int worker = 1; worker < num_threads; ++worker) {
    // std::thread reports a refused thread by an exception; it ends here.
    try {
      pool->threads_.emplace_back([raw = pool.get(), worker] { raw->WorkerLoop(worker); });
    } catch (const std::system_error& refused) {
      return MakeError(ErrorCode::kFailed, "cannot start thread {} of {}: {}", worker + 1, num_threads, refused.what());
    }
  }
  return pool;
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

bool ThreadPool::RunNextTile(uint32_t generation, int worker) {
  uint64_t untaken = untaken_.load(std::memory_order_acquire);
  do {
    if (untaken >> 32 != generation || static_cast<uint32_t>(untaken) == 0) return false;
  } while (!untaken_.compare_exchange_weak(untaken, untaken - 1, std::memory_order_acquire));
  (*tile_)(num_tiles_ - static_cast<int>(static_cast<uint32_t>(untaken)), worker);
  ++tiles_done_[worker];
  tiles_left_.fetch_sub(1, std::memory_order_release);
  return true;
}

void ThreadPool::WorkerLoop(int worker) {
  uint32_t seen = 0;
  while (true) {
    const uint64_t spin_start = NowNs();
    while (generation_.load(std::memory_order_acquire) == seen) {
      if (NowNs() - spin_start > kSpinNs) {
        generation_.wait(seen, std::memory_order_acquire);
      } else {
        Pause();
      }
    }
    seen = generation_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_relaxed)) return;
    while (RunNextTile(seen, worker)) {
    }
  }
}

void ThreadPool::Run(int num_tiles, FunctionRef<void(int, int)> tile, FunctionRef<void()> between_tiles) {
  num_tiles_ = num_tiles;
  tile_ = &tile;
  tiles_left_.store(num_tiles, std::memory_order_relaxed);
  const uint32_t generation = generation_.load(std::memory_order_relaxed) + 1;
  untaken_.store(uint64_t{generation} << 32 | static_cast<uint32_t>(num_tiles), std::memory_order_release);
  generation_.store(generation, std::memory_order_release);
  if (num_threads_ > 1 && num_tiles > 1) generation_.notify_all();
  const uint32_t least_untaken = num_threads_ > 1 ? kUntakenPerThread * static_cast<uint32_t>(num_threads_) : 0;
  between_tiles();
  while (RunNextTile(generation, 0)) {
    if (static_cast<uint32_t>(untaken_.load(std::memory_order_relaxed)) >= least_untaken) between_tiles();
  }
  // Spins: what is left is one tile of each worker; the hook keeps the reads going. A worker that lost its core (more threads than
  // cores) gets it by the yield.
  for (int spins = 0; tiles_left_.load(std::memory_order_acquire) > 0; ++spins) {
    between_tiles();
    if (spins > 256) std::this_thread::yield();
    Pause();
  }
}

void ThreadPool::Run(int num_tiles, FunctionRef<void(int, int)> tile) {
  Run(num_tiles, tile, [] {});
}

}  // namespace frugal
