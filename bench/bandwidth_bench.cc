// How near the kernels come to the memory bus on all cores that a run would use: GB/s of weights, as a share of
// what plain reading reaches in the same process. Rounds are interleaved, so that a noisy machine is noisy for
// all; the table has medians. Run by hand: build/release/bench/bandwidth_bench [threads] [rounds] [GiB] [cpu].
// With "cpu" the time is that of the threads on a processor, for a machine that others use at the same time.
#include <fmt/format.h>
#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "src/base/clock.h"
#include "src/base/random.h"
#include "src/base/thread_pool.h"
#include "src/kernels/interleaved_rows.h"
#include "src/kernels/kernels.h"
#include "src/kernels/plain_read.h"
#include "src/kernels/quantised_kernels.h"
#include "src/tensor/half.h"

namespace frugal {
namespace {

constexpr size_t kColumns = 4096;  // hidden_size of OPT-6.7B
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kReadTileBytes = size_t{1} << 20;
constexpr size_t kTileProducts = 512 * 1024;  // as Forward cuts its tiles
constexpr size_t kHeadColumns = 128, kPositions = 256;  // of attention

// Anonymous memory in huge pages where the kernel gives them, as small pages would measure the TLB.
std::byte* AllocateHuge(size_t size_bytes) {
  void* memory =
      mmap(nullptr, size_bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  const uintptr_t aligned = (reinterpret_cast<uintptr_t>(memory) + kHugePage - 1) & ~(kHugePage - 1);
  madvise(reinterpret_cast<void*>(aligned), size_bytes, MADV_HUGEPAGE);
  return reinterpret_cast<std::byte*>(aligned);
}

// F16 numbers of about 1 whatever the type that reads them: no NaN, no denormal.
void Fill(std::byte* memory, size_t size_bytes) {
  Random random(1);
  for (size_t i = 0; i < size_bytes; i += 8) {
    const uint64_t word = (random.Next() & 0x03ff03ff03ff03ffu) | 0x3800380038003800u;
    std::memcpy(memory + i, &word, sizeof(word));
  }
}

struct Measurement {
  std::string name;
  std::function<uint64_t()> run;  // returns the bytes of weights it used
  std::vector<double> speeds;     // GB/s
};

enum class Clock { kWall, kProcessor };

class Bench {
 public:
  Bench(ThreadPool& pool, const std::byte* memory, size_t size_bytes)
      : pool_(pool), memory_(memory), size_bytes_(size_bytes) {
    Random random(2);
    for (float& value : x_) value = static_cast<float>(random.Uniform() - 0.5);
    QuantiseInput(x_.data(), kColumns, q_.data(), scales_.data());
  }

  void AddAll() {
    Add("plain read", [this] { return Read(); });
    for (DType dtype : {DType::kF16, DType::kBF16, DType::kQ8_0, DType::kQ4_0, DType::kQ4_1, DType::kQ4_K, DType::kQ6_K}) {
      const std::string type(DTypeName(dtype));
      Add("matrix-vector " + type, [this, dtype] { return MatrixVector(dtype, Contiguous(dtype), NumRows(dtype)); });
      Add("gathered rows " + type, [this, dtype] { return MatrixVector(dtype, Bundles(dtype), NumActive(dtype)); });
      Add("down sum " + type, [this, dtype] { return DownSum(dtype); });
    }
    if (InterleavesRows(DType::kQ4_0, kColumns)) {
      Add("matrix-vector Q4_0, interleaved as weights in memory are", [this] { return Interleaved(); });
    }
    Add("predictor Q8_0, rank 128", [this] { return Predict(); });
    for (DType dtype : {DType::kF16, DType::kF32}) {
      const std::string type(DTypeName(dtype));
      Add("attention's scores, KV cache " + type, [this, dtype] { return AttentionScores(dtype); });
      Add("attention's sums, KV cache " + type, [this, dtype] { return AttentionSums(dtype); });
    }
  }

  void Run(int rounds, Clock clock) {
    for (int round = 0; round <= rounds; ++round) {
      for (Measurement& measurement : measurements_) {
        const uint64_t start = Now(clock);
        const uint64_t bytes = measurement.run();
        const double seconds = static_cast<double>(Now(clock) - start) / 1e9;
        if (round > 0) measurement.speeds.push_back(static_cast<double>(bytes) / seconds / 1e9);  // round 0 warms up
      }
    }
  }

  void Print() {
    fmt::print("{}, {} threads, {} columns, {:.2f} GiB, medians of {} rounds\n\n", InstructionSetName(),
               pool_.num_threads(), kColumns, static_cast<double>(size_bytes_) / (size_t{1} << 30),
               measurements_[0].speeds.size());
    fmt::print("| kernel | GB/s | share of plain read |\n|---|---|---|\n");
    const double read = Median(measurements_[0]);
    for (const Measurement& measurement : measurements_) {
      const double speed = Median(measurement);
      fmt::print("| {} | {:.2f} | {:.0f}% |\n", measurement.name, speed, 100 * speed / read);
    }
  }

 private:
  void Add(std::string name, std::function<uint64_t()> run) {
    measurements_.push_back({std::move(name), std::move(run), {}});
  }

  // The threads are busy all the time: together they take as many seconds of processors as there are threads.
  uint64_t Now(Clock clock) const {
    if (clock == Clock::kWall) return NowNs();
    timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (static_cast<uint64_t>(now.tv_sec) * 1000000000 + static_cast<uint64_t>(now.tv_nsec)) /
           static_cast<uint64_t>(pool_.num_threads());
  }

  static double Median(const Measurement& measurement) {
    std::vector<double> speeds = measurement.speeds;
    std::sort(speeds.begin(), speeds.end());
    return speeds[speeds.size() / 2];
  }

  // A bundle's rows: up, down, zeros up to a multiple of 512.
  static size_t StrideBytes(DType dtype) { return (2 * *RowBytes(dtype, kColumns) + 511) / 512 * 512; }
  RowSet Contiguous(DType dtype) const { return {memory_, static_cast<size_t>(*RowBytes(dtype, kColumns)), nullptr}; }
  size_t NumRows(DType dtype) const { return size_bytes_ / *RowBytes(dtype, kColumns); }
  size_t NumActive(DType dtype) const { return size_bytes_ / StrideBytes(dtype); }

  // Every bundle once, in random order: slots of a cache.
  RowSet Bundles(DType dtype) {
    if (order_.size() != NumActive(dtype)) {
      order_.resize(NumActive(dtype));
      Random random(3);
      for (uint32_t i = 0; i < order_.size(); ++i) order_[i] = i;
      for (size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[random.Below(i)]);
    }
    return {memory_, StrideBytes(dtype), order_.data()};
  }

  uint64_t Read() {
    std::vector<uint64_t> found(static_cast<size_t>(pool_.num_threads()));
    pool_.Run(static_cast<int>(size_bytes_ / kReadTileBytes), [&](int tile, int worker) {
      found[static_cast<size_t>(worker)] |= PlainRead(memory_ + static_cast<size_t>(tile) * kReadTileBytes, kReadTileBytes);
    });
    for (uint64_t word : found) sink_ = sink_ | word;
    return size_bytes_;
  }

  // Calls multiply(begin, end) for each tile of rows.
  template <class Multiply>
  void RunTiles(size_t num_rows, const Multiply& multiply) {
    constexpr size_t kTileRows = kTileProducts / kColumns;
    out_.resize(num_rows);
    pool_.Run(static_cast<int>((num_rows + kTileRows - 1) / kTileRows), [&](int tile, int) {
      const size_t begin = static_cast<size_t>(tile) * kTileRows;
      multiply(begin, std::min(num_rows, begin + kTileRows));
    });
  }

  uint64_t MatrixVector(DType dtype, const RowSet& rows, size_t num_rows) {
    RunTiles(num_rows, [&](size_t begin, size_t end) {
      if (IsQuantised(dtype)) {
        DotRowsQuantised(dtype, rows, begin, end, kColumns, {q_.data(), scales_.data()}, 1, out_.data(), 0);
      } else {
        DotRows(dtype, rows, begin, end, kColumns, x_.data(), 0, 1, out_.data(), 0);
      }
    });
    return num_rows * *RowBytes(dtype, kColumns);
  }

  // The memory as it is: interleaving would change which bytes are scales, and all of them are good ones.
  uint64_t Interleaved() {
    const size_t num_rows = NumRows(DType::kQ4_0);
    RunTiles(num_rows, [&](size_t begin, size_t end) {
      DotInterleavedRows(memory_, num_rows, begin, end, kColumns, {q_.data(), scales_.data()}, 1, out_.data(), 0);
    });
    return num_rows * *RowBytes(DType::kQ4_0, kColumns);
  }

  // A low-rank predictor's second product: many short rows.
  uint64_t Predict() {
    constexpr size_t kRank = 128, kTileRows = 1024;  // as LowRankPredictor has them
    const size_t row_bytes = *RowBytes(DType::kQ8_0, kRank);
    const int tiles = static_cast<int>(size_bytes_ / (kTileRows * row_bytes));
    out_.resize(static_cast<size_t>(tiles) * kTileRows);
    pool_.Run(tiles, [&](int tile, int) {
      const size_t begin = static_cast<size_t>(tile) * kTileRows;
      const RowSet rows{memory_ + begin * row_bytes, row_bytes, nullptr};
      DotRowsQuantised(DType::kQ8_0, rows, 0, kTileRows, kRank, {q_.data(), scales_.data()}, 1, out_.data() + begin, 0);
    });
    return static_cast<uint64_t>(tiles) * kTileRows * row_bytes;
  }

  // Calls attend(rows, out) for each head of 128 columns in a context of 512, half of it in use: the rows of a head are short and lie
  // beside each other. `out` has room for a float of each row.
  template <class AttendHead>
  uint64_t RunHeads(DType dtype, const AttendHead& attend) {
    const size_t row_bytes = *RowBytes(dtype, kHeadColumns);
    const int heads = static_cast<int>(size_bytes_ / (2 * kPositions * row_bytes));
    out_.resize(static_cast<size_t>(heads) * kPositions);
    pool_.Run(heads, [&](int head, int) {
      const RowSet rows{memory_ + static_cast<size_t>(head) * 2 * kPositions * row_bytes, row_bytes, nullptr};
      attend(rows, out_.data() + static_cast<size_t>(head) * kPositions);
    });
    return static_cast<uint64_t>(heads) * kPositions * row_bytes;
  }
  uint64_t AttentionScores(DType dtype) {
    return RunHeads(dtype, [&](const RowSet& keys, float* out) {
      DotRows(dtype, keys, 0, kPositions, kHeadColumns, x_.data(), 0, 1, out, 0);
    });
  }
  uint64_t AttentionSums(DType dtype) {
    const std::vector<float> weights(kPositions, 0.5f);
    return RunHeads(dtype, [&](const RowSet& values, float* out) {
      AddScaledRows(dtype, values, kPositions, weights.data(), 0, kHeadColumns, out);
    });
  }

  // Layers of 512 active neurons; threads split the columns.
  uint64_t DownSum(DType dtype) {
    constexpr size_t kActive = 512;
    const size_t tile_columns = kColumns / static_cast<size_t>(pool_.num_threads()) / 32 * 32;
    const int tiles = static_cast<int>((kColumns + tile_columns - 1) / tile_columns);
    const RowSet all = Bundles(dtype);
    const std::vector<float> a(kActive, 0.5f);
    std::vector<float> out(kColumns);
    size_t first = 0;
    for (; first + kActive <= order_.size(); first += kActive) {
      const RowSet rows{all.base + *RowBytes(dtype, kColumns), all.stride_bytes, all.index + first};
      pool_.Run(tiles, [&](int tile, int) {
        const size_t begin = static_cast<size_t>(tile) * tile_columns;
        AddScaledRows(dtype, rows, kActive, a.data(), begin, std::min(kColumns, begin + tile_columns), out.data());
      });
    }
    return first * *RowBytes(dtype, kColumns);
  }

  ThreadPool& pool_;
  const std::byte* const memory_;
  const size_t size_bytes_;
  std::vector<float> x_ = std::vector<float>(kColumns);
  std::vector<int8_t> q_ = std::vector<int8_t>(kColumns);
  std::vector<float> scales_ = std::vector<float>(kColumns / 32);
  std::vector<float> out_;
  std::vector<uint32_t> order_;
  std::vector<Measurement> measurements_;
  volatile uint64_t sink_ = 0;
};

int Main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 2;
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 9;
  const size_t size_bytes = (argc > 3 ? static_cast<size_t>(std::atoi(argv[3])) : 1) << 30;
  std::byte* const memory = AllocateHuge(size_bytes);
  Result<std::unique_ptr<ThreadPool>> pool = ThreadPool::Create(threads);
  if (memory == nullptr || !pool || rounds < 1) {
    fmt::print(stderr, "usage: bandwidth_bench [threads] [rounds] [GiB]; needs that much memory\n");
    return 1;
  }
  Fill(memory, size_bytes);
  Bench bench(**pool, memory, size_bytes);
  bench.AddAll();
  bench.Run(rounds, argc > 4 && std::string(argv[4]) == "cpu" ? Clock::kProcessor : Clock::kWall);
  bench.Print();
  return 0;
}

}  // namespace
}  // namespace frugal

int main(int argc, char** argv) { return frugal::Main(argc, argv); }
