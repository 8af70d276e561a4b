#include "src/cache/wide_heap.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "src/base/random.h"

namespace frugal {
namespace {

TEST(WideHeapTest, GivesTheLowestOfWhatIsInIt) {
  constexpr size_t kCapacity = 700;  // four levels
  Random random(7);
  WideHeap heap;
  heap.Reserve(kCapacity);
  EXPECT_EQ(WideHeap::MemoryBytes(kCapacity), (kCapacity + 7) * 8);
  std::vector<float> expected;  // descending
  uint32_t item = 0;
  for (int round = 0; round < 50; ++round) {
    // Up to the brim, then down to a random rest; round 49 to the end.
    while (expected.size() < kCapacity) {
      const float priority = static_cast<float>(random.Below(200));  // with equals
      heap.Push({priority, item++});
      expected.push_back(priority);
    }
    std::sort(expected.begin(), expected.end(), std::greater<>());
    const size_t rest = round == 49 ? 0 : random.Below(kCapacity);
    while (expected.size() > rest) {
      ASSERT_FALSE(heap.empty());
      ASSERT_EQ(heap.Pop().priority, expected.back());
      expected.pop_back();
    }
  }
  EXPECT_TRUE(heap.empty());
}

TEST(WideHeapTest, KeepsItemsWithTheirPriorities) {
  WideHeap heap;
  heap.Reserve(100);
  for (uint32_t i = 0; i < 100; ++i) heap.Push({static_cast<float>(i * 37 % 100), i});
  for (uint32_t i = 0; i < 100; ++i) {
    const WideHeap::Entry entry = heap.Pop();
    EXPECT_EQ(entry.priority, static_cast<float>(i));
    EXPECT_EQ(entry.item * 37 % 100, i);
  }
}

}  // namespace
}  // namespace frugal
