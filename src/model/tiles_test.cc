#include "src/model/tiles.h"

#include <gtest/gtest.h>

#include "src/kernels/kernels.h"

namespace frugal {
namespace {

TEST(TilesTest, CoverEveryItemOnce) {
  for (const int num_threads : {1, 2, 3, 8}) {
    for (const uint64_t items : {1, 2, 15, 64, 1000, 4096, 4099}) {
      for (const uint32_t num_rows : {1u, 7u, 8u, 512u}) {
        const Tiles tiles = CutTiles(items, 4096, num_rows, num_threads);
        uint64_t next = 0;
        for (int tile = 0; tile < tiles.count; ++tile) {
          EXPECT_EQ(tiles.begin(tile), next);
          EXPECT_LT(tiles.begin(tile), tiles.end(tile));
          next = tiles.end(tile);
        }
        EXPECT_EQ(next, items) << num_threads << " threads, " << num_rows << " rows";
      }
    }
  }
}

TEST(TilesTest, EvenTilesCoverEveryItem) {
  const Tiles tiles = EvenTiles(100, 250);
  ASSERT_EQ(tiles.count, 3);
  EXPECT_EQ(tiles.end(0), tiles.begin(1));
  EXPECT_EQ(tiles.begin(2), 200u);
  EXPECT_EQ(tiles.end(2), 250u);
  EXPECT_EQ(EvenTiles(0, 0).count, 0);
}

TEST(TilesTest, NoTileIsLargerThanAsked) {
  for (const uint64_t most : {1, 5, 64, 1000}) {
    const Tiles tiles = CutTilesOf(most, 777, 2);
    for (int tile = 0; tile < tiles.count; ++tile) EXPECT_LE(tiles.end(tile) - tiles.begin(tile), most);
  }
}

TEST(TilesTest, TheLastTilesAreSmaller) {
  const Tiles tiles = CutTiles(4096, 4096, 1, 2);
  EXPECT_GT(tiles.num_whole, 0);
  EXPECT_LE((tiles.end(tiles.count - 1) - tiles.begin(tiles.count - 1)) * 4, tiles.end(0));
  // All the same with many rows, whose tiles are whole panels.
  const Tiles many = CutTiles(4096, 4096, 512, 2);
  EXPECT_EQ(many.begin(1) % kRowsOfManyTokens, 0u);
  EXPECT_EQ(many.num_whole, many.count);
}

}  // namespace
}  // namespace frugal
