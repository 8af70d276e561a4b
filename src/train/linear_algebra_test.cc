#include "src/train/linear_algebra.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "src/base/random.h"

namespace frugal {
namespace {

std::vector<float> RandomMatrix(size_t size, Random& random) {
  std::vector<float> values(size);
  for (float& value : values) value = static_cast<float>(random.Uniform() * 2.0 - 1.0);
  return values;
}

class LinearAlgebraTest : public testing::Test {
 protected:
  LinearAlgebraTest() : seed_(std::random_device{}()), random_(seed_), pool_(ThreadPool::Create(2).value()) {
    RecordProperty("seed", std::to_string(seed_));
  }
  // transpose(a) a / k + diagonal: symmetric, positive definite.
  std::vector<float> Definite(size_t n) {
    const size_t k = 3 * n;
    const std::vector<float> a = RandomMatrix(k * n, random_);
    std::vector<float> c(n * n);
    AddCrossProduct(*pool_, a.data(), a.data(), c.data(), n, n, k);
    for (float& value : c) value /= static_cast<float>(k);
    for (size_t i = 0; i < n; ++i) c[i * n + i] += 0.01f;
    return c;
  }

  const uint64_t seed_;
  Random random_;
  std::unique_ptr<ThreadPool> pool_;
};

TEST_F(LinearAlgebraTest, ProductsAreThoseOfTheTextbook) {
  SCOPED_TRACE(seed_);
  const size_t m = 101, n = 37, k = 53;
  const std::vector<float> a = RandomMatrix(m * k, random_), b = RandomMatrix(k * n, random_);
  std::vector<float> c(m * n), transposed(k * m), cross(m * n, 1.0f);
  Multiply(*pool_, a.data(), b.data(), c.data(), m, n, k);
  for (size_t i = 0; i < m; ++i) {
    for (size_t l = 0; l < k; ++l) transposed[l * m + i] = a[i * k + l];
  }
  AddCrossProduct(*pool_, transposed.data(), b.data(), cross.data(), m, n, k);
  for (size_t i = 0; i < m; ++i) {
    for (size_t j = 0; j < n; ++j) {
      double sum = 0.0;
      for (size_t l = 0; l < k; ++l) sum += static_cast<double>(a[i * k + l]) * b[l * n + j];
      ASSERT_NEAR(c[i * n + j], sum, 1e-4);
      ASSERT_NEAR(cross[i * n + j], sum + 1.0, 1e-4);
    }
  }
  const std::vector<float> square = RandomMatrix(k * k, random_);
  std::vector<float> expected(m * k), in_place = a;
  Multiply(*pool_, a.data(), square.data(), expected.data(), m, k, k);
  MultiplyInPlace(*pool_, in_place.data(), square.data(), m, k);
  EXPECT_EQ(in_place, expected);
}

TEST_F(LinearAlgebraTest, CholeskyFactorAndItsInverseGiveTheMatrixAndOne) {
  SCOPED_TRACE(seed_);
  for (const size_t n : {1u, 5u, 64u, 65u, 200u}) {
    const std::vector<float> c = Definite(n);
    std::vector<float> l = c, inverse(n * n);
    Cholesky(*pool_, l.data(), n, 1e-9f);
    InvertLower(l.data(), inverse.data(), n);
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = 0; j < n; ++j) {
        double product = 0.0, unit = 0.0;
        for (size_t k = 0; k < n; ++k) {
          product += static_cast<double>(l[i * n + k]) * l[j * n + k];
          unit += static_cast<double>(l[i * n + k]) * inverse[k * n + j];
        }
        ASSERT_NEAR(product, c[i * n + j], 1e-4) << "n " << n << " at " << i << ", " << j;
        ASSERT_NEAR(unit, i == j ? 1.0 : 0.0, 1e-3) << "n " << n << " at " << i << ", " << j;
      }
    }
  }
}

TEST_F(LinearAlgebraTest, CholeskyOfASingularMatrixStaysFinite) {
  const size_t n = 70;
  std::vector<float> ones(n * n, 1.0f);
  Cholesky(*pool_, ones.data(), n, 1e-6f);
  for (const float value : ones) ASSERT_TRUE(std::isfinite(value));
}

TEST_F(LinearAlgebraTest, EigenvectorsComeInOrderAndStopAtTheSize) {
  SCOPED_TRACE(seed_);
  // Diagonal in a random basis: eigenvalues 1, 1/2, 1/4 ...
  const size_t n = 40, count = 6;
  std::vector<float> basis = LeadingEigenvectors(*pool_, Definite(n).data(), n, n, 7);
  std::vector<float> g(n * n);
  for (size_t k = 0; k < n; ++k) {
    const double value = std::pow(0.5, static_cast<double>(k));
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = 0; j < n; ++j)
        g[i * n + j] += static_cast<float>(value * basis[k * n + i] * basis[k * n + j]);
    }
  }
  const std::vector<float> found = LeadingEigenvectors(*pool_, g.data(), n, count, 3);
  ASSERT_EQ(found.size(), count * n);
  for (size_t k = 0; k < count; ++k) {
    double dot = 0.0;
    for (size_t i = 0; i < n; ++i) dot += static_cast<double>(found[k * n + i]) * basis[k * n + i];
    EXPECT_NEAR(std::abs(dot), 1.0, 1e-3) << k;
  }
  const std::vector<float> padded = LeadingEigenvectors(*pool_, g.data(), n, n + 8, 3);
  ASSERT_EQ(padded.size(), (n + 8) * n);
  for (size_t i = n * n; i < padded.size(); ++i) ASSERT_EQ(padded[i], 0.0f);
}

TEST_F(LinearAlgebraTest, BitsDoNotDependOnThreads) {
  SCOPED_TRACE(seed_);
  const auto alone = ThreadPool::Create(1).value();
  const auto many = ThreadPool::Create(5).value();
  const size_t n = 150;
  std::vector<float> c = Definite(n);
  EXPECT_EQ(LeadingEigenvectors(*alone, c.data(), n, 20, 3), LeadingEigenvectors(*many, c.data(), n, 20, 3));
  std::vector<float> other = c;
  Cholesky(*alone, c.data(), n, 1e-9f);
  Cholesky(*many, other.data(), n, 1e-9f);
  EXPECT_EQ(c, other);
}

}  // namespace
}  // namespace frugal
