// How the forward pass cuts its products into tiles for the threads. Between two tiles the engine thread reaps reads.
#pragma once

#include <cstdint>

namespace frugal {

struct Tiles {
  uint64_t per_tile = 1;
  int count = 0;
};

// Tiles of at most `most` items, at least one per thread.
Tiles CutTilesOf(uint64_t most, uint64_t items, int num_threads);
// Of matrix rows or bundles, each multiplied with `num_rows` inputs. At least one tile per thread where there are that many items: every
// thread can work.
Tiles CutTiles(uint64_t items, uint64_t columns, uint32_t num_rows, int num_threads);
// The largest product of items and rows that a tile of CutTiles has, up to `max_rows`.
uint64_t MostTileProducts(uint64_t columns, uint32_t max_rows);

}  // namespace frugal
