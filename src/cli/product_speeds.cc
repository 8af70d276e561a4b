#include "src/cli/product_speeds.h"

#include <algorithm>
#include <array>
#include <memory>
#include <numeric>
#include <span>

#include "src/base/clock.h"
#include "src/base/thread_pool.h"
#include "src/cli/system_limits.h"
#include "src/kernels/interleaved_rows.h"
#include "src/kernels/kernels.h"
#include "src/kernels/quantised_kernels.h"

namespace frugal {
namespace {

constexpr uint64_t kColumns = 4096;
constexpr uint64_t kWeightBytes = 128 * 1024;  // within the L2 cache of a core
constexpr uint64_t kRoundNs = 4'000'000;
constexpr int kRounds = 3;

// One thread's weights, all of them zero, and what is multiplied with them.
class Bench {
 public:
  explicit Bench(DType dtype)
      : dtype_(dtype),
        row_bytes_(*RowBytes(dtype, kColumns)),
        num_rows_(std::max(kInterleavedRows, kWeightBytes / row_bytes_ / kInterleavedRows * kInterleavedRows)),
        weights_(num_rows_ * row_bytes_),
        index_(num_rows_) {
    std::iota(index_.begin(), index_.end(), 0);
  }

  uint64_t Matrix() {
    if (!InterleavesRows(dtype_, kColumns)) return Dot({weights_.data(), row_bytes_, nullptr});
    DotInterleavedRows(weights_.data(), num_rows_, 0, num_rows_, kColumns, {q_.data(), scales_.data()}, 1, out_.data(), 0);
    return weights_.size();
  }
  uint64_t Rows() { return Dot(gathered()); }
  uint64_t Sum() {
    AddScaledRows(dtype_, gathered(), num_rows_, x_.data(), 0, kColumns, out_.data());
    return weights_.size();
  }

 private:
  RowSet gathered() const { return {weights_.data(), row_bytes_, index_.data()}; }
  uint64_t Dot(const RowSet& rows) {
    if (IsQuantised(dtype_)) {
      DotRowsQuantised(dtype_, rows, 0, num_rows_, kColumns, {q_.data(), scales_.data()}, 1, out_.data(), 0);
    } else {
      DotRows(dtype_, rows, 0, num_rows_, kColumns, x_.data(), 0, 1, out_.data(), 0);
    }
    return weights_.size();
  }

  const DType dtype_;
  const uint64_t row_bytes_, num_rows_;
  std::vector<std::byte> weights_;
  std::vector<uint32_t> index_;
  std::vector<float> x_ = std::vector<float>(kColumns, 1.0f), out_ = std::vector<float>(kColumns);
  std::vector<int8_t> q_ = std::vector<int8_t>(kColumns, 1);
  std::vector<float> scales_ = std::vector<float>(kColumns / kQuantisedBlock, 1.0f);
};

// Bytes a second of one thread while all of them do the same: the median of rounds.
double Measure(ThreadPool& pool, std::span<Bench> benches, uint64_t (Bench::*once)()) {
  std::array<double, kRounds> speeds;
  for (double& speed : speeds) {
    std::vector<double> of_thread(benches.size());
    pool.Run(static_cast<int>(benches.size()), [&](int tile, int) {
      const uint64_t start_ns = NowNs();
      uint64_t bytes = 0, taken_ns = 0;
      while (taken_ns < kRoundNs) {
        bytes += (benches[static_cast<size_t>(tile)].*once)();
        taken_ns = NowNs() - start_ns;
      }
      of_thread[static_cast<size_t>(tile)] = static_cast<double>(bytes) * 1e9 / static_cast<double>(taken_ns);
    });
    speed = std::accumulate(of_thread.begin(), of_thread.end(), 0.0) / static_cast<double>(of_thread.size());
  }
  std::sort(speeds.begin(), speeds.end());
  return speeds[kRounds / 2];
}

}  // namespace

Result<std::vector<ProductSpeed>> MeasureProductSpeeds() {
  const int num_threads = std::min(UsableCores(), ThreadPool::kMaxThreads);
  FRUGAL_ASSIGN(const std::unique_ptr<ThreadPool> pool, ThreadPool::Create(num_threads));
  std::vector<ProductSpeed> speeds;
  for (const DType dtype : kWeightTypes) {
    std::vector<Bench> benches(static_cast<size_t>(num_threads), Bench(dtype));
    speeds.push_back({dtype, Measure(*pool, benches, &Bench::Matrix), Measure(*pool, benches, &Bench::Rows),
                      Measure(*pool, benches, &Bench::Sum)});
  }
  return speeds;
}

}  // namespace frugal
