// How near the kernels come to the memory bus, on one thread: bytes of weights a second, beside plain reading
// of memory; and, with many tokens, how near to the arithmetic's peak, beside oneDNN where libdnnl-dev is there (OMP_NUM_THREADS=1).
#include <benchmark/benchmark.h>
#ifdef FRUGAL_HAVE_ONEDNN
#include <dnnl.h>
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "src/base/aligned_buffer.h"
#include "src/base/aligned_vector.h"
#include "src/base/random.h"
#include "src/kernels/fma_loop.h"
#include "src/kernels/kernels.h"
#include "src/kernels/token_panels.h"
#include "src/kernels/training_kernels.h"
#include "src/tensor/dtype.h"

namespace frugal {
namespace {

constexpr size_t kHiddenSize = 4096;
constexpr size_t kGatheredColumns = 16384;
constexpr size_t kReadBytes = size_t{512} << 20;

// Zeros are as fast as other weights: no kernel branches on a weight.
struct Weights {
  AlignedBuffer bytes;
  RowSet rows;
  uint64_t row_bytes = 0;

  Weights(DType dtype, size_t num_rows, size_t columns) : row_bytes(RowBytes(dtype, columns).value()) {
    Result<AlignedBuffer> made = AlignedBuffer::Allocate(num_rows * row_bytes);
    if (!made) return;
    bytes = std::move(made).value();
    rows = {bytes.data(), row_bytes, nullptr};
  }
};

void ReadMemory(benchmark::State& state) {
  Result<AlignedBuffer> made = AlignedBuffer::Allocate(kReadBytes);
  if (!made) return state.SkipWithError("out of memory");
  const AlignedBuffer buffer = std::move(made).value();
  for (auto _ : state) {
    uint64_t sums[8] = {};
    for (size_t i = 0; i < kReadBytes; i += sizeof(sums)) {
      uint64_t words[8];
      std::memcpy(words, buffer.data() + i, sizeof(words));
      for (size_t w = 0; w < 8; ++w) sums[w] |= words[w];
    }
    benchmark::DoNotOptimize(sums);
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * kReadBytes));
}
BENCHMARK(ReadMemory)->Unit(benchmark::kMillisecond);

// The arithmetic's bound: fused multiply-adds in registers.
void FmaPeak(benchmark::State& state) {
  uint64_t flops = 0;
  for (auto _ : state) flops += FmaLoop(1'000'000);
  state.counters["flops"] = benchmark::Counter(static_cast<double>(flops), benchmark::Counter::kIsRate);
}
BENCHMARK(FmaPeak)->Unit(benchmark::kMillisecond);

// Arguments: dtype, tokens.
void DotRowsContiguous(benchmark::State& state) {
  const DType dtype = static_cast<DType>(state.range(0));
  const size_t num_tokens = static_cast<size_t>(state.range(1));
  const size_t num_rows = 4 * kHiddenSize;
  const Weights weights(dtype, num_rows, kHiddenSize);
  if (weights.rows.base == nullptr) return state.SkipWithError("out of memory");
  Result<AlignedBuffer> inputs = AlignedBuffer::Allocate(num_tokens * kHiddenSize * sizeof(float));
  if (!inputs) return state.SkipWithError("out of memory");
  const std::span<float> x = inputs->As<float>();
  std::fill(x.begin(), x.end(), 1.0f);
  std::vector<float> out(num_tokens * num_rows);
  // Tiles of the size that a thread takes: more tokens, fewer rows.
  const size_t tile_rows = num_tokens == 1 ? 512 : 48;
  for (auto _ : state) {
    for (size_t i = 0; i < num_rows; i += tile_rows) {
      DotRows(dtype, weights.rows, i, std::min(i + tile_rows, num_rows), kHiddenSize, x.data(), kHiddenSize, num_tokens,
              out.data(), num_rows);
    }
    benchmark::ClobberMemory();
  }
  const double multiplications = static_cast<double>(num_rows * kHiddenSize * num_tokens);
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * num_rows * weights.row_bytes));
  state.counters["flops"] =
      benchmark::Counter(2 * multiplications, benchmark::Counter::kIsIterationInvariantRate);
  state.SetLabel(std::string(DTypeName(dtype)));
}

// The active set of an FFN layer: a quarter of the bundles, in order, with holes. Arguments: dtype, tokens.
void DotRowsGathered(benchmark::State& state) {
  const DType dtype = static_cast<DType>(state.range(0));
  const size_t num_tokens = static_cast<size_t>(state.range(1));
  const size_t num_rows = 8192;
  const Weights weights(dtype, num_rows, kGatheredColumns);
  if (weights.rows.base == nullptr) return state.SkipWithError("out of memory");
  Random random(1);
  std::vector<uint32_t> index;
  for (uint32_t i = 0; i < num_rows; ++i) {
    if (random.Below(4) == 0) index.push_back(i);
  }
  RowSet rows = weights.rows;
  rows.index = index.data();
  const std::vector<float> x(num_tokens * kGatheredColumns, 1.0f);
  std::vector<float> out(num_tokens * index.size());
  for (auto _ : state) {
    DotRows(dtype, rows, 0, index.size(), kGatheredColumns, x.data(), kGatheredColumns, num_tokens,
            out.data(), index.size());
    benchmark::ClobberMemory();
  }
  const double multiplications = static_cast<double>(index.size() * kGatheredColumns * num_tokens);
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * index.size() * weights.row_bytes));
  state.counters["flops"] =
      benchmark::Counter(2 * multiplications, benchmark::Counter::kIsIterationInvariantRate);
  state.SetLabel(std::string(DTypeName(dtype)));
}

// The down projection: rows of bundles of two rows (stride 2 rows), half of them with an activation of zero.
// Arguments: dtype, columns of the tile.
void AddScaledRowsOfBundles(benchmark::State& state) {
  const DType dtype = static_cast<DType>(state.range(0));
  const size_t tile_columns = static_cast<size_t>(state.range(1));
  const size_t num_rows = 4 * kHiddenSize;
  const Weights weights(dtype, num_rows, 2 * kHiddenSize);
  if (weights.rows.base == nullptr) return state.SkipWithError("out of memory");
  Random random(1);
  std::vector<float> a(num_rows);
  size_t used = 0;
  for (float& value : a) {
    value = random.Below(2) == 0 ? 1.0f : 0.0f;
    used += value != 0.0f;
  }
  std::vector<float> out(kHiddenSize);
  for (auto _ : state) {
    for (size_t c = 0; c < kHiddenSize; c += tile_columns) {
      AddScaledRows(dtype, weights.rows, num_rows, a.data(), c, c + tile_columns, out.data());
    }
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * used * weights.row_bytes / 2));
  state.SetLabel(std::string(DTypeName(dtype)));
}

void DTypesAndTokens(benchmark::internal::Benchmark* bench) {
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0}) {
    for (int64_t num_tokens : {1, 16}) bench->Args({static_cast<int64_t>(dtype), num_tokens});
  }
}
BENCHMARK(DotRowsContiguous)->Apply(DTypesAndTokens)->Args({0, 512})->Args({1, 512})->Unit(benchmark::kMillisecond);

// Arguments: dtype, tokens; their layout included.
void DotRowsPanels(benchmark::State& state) {
  const DType dtype = static_cast<DType>(state.range(0));
  const size_t num_tokens = static_cast<size_t>(state.range(1));
  const size_t num_rows = 4 * kHiddenSize;
  const Weights weights(dtype, num_rows, kHiddenSize);
  if (weights.rows.base == nullptr) return state.SkipWithError("out of memory");
  const std::vector<float> x(num_tokens * kHiddenSize, 1.0f);
  AlignedVector<float> panels(TokenPanelFloats(num_tokens, kHiddenSize)), scratch(PanelScratchFloats(kHiddenSize));
  std::vector<float> out(num_tokens * num_rows);
  for (auto _ : state) {
    for (size_t t = 0; t < num_tokens; t += kPanelTokens) {
      FillTokenPanels(x.data(), kHiddenSize, t, std::min(kPanelTokens, num_tokens - t), kHiddenSize, panels.data());
    }
    for (size_t row = 0; row < num_rows; row += kPanelRows) {
      DotRowsOfPanels(dtype, weights.rows, row, std::min(num_rows, row + kPanelRows), kHiddenSize, panels.data(), num_tokens,
                      scratch.data(), out.data(), num_rows);
    }
  }
  const double flops = 2.0 * static_cast<double>(num_rows * kHiddenSize * num_tokens);
  state.counters["flops"] = benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
  state.SetLabel(std::string(DTypeName(dtype)));
}
BENCHMARK(DotRowsPanels)->ArgsProduct({{0, 1}, {16, 32, 64, 128, 512}})->Unit(benchmark::kMillisecond);

#ifdef FRUGAL_HAVE_ONEDNN
// The yardstick of 512 tokens: oneDNN's SGEMM takes float weights and sums in an order of its own.
void OneDnnContiguous(benchmark::State& state) {
  constexpr size_t kTokens = 512, kRows = 4 * kHiddenSize;
  const std::vector<float> weights(kRows * kHiddenSize, 1.0f), x(kTokens * kHiddenSize, 1.0f);
  std::vector<float> out(kTokens * kRows);
  for (auto _ : state) {
    if (dnnl_sgemm('N', 'T', kTokens, kRows, kHiddenSize, 1.0f, x.data(), kHiddenSize, weights.data(), kHiddenSize, 0.0f, out.data(),
                   kRows) != dnnl_success) {
      return state.SkipWithError("dnnl_sgemm failed");
    }
  }
  state.counters["flops"] =
      benchmark::Counter(2.0 * kTokens * kRows * kHiddenSize, benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(OneDnnContiguous)->Unit(benchmark::kMillisecond);
#endif
BENCHMARK(DotRowsGathered)->Apply(DTypesAndTokens)->Unit(benchmark::kMillisecond);

void DTypesAndColumns(benchmark::internal::Benchmark* bench) {
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (int64_t columns : {512, 2048, 4096}) bench->Args({static_cast<int64_t>(dtype), columns});
  }
}
BENCHMARK(AddScaledRowsOfBundles)->Apply(DTypesAndColumns)->Unit(benchmark::kMillisecond);

// c[256, 1024] of k = 1024. Argument: 0 a * b^T, 1 += a^T * b, 2 a * b.
void MatrixProduct(benchmark::State& state) {
  constexpr size_t kM = 256;
  constexpr size_t kN = 1024;
  constexpr size_t kK = 1024;
  const std::vector<float> a(kM * kK, 1.0f);
  const std::vector<float> b(kN * kK, 1.0f);
  std::vector<float> c(kM * kN);
  const auto product = state.range(0) == 0 ? MatMulF32 : state.range(0) == 1 ? MatMulTransposedF32 : MatMulNN;
  for (auto _ : state) {
    product(a.data(), b.data(), c.data(), kM, kN, kK);
    benchmark::ClobberMemory();
  }
  state.counters["flops"] =
      benchmark::Counter(2.0 * kM * kN * kK, benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(MatrixProduct)->DenseRange(0, 2)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace frugal

BENCHMARK_MAIN();
