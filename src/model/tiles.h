// How the forward pass cuts its products into tiles for the threads. Between two tiles the engine thread reaps reads.
#pragma once

#include <algorithm>
#include <cstdint>

namespace frugal {

struct Tiles {
  uint64_t items = 0;
  uint64_t per_tile = 1;  // of the first num_whole tiles
  int num_whole = 0;
  uint64_t per_last = 1;  // of the others: the last to end is not waited for as long
  int count = 0;

  uint64_t begin(int tile) const {
    const uint64_t last = tile < num_whole ? 0 : static_cast<uint64_t>(tile - num_whole);
    return static_cast<uint64_t>(tile < num_whole ? tile : num_whole) * per_tile + last * per_last;
  }
  uint64_t end(int tile) const { return std::min(items, begin(tile + 1)); }
};

// Tiles of at most `most` items, at least one per thread. The share of the last round of tiles is cut smaller.
Tiles CutTilesOf(uint64_t most, uint64_t items, int num_threads);
// Tiles of per_tile items each, the last one fewer.
Tiles EvenTiles(uint64_t per_tile, uint64_t items);
// Of matrix rows or bundles, each multiplied with `num_rows` inputs. At least one tile per thread where there are that many items: every
// thread can work.
Tiles CutTiles(uint64_t items, uint64_t columns, uint32_t num_rows, int num_threads);
// The largest product of items and rows that a tile of CutTiles has, up to `max_rows`.
uint64_t MostTileProducts(uint64_t columns, uint32_t max_rows);

}  // namespace frugal
