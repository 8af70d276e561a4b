#include "src/train/samples.h"

#include <algorithm>
#include <numeric>

#include "src/base/random.h"
#include "src/kernels/kernels.h"

namespace frugal {
namespace {

template <typename T>
void Shuffle(std::vector<T>& items, Random& random) {
  for (size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[random.Below(i)]);
}

}  // namespace

SampleSplit SplitSamples(const std::vector<uint64_t>& lengths, uint64_t seed) {
  CHECK(lengths.size() >= 3);
  enum Part { kFit, kChoose, kReport };
  const uint64_t num_tokens = std::accumulate(lengths.begin(), lengths.end(), uint64_t{0});
  Random random(seed);
  std::vector<size_t> order(lengths.size());
  std::iota(order.begin(), order.end(), size_t{0});
  Shuffle(order, random);

  std::vector<Part> part(lengths.size(), kFit);
  size_t next = 0;
  const auto hold_out = [&](Part which) {
    uint64_t tokens = 0;
    // At least one sequence stays for the fit, and one for the part after this one.
    const size_t left_over = which == kChoose ? 2 : 1;
    do {
      part[order[next]] = which;
      tokens += lengths[order[next]];
      ++next;
    } while (tokens * 10 < num_tokens && next + left_over < order.size());
    return tokens;
  };
  SampleSplit split;
  split.choose.count = hold_out(kChoose);
  split.report.count = hold_out(kReport);
  split.fit.count = num_tokens - split.choose.count - split.report.count;
  split.choose.begin = split.fit.count;
  split.report.begin = split.choose.begin + split.choose.count;

  std::vector<uint32_t> fit_places(split.fit.count);
  std::iota(fit_places.begin(), fit_places.end(), 0u);
  Shuffle(fit_places, random);
  uint64_t at[] = {0, split.choose.begin, split.report.begin};
  split.place.reserve(num_tokens);
  for (size_t i = 0; i < lengths.size(); ++i) {
    for (uint64_t t = 0; t < lengths[i]; ++t) {
      const uint64_t index = at[part[i]]++;
      split.place.push_back(part[i] == kFit ? fit_places[index] : static_cast<uint32_t>(index));
    }
  }
  return split;
}

Status ReadHalfRows(const RowStore& store, RowRange rows, size_t columns, std::vector<std::byte>& scratch,
                    float* out) {
  scratch.resize(rows.count * columns * sizeof(uint16_t));
  FRUGAL_TRY(store.Read(rows.begin, scratch));
  ConvertToFloat(DType::kF16, scratch.data(), rows.count * columns, out);
  return {};
}

Status WriteHalfRows(RowStore& store, RowRange rows, size_t columns, std::vector<std::byte>& scratch,
                     const float* from) {
  scratch.resize(rows.count * columns * sizeof(uint16_t));
  ConvertFromFloat(DType::kF16, from, rows.count * columns, scratch.data());
  return store.Write(rows.begin, scratch);
}

}  // namespace frugal
