// The yardstick of products with many tokens: oneDNN's SGEMM beside our kernel, on one thread, in one run. oneDNN chooses its own order
// of sums and takes float weights; ours keeps one order on every instruction set and reads F16. Needs libdnnl-dev (not in ./setup):
//   OMP_NUM_THREADS=1 build/release/bench/onednn_bench
#include <benchmark/benchmark.h>
#include <dnnl.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <span>
#include <string>
#include <utility>

#include "src/base/aligned_buffer.h"
#include "src/kernels/fma_loop.h"
#include "src/kernels/kernels.h"

namespace frugal {
namespace {

// OPT-6.7B's up projection, for a prompt's batch.
constexpr size_t kColumns = 4096;
constexpr size_t kRows = 16384;
constexpr size_t kTokens = 512;
constexpr double kFlops = 2.0 * kColumns * kRows * kTokens;

struct Product {
  AlignedBuffer weights, x, out;

  explicit Product(size_t weight_bytes) {
    const auto allocate = [](size_t bytes) {
      Result<AlignedBuffer> made = AlignedBuffer::Allocate(bytes);
      if (!made) std::abort();
      return std::move(made).value();
    };
    weights = allocate(kRows * kColumns * weight_bytes);
    x = allocate(kTokens * kColumns * sizeof(float));
    out = allocate(kTokens * kRows * sizeof(float));
    std::ranges::fill(x.As<float>(), 1.0f);
  }
};

void Report(benchmark::State& state) {
  state.counters["flops"] = benchmark::Counter(kFlops, benchmark::Counter::kIsIterationInvariantRate);
}

void FmaPeak(benchmark::State& state) {
  uint64_t flops = 0;
  for (auto _ : state) flops += FmaLoop(1'000'000);
  state.counters["flops"] = benchmark::Counter(static_cast<double>(flops), benchmark::Counter::kIsRate);
}
BENCHMARK(FmaPeak)->Unit(benchmark::kMillisecond);

void OneDnn(benchmark::State& state) {
  Product product(sizeof(float));
  for (auto _ : state) {
    const dnnl_status_t status =
        dnnl_sgemm('N', 'T', kTokens, kRows, kColumns, 1.0f, product.x.As<float>().data(), kColumns, product.weights.As<float>().data(),
                   kColumns, 0.0f, product.out.As<float>().data(), kRows);
    if (status != dnnl_success) return state.SkipWithError("dnnl_sgemm failed");
  }
  Report(state);
}
BENCHMARK(OneDnn)->Unit(benchmark::kMillisecond);

void Ours(benchmark::State& state) {
  const DType dtype = static_cast<DType>(state.range(0));
  Product product(dtype == DType::kF32 ? 4 : 2);
  const RowSet rows = {product.weights.data(), *RowBytes(dtype, kColumns), nullptr};
  constexpr size_t kRowsPerTile = 48;  // as the forward pass has them
  for (auto _ : state) {
    for (size_t i = 0; i < kRows; i += kRowsPerTile) {
      DotRows(dtype, rows, i, std::min(kRows, i + kRowsPerTile), kColumns, product.x.As<float>().data(), kColumns, kTokens,
              product.out.As<float>().data(), kRows);
    }
  }
  Report(state);
  state.SetLabel(std::string(DTypeName(dtype)));
}
BENCHMARK(Ours)->Arg(static_cast<int>(DType::kF32))->Arg(static_cast<int>(DType::kF16))->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace frugal

BENCHMARK_MAIN();
