#include "src/kernels/interleaved_rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "src/kernels/kernels_for_test.h"

namespace frugal {
namespace {

constexpr size_t kColumnCounts[] = {128, 384, 4096};

std::vector<std::byte> DrawRows(Random& random, size_t num_rows, size_t columns, Values values) {
  const Weights apart(random, DType::kQ4_0, num_rows, columns, values);
  const size_t row_bytes = RowBytes(DType::kQ4_0, columns).value();
  std::vector<std::byte> rows(num_rows * row_bytes);
  for (size_t i = 0; i < num_rows; ++i) std::copy_n(apart.rows.row(i), row_bytes, rows.data() + i * row_bytes);
  return rows;
}

TEST(InterleavedRowsTest, EachRowComesBack) {
  Random random(kSeed);
  for (size_t columns : kColumnCounts) {
    for (size_t num_rows : {1, 3, 4, 11}) {
      const std::vector<std::byte> before = DrawRows(random, num_rows, columns, Values::kOrdinary);
      const size_t row_bytes = before.size() / num_rows;
      for (int64_t targets : TargetsToTest()) {
        ChooseTargets(targets);
        std::vector<std::byte> rows = before;
        InterleaveRows(rows.data(), num_rows, columns);
        EXPECT_EQ(rows != before, num_rows >= kInterleavedRows);
        std::vector<std::byte> row(row_bytes);
        for (size_t i = 0; i < num_rows; ++i) {
          CopyInterleavedRow(rows.data(), num_rows, columns, i, row.data());
          EXPECT_TRUE(std::equal(row.begin(), row.end(), before.data() + i * row_bytes))
              << NameOf(targets) << ", row " << i << " of " << num_rows;
        }
      }
      ChooseTargets(0);
    }
  }
}

TEST(InterleavedRowsTest, DotsHaveTheBitsOfTheSpecification) {
  if (!InterleavesRows(DType::kQ4_0, kColumnCounts[0])) GTEST_SKIP() << "this processor has no AVX2";
  Random random(kSeed);
  constexpr size_t kRows = 23;
  for (Values values : kValues) {
    for (size_t columns : kColumnCounts) {
      const std::vector<std::byte> before = DrawRows(random, kRows, columns, values);
      for (size_t num_tokens : {1, 3, 4, 9}) {
        const std::vector<float> x = DrawMany(random, num_tokens * columns, values);
        std::vector<int8_t> q(x.size());
        std::vector<float> scales(x.size() / kQuantisedBlock);
        for (size_t t = 0; t < num_tokens; ++t) {
          QuantiseInput(x.data() + t * columns, columns, q.data() + t * columns, scales.data() + t * columns / kQuantisedBlock);
        }
        const QuantisedInput input{q.data(), scales.data()};
        // Whole fours, parts of them, and rows that were left over.
        for (const auto& [begin, end] : {std::pair<size_t, size_t>{0, kRows}, {5, 6}, {3, 17}, {4, 20}, {19, 22}, {21, 23}, {7, 7}}) {
          std::vector<float> expected(num_tokens * (kRows + 1), 7);
          const std::vector<float> untouched = expected;
          scalar::DotRowsQuantised(DType::kQ4_0, {before.data(), before.size() / kRows, nullptr}, begin, end, columns, input, num_tokens,
                                   expected.data(), kRows + 1);
          for (int64_t targets : TargetsToTest()) {
            ChooseTargets(targets);
            if (!InterleavesRows(DType::kQ4_0, columns)) continue;
            std::vector<std::byte> rows = before;
            InterleaveRows(rows.data(), kRows, columns);
            std::vector<float> got = untouched;
            DotInterleavedRows(rows.data(), kRows, begin, end, columns, input, num_tokens, got.data(), kRows + 1);
            ExpectSameBits(got, expected,
                           fmt::format("{}, {} columns, {} tokens, rows {} to {}", NameOf(targets), columns, num_tokens, begin, end));
          }
          ChooseTargets(0);
        }
      }
    }
  }
}

TEST(InterleavedRowsTest, OnlyWholePartsOfOneTypeAreInterleaved) {
  EXPECT_FALSE(InterleavesRows(DType::kQ8_0, 4096));
  EXPECT_FALSE(InterleavesRows(DType::kQ4_0, 4096 + kQuantisedBlock));
  EXPECT_FALSE(InterleavesRows(DType::kQ4_0, kMostInterleavedColumns + 128));
  for (int64_t targets : TargetsToTest()) {
    ChooseTargets(targets);
    EXPECT_EQ(InterleavesRows(DType::kQ4_0, 4096), std::string_view(InstructionSetName()).starts_with("AVX")) << NameOf(targets);
  }
  ChooseTargets(0);
}

}  // namespace
}  // namespace frugal
