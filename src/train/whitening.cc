#include "src/train/whitening.h"

#include <algorithm>

#include "src/base/function_ref.h"
#include "src/kernels/kernels.h"
#include "src/kernels/training_kernels.h"
#include "src/train/linear_algebra.h"

namespace frugal {
namespace {

constexpr uint64_t kRowsAtOnce = 512;
constexpr float kVarianceFloor = 1e-4f;

// Calls fn with some rows at a time.
Status ForEachPart(RowRange rows, FunctionRef<Status(RowRange part)> fn) {
  for (uint64_t at = 0; at < rows.count; at += kRowsAtOnce) {
    FRUGAL_TRY(fn({rows.begin + at, std::min(kRowsAtOnce, rows.count - at)}));
  }
  return {};
}

void Subtract(const std::vector<float>& mean, uint64_t num_rows, float* x) {
  for (uint64_t row = 0; row < num_rows; ++row) {
    for (size_t i = 0; i < mean.size(); ++i) x[row * mean.size() + i] -= mean[i];
  }
}

Result<std::vector<float>> MeasureMean(const RowStore& store, RowRange rows, size_t size) {
  std::vector<double> sum(size);
  std::vector<float> x(kRowsAtOnce * size);
  std::vector<std::byte> scratch;
  Status done = ForEachPart(rows, [&](RowRange part) -> Status {
    FRUGAL_TRY(ReadHalfRows(store, part, size, scratch, x.data()));
    for (uint64_t row = 0; row < part.count; ++row) {
      for (size_t i = 0; i < size; ++i) sum[i] += x[row * size + i];
    }
    return {};
  });
  FRUGAL_TRY(std::move(done));
  std::vector<float> mean(size);
  for (size_t i = 0; i < size; ++i) mean[i] = static_cast<float>(sum[i] / static_cast<double>(rows.count));
  return mean;
}

}  // namespace

Result<Whitening> MeasureWhitening(ThreadPool& pool, const RowStore& store, RowRange rows, size_t size) {
  Whitening whitening;
  FRUGAL_ASSIGN(whitening.mean, MeasureMean(store, rows, size));
  std::vector<float>& covariance = whitening.factor;
  covariance.assign(size * size, 0.0f);
  std::vector<float> x(kRowsAtOnce * size);
  std::vector<std::byte> scratch;
  Status done = ForEachPart(rows, [&](RowRange part) -> Status {
    FRUGAL_TRY(ReadHalfRows(store, part, size, scratch, x.data()));
    Subtract(whitening.mean, part.count, x.data());
    AddCrossProduct(pool, x.data(), x.data(), covariance.data(), size, size, part.count);
    return {};
  });
  FRUGAL_TRY(std::move(done));
  Scale(covariance.data(), 1.0f / static_cast<float>(rows.count), size * size);
  double trace = 0.0;
  for (size_t i = 0; i < size; ++i) trace += covariance[i * size + i];
  // A constant input has no variance at all; then any positive number does.
  const float floor =
      std::max(1e-12f, kVarianceFloor * static_cast<float>(trace / static_cast<double>(size)));
  for (size_t i = 0; i < size; ++i) covariance[i * size + i] += floor;
  Cholesky(pool, covariance.data(), size, floor * 0.5f);
  whitening.inverse.resize(size * size);
  InvertLower(whitening.factor.data(), whitening.inverse.data(), size);
  return whitening;
}

Status WhitenRows(ThreadPool& pool, const Whitening& whitening, RowRange rows, RowStore& store) {
  const size_t size = whitening.mean.size();
  // Rows times transpose(L^-1).
  std::vector<float> transposed(size * size);
  for (size_t i = 0; i < size; ++i) {
    for (size_t j = 0; j < size; ++j) transposed[j * size + i] = whitening.inverse[i * size + j];
  }
  std::vector<float> x(kRowsAtOnce * size), whitened(kRowsAtOnce * size);
  std::vector<std::byte> scratch;
  return ForEachPart(rows, [&](RowRange part) -> Status {
    FRUGAL_TRY(ReadHalfRows(store, part, size, scratch, x.data()));
    Subtract(whitening.mean, part.count, x.data());
    Multiply(pool, x.data(), transposed.data(), whitened.data(), part.count, size, size);
    return WriteHalfRows(store, part, size, scratch, whitened.data());
  });
}

Result<std::vector<float>> CrossCovariance(ThreadPool& pool, const RowStore& a, const RowStore& b,
                                           RowRange rows, size_t size) {
  std::vector<float> covariance(size * size);
  std::vector<float> left(kRowsAtOnce * size), right(kRowsAtOnce * size);
  std::vector<std::byte> scratch;
  Status done = ForEachPart(rows, [&](RowRange part) -> Status {
    FRUGAL_TRY(ReadHalfRows(a, part, size, scratch, left.data()));
    FRUGAL_TRY(ReadHalfRows(b, part, size, scratch, right.data()));
    AddCrossProduct(pool, left.data(), right.data(), covariance.data(), size, size, part.count);
    return {};
  });
  FRUGAL_TRY(std::move(done));
  Scale(covariance.data(), 1.0f / static_cast<float>(rows.count), size * size);
  return covariance;
}

}  // namespace frugal
