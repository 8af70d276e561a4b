// Kernels of many tokens: panels and chosen rows give the bits of the scalar specification.
#include <algorithm>
#include <vector>

#include "src/base/aligned_vector.h"
#include "src/base/bytes.h"
#include "src/kernels/chosen_rows.h"
#include "src/kernels/kernels_for_test.h"
#include "src/kernels/listed_rows.h"
#include "src/kernels/row_spans.h"
#include "src/kernels/token_panels.h"

namespace frugal {
namespace {

class ManyTokensTest : public KernelsTest {};

INSTANTIATE_TEST_SUITE_P(Targets, ManyTokensTest, testing::ValuesIn(TargetsToTest()),
                         [](const auto& targets) { return NameOf(targets.param); });

// Of rows [begin, end) with all tokens, laid out as the forward pass does it.
void ComparePanels(Random& random, DType dtype, const Weights& weights, size_t begin, size_t end, size_t columns, size_t num_tokens,
                   Values values) {
  const size_t x_stride = columns + 1, out_stride = end + 3;
  const std::vector<float> x = DrawMany(random, num_tokens * x_stride, values);
  std::vector<float> expected(num_tokens * out_stride, 7.0f);
  std::vector<float> got = expected;
  scalar::DotRows(dtype, weights.rows, begin, end, columns, x.data(), x_stride, num_tokens, expected.data(), out_stride);
  AlignedVector<float> panels(TokenPanelFloats(num_tokens, columns)), scratch(PanelScratchFloats(columns));
  for (size_t t = 0; t < num_tokens; t += kPanelTokens) {
    FillTokenPanels(x.data(), x_stride, t, std::min(kPanelTokens, num_tokens - t), columns, panels.data());
  }
  DotRowsOfPanels(dtype, weights.rows, begin, end, columns, panels.data(), num_tokens, scratch.data(), got.data(), out_stride);
  ExpectSameBits(got, expected,
                 std::string(DTypeName(dtype)) + " " + std::to_string(columns) + " columns, " + std::to_string(num_tokens) +
                     " tokens in panels, rows " + std::to_string(begin) + ".." + std::to_string(end));
}

TEST_P(ManyTokensTest, PanelsOfEverySize) {
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (size_t columns = 1; columns <= 140; columns += columns < 66 ? 1 : 37) {
      for (Values values : kValues) {
        const Weights weights(random_, dtype, 7, columns, values);
        for (size_t num_tokens : {1, 5, 17, 40}) {
          ComparePanels(random_, dtype, weights, 1, 7, columns, num_tokens, values);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST_P(ManyTokensTest, PanelsOfEveryBatchAndRange) {
  std::vector<uint32_t> index(60);
  for (size_t i = 0; i < index.size(); ++i) index[i] = static_cast<uint32_t>(i * 7 % 60);
  Weights weights(random_, DType::kF16, 60, 1056, Values::kOrdinary);
  for (bool gathers : {false, true}) {
    weights.rows.index = gathers ? index.data() : nullptr;
    for (size_t num_tokens = 1; num_tokens <= 70; num_tokens += 3) {
      for (size_t end : {0, 1, 6, 11, 12, 13, 48, 57}) {
        ComparePanels(random_, DType::kF16, weights, 3, 3 + end, 1056, num_tokens, Values::kOrdinary);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(ManyTokensTest, ChosenRowsHaveTheBitsOfAllRows) {
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (size_t columns : {1, 31, 32, 100, 1024, 1056, 2090}) {
      for (Values values : kValues) {
        constexpr size_t kRows = 23, kTokens = 9;
        const Weights weights(random_, dtype, kRows, columns, values);
        const std::vector<float> x = DrawMany(random_, kTokens * (columns + 1), values);
        std::vector<float> all(kTokens * kRows), expected;
        scalar::DotRows(dtype, weights.rows, 0, kRows, columns, x.data(), columns + 1, kTokens, all.data(), kRows);
        std::vector<uint16_t> chosen[kTokens];  // the first token chose few, the last one nearly all
        for (size_t t = 0; t < kTokens; ++t) {
          for (uint16_t i = 0; i < kRows; ++i) {
            if (random_.Below(kTokens) <= t) chosen[t].push_back(i);
          }
        }
        std::vector<uint16_t> shared;
        for (size_t t = 0; t + 1 < kTokens; t += 2) {
          const auto share = [](std::vector<uint16_t>& rows, const std::vector<uint16_t>& of) {
            const auto in_both = [&](uint16_t i) { return std::count(of.begin(), of.end(), i) > 0; };
            const auto end = std::stable_partition(rows.begin(), rows.end(), in_both);
            return static_cast<uint16_t>(end - rows.begin());
          };
          const std::vector<uint16_t> before = chosen[t];
          shared.push_back(share(chosen[t], chosen[t + 1]));
          ASSERT_EQ(share(chosen[t + 1], before), shared.back());
        }
        std::vector<uint32_t> begin = {0};
        std::vector<uint16_t> row;
        for (size_t t = 0; t < kTokens; ++t) {
          for (const uint16_t i : chosen[t]) {
            row.push_back(i);
            expected.push_back(all[t * kRows + i]);
          }
          begin.push_back(static_cast<uint32_t>(row.size()));
        }
        // No more room than was promised.
        AlignedVector<std::byte> copies(kRows * RowBytes(dtype, std::min(columns, kChosenColumns)).value());
        AlignedVector<float> lanes(row.size() * scalar::kLanes);
        std::vector<float> got(row.size());
        DotChosenRows(dtype, weights.rows, kRows, columns, x.data(), columns + 1, kTokens, {begin.data(), row.data(), shared.data()},
                      copies.data(), lanes.data(), got.data());
        ExpectSameBits(got, expected, std::string(DTypeName(dtype)) + " " + std::to_string(columns) + " columns, chosen rows");
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(ManyTokensTest, ListedRowsHaveTheBitsOfScaledRows) {
  constexpr size_t kRows = 70, kTokens = 5;
  for (DType dtype : kWeightTypes) {
    const size_t block = TraitsOf(dtype).block_elements;
    for (size_t columns : {1, 31, 64, 96, 150, 512, 551}) {
      columns = RoundUp(columns, block);
      for (Values values : kValues) {
        const Weights weights(random_, dtype, kRows, columns, values);
        std::vector<ListedRow> entries(kRows * kTokens);
        std::vector<uint32_t> begin = {0};
        std::vector<float> expected = DrawMany(random_, kTokens * (columns + 3), values);
        std::vector<float> got = expected;
        for (size_t t = 0; t < kTokens; ++t) {
          std::vector<float> a = DrawMany(random_, kRows, values);
          for (float& value : a) {
            // The first token adds few of the rows, the last one nearly all.
            if (random_.Below(kTokens) > t) value = random_.Below(2) == 0 ? 0.0f : -0.0f;
          }
          scalar::AddScaledRows(dtype, weights.rows, kRows, a.data(), 0, columns, expected.data() + t * (columns + 3));
          begin.push_back(begin.back() + ListNonZero(a.data(), kRows, entries.data() + begin.back()));
          ASSERT_EQ(CountNonZero(a.data(), kRows), begin[t + 1] - begin[t]);
        }
        std::vector<float> floats(kRows * columns);
        RowSet rows = weights.rows;
        if (ListedType(dtype) != dtype) {
          for (size_t i = 0; i < kRows; ++i) ConvertToFloat(dtype, weights.rows.row(i), columns, floats.data() + i * columns);
          rows = {reinterpret_cast<const std::byte*>(floats.data()), columns * sizeof(float), nullptr};
        }
        AddListedRows(ListedType(dtype), rows, {entries.data(), begin.data()}, kTokens, columns, got.data(), columns + 3);
        ExpectSameBits(got, expected, std::string(DTypeName(dtype)) + " " + std::to_string(columns) + " columns, listed rows");
        if (HasFatalFailure()) return;
      }
    }
  }
}

// Tokens of a prompt: each sees one row more than the one before, and from some token on one row less at the beginning.
TEST_P(ManyTokensTest, SpansOfRowsHaveTheBitsOfScaledRows) {
  constexpr size_t kRows = 90, kStride = kRows + 2;
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (size_t columns : {1, 8, 31, 64, 96, 129}) {
      for (Values values : kValues) {
        const Weights weights(random_, dtype, kRows, columns, values);
        for (size_t num_tokens : {1, 2, 12, 13, 32}) {
          for (uint32_t first_end : {1, 50}) {
            for (uint32_t window : {1, 7, 40, 100}) {
              std::vector<RowSpan> spans;
              for (uint32_t t = 0; t < num_tokens; ++t) spans.push_back({first_end + t - std::min(window, first_end + t), first_end + t});
              const std::vector<float> a = DrawMany(random_, num_tokens * kStride, values);
              std::vector<float> expected = DrawMany(random_, num_tokens * (columns + 3), values);
              std::vector<float> got = expected;
              for (size_t t = 0; t < num_tokens; ++t) {
                const RowSpan span = spans[t];
                scalar::AddScaledRows(dtype, weights.rows.From(span.begin), span.end - span.begin, a.data() + t * kStride + span.begin, 0,
                                      columns, expected.data() + t * (columns + 3));
              }
              AddRowSpans(dtype, weights.rows, spans.data(), num_tokens, a.data(), kStride, columns, got.data(), columns + 3);
              ExpectSameBits(got, expected, std::string(DTypeName(dtype)) + " " + std::to_string(columns) + " columns, spans of rows");
              if (HasFatalFailure()) return;
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace frugal
