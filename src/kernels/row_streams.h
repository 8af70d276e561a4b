// In what order the rows of a matrix are multiplied with one token: memory sets the speed, and its prefetchers follow a few long streams
// best. Contiguous rows are cut into kStreams parts, of each of which one row is multiplied at a time: rows beside each other would
// be streams that end with every row. Gathered rows all start anew, so more of them are multiplied together.
#pragma once

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include "src/kernels/kernels.h"

namespace frugal {

constexpr size_t kStreams = 4;
constexpr size_t kGatheredStreams = 8;
// How far ahead of its use memory is asked for: behind the end of a row, at the row of the next tile.
constexpr size_t kPrefetchBytes = 512;
constexpr size_t kGatheredPrefetchBytes = 768;
// Gathered rows once more, from the L2 cache into the L1 cache.
constexpr size_t kNearPrefetchBytes = 128;
constexpr size_t kLineBytes = 64;

// A tile: rows first, first + step, ...; its streams go on with rows next, next + step, ..., none behind `last`.
struct RowTile {
  size_t first = 0;
  size_t step = 0;
  size_t next = 0;
  size_t last = 0;

  size_t row(size_t i) const { return first + i * step; }
  size_t next_row(size_t i) const { return std::min(next + i * step, last); }
};

// Ask memory for a line. AskForGathered: into the L2 cache only. The L1 cache has places for some 24 lines that it waits for, too few to keep
// the memory busy where the prefetchers, which fill the L2 cache, do not help: they start anew with every row, and run past its end.
__attribute__((always_inline)) inline void AskFor(const std::byte* at) { __builtin_prefetch(at, 0, 3); }
__attribute__((always_inline)) inline void AskForGathered(const std::byte* at) { __builtin_prefetch(at, 0, 2); }

// Cuts rows [begin, end): calls f(std::integral_constant<size_t, rows of the tile>, RowTile) for each tile. kContiguous and kGathered:
// the rows of a tile, as the registers allow.
template <size_t kContiguous, size_t kGathered, class F>
void ForEachRowTile(bool gathered, size_t begin, size_t end, const F& f) {
  size_t row = begin;
  if (gathered) {
    const auto add = [&]<size_t kRows>(std::integral_constant<size_t, kRows> rows) {
      for (; row + kRows <= end; row += kRows) f(rows, RowTile{row, 1, row + kRows, end - 1});
    };
    add(std::integral_constant<size_t, kGathered>());
    if constexpr (kContiguous < kGathered / 2) add(std::integral_constant<size_t, kGathered / 2>());
    if constexpr (kContiguous < kGathered) add(std::integral_constant<size_t, kContiguous>());
  } else {
    const size_t step = (end - begin) / kContiguous;
    // What follows the last stream is likely to be the caller's next tile.
    for (; row < begin + step; ++row) f(std::integral_constant<size_t, kContiguous>(), RowTile{row, step, row + 1, end});
    row = begin + step * kContiguous;
  }
  for (; row < end; ++row) f(std::integral_constant<size_t, 1>(), RowTile{row, 1, row + 1, end - 1});
}

}  // namespace frugal
