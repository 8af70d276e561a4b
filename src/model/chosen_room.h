// A thread's room for what many rows do with the neurons that each of them chose (forward_chosen.cc).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "src/base/aligned_vector.h"
#include "src/kernels/chosen_rows.h"
#include "src/kernels/listed_rows.h"

namespace frugal {

struct ChosenRoom {
  AlignedVector<float> copies;    // weights that stay in the L2 cache meanwhile
  AlignedVector<float> lanes;     // [pairs, 32]
  std::vector<float> products;    // [pairs]
  std::vector<float> gates;       // [pairs], of gates in bundles
  std::vector<uint16_t> rows;     // [pairs]
  std::vector<uint32_t> begin;    // [max_rows + 1]
  std::vector<uint16_t> shared;   // [max_rows / 2]: of two rows' pairs
  uint32_t num_listed = 0;        // rows of a down sum whose members listed() has

  // Down rows that are added together. A row may add all of them.
  static constexpr uint32_t kMostListedTogether = 512;
  // The members that rows add, once the lanes are summed: their place. `begin` has their beginnings.
  std::span<ListedRow> listed() {
    static_assert(kMostChosenRows * 32 * sizeof(float) >= kMostListedTogether * sizeof(ListedRow));
    return {reinterpret_cast<ListedRow*>(lanes.data()), lanes.size() * sizeof(float) / sizeof(ListedRow)};
  }

  // Pairs of a row and a neuron that are multiplied together. A row may choose all neurons of a tile.
  static size_t MostPairs(uint32_t max_rows) { return std::clamp<size_t>(size_t{16} * max_rows, kMostChosenRows, 4096); }
  static size_t CopyBytes(uint32_t hidden_size) {
    return kChosenRowsBytes / kChosenColumns * std::min<size_t>(hidden_size, kChosenColumns);
  }

  ChosenRoom(uint32_t hidden_size, uint32_t max_rows, bool with_gates)
      : copies(CopyBytes(hidden_size) / sizeof(float)),
        lanes(MostPairs(max_rows) * 32),
        products(MostPairs(max_rows)),
        gates(with_gates ? MostPairs(max_rows) : 0),
        rows(MostPairs(max_rows)),
        begin(max_rows + 1),
        shared(max_rows / 2) {}
  static uint64_t SizeBytes(uint32_t hidden_size, uint32_t max_rows, bool with_gates) {
    const uint64_t pair_bytes = (32 + 1 + (with_gates ? 1 : 0)) * sizeof(float) + sizeof(uint16_t);
    return CopyBytes(hidden_size) + MostPairs(max_rows) * pair_bytes + (uint64_t{max_rows} + 1) * sizeof(uint32_t) +
           max_rows / 2 * sizeof(uint16_t);
  }
};

}  // namespace frugal
