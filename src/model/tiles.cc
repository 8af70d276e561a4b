#include "src/model/tiles.h"

#include <algorithm>

#include "src/base/bytes.h"
#include "src/kernels/interleaved_rows.h"
#include "src/kernels/kernels.h"

namespace frugal {
namespace {

// Multiply-adds of a tile: about 0.1 ms at 10 GFLOPS on a slow core, so that reads are reaped often enough; shorter streams of rows
// (kernels/row_streams.h) are slower.
constexpr uint64_t kTileProducts = 512 * 1024;
// With many rows of input, which pass from the L3 cache once for each tile: a tile of weights has this many rows, fewer where the threads
// would have fewer than kTilesPerThread tiles each.
constexpr uint64_t kRowsOfTile = 48;
constexpr uint64_t kTilesPerThread = 8;
// The last tile of each thread is cut into so many, of at least so many items each: rows are multiplied eight at a time.
constexpr uint64_t kLastParts = 4;
constexpr uint64_t kLeastOfLast = 16;

}  // namespace

Tiles CutTilesOf(uint64_t most, uint64_t items, int num_threads) {
  Tiles tiles;
  tiles.items = items;
  tiles.per_tile = std::clamp<uint64_t>(items / static_cast<uint64_t>(num_threads), 1, most);
  const uint64_t in_last_round = std::min(items, tiles.per_tile * static_cast<uint64_t>(num_threads));
  tiles.num_whole = static_cast<int>((items - in_last_round) / tiles.per_tile);
  tiles.per_last = std::max<uint64_t>(std::min(kLeastOfLast, tiles.per_tile), (tiles.per_tile + kLastParts - 1) / kLastParts);
  const uint64_t rest = items - static_cast<uint64_t>(tiles.num_whole) * tiles.per_tile;
  tiles.count = tiles.num_whole + static_cast<int>((rest + tiles.per_last - 1) / tiles.per_last);
  return tiles;
}

Tiles EvenTiles(uint64_t per_tile, uint64_t items) {
  Tiles tiles;
  tiles.items = items;
  tiles.per_tile = std::max<uint64_t>(1, per_tile);
  tiles.count = tiles.num_whole = static_cast<int>((items + tiles.per_tile - 1) / tiles.per_tile);
  return tiles;
}

Tiles CutTiles(uint64_t items, uint64_t columns, uint32_t num_rows, int num_threads) {
  const uint64_t products_per_item = std::max<uint64_t>(1, columns * num_rows);
  uint64_t by_work = std::max<uint64_t>(1, kTileProducts / products_per_item);
  // Four interleaved rows that two tiles share would be multiplied twice.
  if (by_work > kInterleavedRows) by_work = RoundDown(by_work, kInterleavedRows);
  if (num_rows < kManyTokens) return CutTilesOf(by_work, items, num_threads);
  const uint64_t shared = items / (kTilesPerThread * static_cast<uint64_t>(num_threads));
  const Tiles tiles = CutTilesOf(std::max({by_work, kRowsOfManyTokens, std::min(shared, kRowsOfTile)}), items, num_threads);
  return EvenTiles(RoundUp(tiles.per_tile, kRowsOfManyTokens), items);
}

uint64_t MostTileProducts(uint64_t columns, uint32_t max_rows) {
  return kTileProducts / columns + (kRowsOfTile + kRowsOfManyTokens) * max_rows;
}

}  // namespace frugal
