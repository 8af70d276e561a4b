// The FFN of many rows, a prompt's: neurons that many of them chose are multiplied with all of them, the others with those rows alone;
// the down sum from pieces of the down rows that stay in the cache while all rows pass.
#include <algorithm>
#include <bit>

#include "src/base/bytes.h"
#include "src/kernels/copy_rows.h"
#include "src/model/forward.h"

namespace frugal {
namespace {

constexpr size_t kOneByOneMembers = 64;  // of a tile whose rows are taken one by one
// Of a tile whose rows are taken together: the fewest rows, but for the last; into how many parts they are cut at most; and tiles.
constexpr uint32_t kLeastChosenRows = 64;
constexpr uint32_t kChosenParts = 4;
constexpr uint64_t kChosenTilesPerThread = 4;
constexpr uint32_t kDownTilesPerThread = 4;

// Columns of which a piece of the down rows is made: cache lines, whole blocks.
uint32_t DownUnit(const BundleInfo& bundle) { return std::max<uint32_t>(64, TraitsOf(bundle.down_type).block_elements); }
uint64_t DownUnitBytes(const BundleInfo& bundle) { return RowBytes(ListedType(bundle.down_type), DownUnit(bundle)).value(); }

}  // namespace

// The ready members that fewer than kCommonShare of the rows chose, and the others, each in their order.
Forward::PartedBundles Forward::Part(const BundleWave& wave, const ReadyBundles& ready, uint32_t num_rows) {
  PartedBundles parted;
  const uint32_t least = static_cast<uint32_t>(kCommonShare * num_rows);
  const size_t count = ready.members.size();
  size_t num_common = 0;
  for (const uint32_t member : ready.members) num_common += counts_[wave.begin + member] > least ? 1 : 0;
  if (num_common == count) {
    parted.common = ready;
    return parted;
  }
  size_t common = 0, rare = num_common;
  for (size_t i = 0; i < count; ++i) {
    size_t& place = counts_[wave.begin + ready.members[i]] > least ? common : rare;
    parted_members_[place] = ready.members[i];
    parted_rows_[place++] = ready.rows.IndexOf(i);
  }
  const auto part = [&](size_t first, size_t size) -> ReadyBundles {
    return {{parted_members_.data() + first, size}, {ready.rows.base, ready.rows.stride_bytes, parted_rows_.data() + first}};
  };
  parted.common = part(0, num_common);
  parted.rare = part(num_common, count - num_common);
  return parted;
}

bool Forward::TakesChosenTogether(const BundleInfo& bundle, uint32_t num_rows) const {
  return TakesPanels(num_rows) && !IsQuantised(bundle.up_type) && !(has_bundled_gate() && IsQuantised(bundle.gate_type));
}

// As few parts of the members as their copies allow, since all rows pass from the L3 cache for each; so the rows are cut, too.
Forward::ChosenTiles Forward::CutChosen(const BundleInfo& bundle, size_t num_members, uint32_t num_rows) const {
  const int num_threads = pool_.num_threads();
  if (!TakesChosenTogether(bundle, num_rows)) return {CutTilesOf(kOneByOneMembers, num_members, num_threads), num_rows, num_rows};
  const uint32_t columns = std::min<uint32_t>(config_.hidden_size, kChosenColumns);
  uint64_t row_bytes = RowBytes(bundle.up_type, columns).value();
  if (has_bundled_gate()) row_bytes = std::max(row_bytes, RowBytes(bundle.gate_type, columns).value());
  const uint64_t most = std::min<uint64_t>(kMostChosenRows, ChosenRoom::CopyBytes(config_.hidden_size) / row_bytes);
  const uint32_t parts = std::clamp<uint32_t>(num_rows / kLeastChosenRows, 1, kChosenParts);
  const uint64_t wanted = (kChosenTilesPerThread * static_cast<uint64_t>(num_threads) + parts - 1) / parts;
  const uint64_t member_parts = std::max(wanted, (num_members + most - 1) / most);
  return {EvenTiles((num_members + member_parts - 1) / member_parts, num_members), num_rows, (num_rows + parts - 1) / parts};
}

// A tile's members for each of its rows' chosen ones alone.
void Forward::ActivateChosen(uint32_t layer, const BundleWave& wave, const ReadyBundles& ready, const ChosenTiles& tiles, int tile,
                             int worker) {
  const int members = tile / tiles.row_parts();
  const size_t begin = tiles.members.begin(members), end = tiles.members.end(members);
  const uint32_t first_row = static_cast<uint32_t>(tile % tiles.row_parts()) * tiles.rows_of_tile;
  const uint32_t end_row = std::min(tiles.num_rows, first_row + tiles.rows_of_tile);
  for (uint32_t row = first_row; row < end_row; ++row) {
    float* const out = activations_.data() + size_t{row} * config_.ffn_size + wave.begin;
    for (size_t i = begin; i < end; ++i) out[ready.members[i]] = 0.0f;
  }
  if (!TakesChosenTogether(weights_.model().bundles()[layer], tiles.num_rows)) {
    for (uint32_t row = first_row; row < end_row; ++row) ActivateOneByOne(layer, wave, ready, begin, end, row, worker);
    return;
  }
  for (uint32_t row = first_row; row < end_row;) row += ActivateTogether(layer, wave, ready, begin, end, row, end_row, worker);
}

void Forward::ActivateOneByOne(uint32_t layer, const BundleWave& wave, const ReadyBundles& ready, size_t begin, size_t end, uint32_t row,
                               int worker) {
  const BundleInfo& bundle = weights_.model().bundles()[layer];
  uint32_t chosen[kOneByOneMembers], index[kOneByOneMembers];
  float products[kOneByOneMembers], gates[kOneByOneMembers];
  size_t count = 0;
  for (size_t i = begin; i < end; ++i) {
    chosen[count] = ready.members[i];
    index[count] = ready.rows.IndexOf(i);
    count += IsChosen(row, positions_[wave.begin + ready.members[i]]) ? 1 : 0;
  }
  if (count == 0) return;
  const RowSet rows{ready.rows.base, ready.rows.stride_bytes, index};
  DotUpRows(bundle.up_type, rows.At(bundle.up_offset_bytes), count, row, 1, worker, products);
  if (has_bundled_gate()) DotUpRows(bundle.gate_type, rows, count, row, 1, worker, gates);
  FinishProducts(layer, row, wave, chosen, count, products, gates);
  float* const out = activations_.data() + size_t{row} * config_.ffn_size + wave.begin;
  for (size_t i = 0; i < count; ++i) out[chosen[i]] = products[i];
}

// Which of the members each row of [first, end_row) chose, as many rows as there is room for their pairs; gives their number. Members are
// looked at together where they follow each other in a word of the active sets. What two rows share comes first (ChosenPairs).
uint32_t Forward::ListPairs(const BundleWave& wave, std::span<const uint32_t> members, uint32_t first, uint32_t end_row,
                            ChosenRoom& room) const {
  struct Run {
    uint64_t bits;
    uint32_t word;
    uint32_t first;  // member
  };
  Run runs[kMostChosenRows];
  size_t num_runs = 0;
  for (size_t i = 0; i < members.size(); ++i) {
    const uint32_t position = positions_[wave.begin + members[i]], word = position / 64;
    const uint64_t bit = uint64_t{1} << (position % 64);
    if (num_runs == 0 || runs[num_runs - 1].word != word || bit < runs[num_runs - 1].bits) {
      runs[num_runs++] = {0, word, static_cast<uint32_t>(i)};
    }
    runs[num_runs - 1].bits |= bit;
  }
  uint32_t num_pairs = 0;
  const auto list = [&](const auto& word_of_active) {
    for (const Run& run : std::span(runs, num_runs)) {
      for (uint64_t rest = word_of_active(run.word) & run.bits; rest != 0; rest &= rest - 1) {
        const uint64_t before = run.bits & ((rest & -rest) - 1);
        room.rows[num_pairs++] = static_cast<uint16_t>(run.first + static_cast<uint32_t>(std::popcount(before)));
      }
    }
  };
  const size_t words = Selector::WordsPerToken(config_.ffn_size);
  uint32_t taken = 0;
  room.begin[0] = 0;
  while (first + taken < end_row && num_pairs + members.size() <= room.rows.size()) {
    const uint64_t* const active = active_.data() + (first + taken) * words;
    if (first + taken + 1 == end_row || num_pairs + 2 * members.size() > room.rows.size()) {
      list([&](uint32_t word) { return active[word]; });
      room.begin[++taken] = num_pairs;
      break;
    }
    const uint64_t* const neighbour = active + words;
    list([&](uint32_t word) { return active[word] & neighbour[word]; });
    const uint32_t begin = room.begin[taken], shared = num_pairs - begin;
    room.shared[taken / 2] = static_cast<uint16_t>(shared);
    list([&](uint32_t word) { return active[word] & ~neighbour[word]; });
    room.begin[++taken] = num_pairs;
    std::copy_n(room.rows.data() + begin, shared, room.rows.data() + num_pairs);
    num_pairs += shared;
    list([&](uint32_t word) { return neighbour[word] & ~active[word]; });
    room.begin[++taken] = num_pairs;
  }
  return taken;
}

// Rows of [first, end_row), as many as there is room for their pairs; gives their number.
uint32_t Forward::ActivateTogether(uint32_t layer, const BundleWave& wave, const ReadyBundles& ready, size_t begin, size_t end,
                                   uint32_t first, uint32_t end_row, int worker) {
  const BundleInfo& bundle = weights_.model().bundles()[layer];
  ChosenRoom& room = chosen_rooms_[static_cast<size_t>(worker)];
  const size_t count = end - begin;
  const uint32_t* const members = ready.members.data() + begin;
  const uint32_t taken = ListPairs(wave, {members, count}, first, end_row, room);
  const size_t hidden = config_.hidden_size;
  const ChosenPairs pairs{room.begin.data(), room.rows.data(), room.shared.data()};
  const auto multiply = [&](DType dtype, const RowSet& rows, float* out) {
    DotChosenRows(dtype, rows, count, hidden, ffn_input_.data() + first * hidden, hidden, taken, pairs,
                  reinterpret_cast<std::byte*>(room.copies.data()), room.lanes.data(), out);
  };
  const RowSet bundles = ready.rows.From(begin);
  multiply(bundle.up_type, bundles.At(bundle.up_offset_bytes), room.products.data());
  if (has_bundled_gate()) multiply(bundle.gate_type, bundles, room.gates.data());
  for (uint32_t t = 0; t < taken; ++t) {
    uint32_t chosen[kMostChosenRows];
    const uint32_t from = room.begin[t], size = room.begin[t + 1] - from;
    for (uint32_t i = 0; i < size; ++i) chosen[i] = members[room.rows[from + i]];
    float* const products = room.products.data() + from;
    FinishProducts(layer, first + t, wave, chosen, size, products, room.gates.data() + from);
    float* const out = activations_.data() + size_t{first + t} * config_.ffn_size + wave.begin;
    for (uint32_t i = 0; i < size; ++i) out[chosen[i]] = products[i];
  }
  return taken;
}

// A tile is some columns of all rows' sums; each thread lists for itself which members each row adds, some members at a time. Their down
// rows are copied, a piece after the other: bundles lie a power of two apart, so that few of their rows fit a cache.
void Forward::SumDownOfMany(uint32_t layer, const BundleWave& wave, uint32_t num_rows) {
  const BundleInfo& bundle = weights_.model().bundles()[layer];
  const uint64_t room_bytes = ChosenRoom::CopyBytes(config_.hidden_size);
  const size_t together = std::min<size_t>(ChosenRoom::kMostListedTogether, room_bytes / DownUnitBytes(bundle));
  for (size_t first = wave.begin; first < wave.end; first += together) {
    const size_t count = std::min(together, wave.end - first);
    for (uint32_t row = 0; row < num_rows;) row += AddMembers(bundle, wave, first, count, row, num_rows);
  }
}

// `count` members, the first of them position `first` of the union, to the sums of the rows from `row` on, as many as there is room for
// their lists; gives their number.
uint32_t Forward::AddMembers(const BundleInfo& bundle, const BundleWave& wave, size_t first, size_t count, uint32_t row,
                             uint32_t num_rows) {
  const uint32_t hidden = config_.hidden_size, num_threads = static_cast<uint32_t>(pool_.num_threads());
  const uint32_t most = kDownTilesPerThread * num_threads;
  const uint32_t columns = static_cast<uint32_t>(RoundUp((hidden + most - 1) / most, DownUnit(bundle)));
  for (ChosenRoom& room : chosen_rooms_) room.num_listed = 0;
  pool_.Run(
      static_cast<int>((hidden + columns - 1) / columns),
      [&](int tile, int worker) {
        ChosenRoom& room = chosen_rooms_[static_cast<size_t>(worker)];
        if (room.num_listed == 0) room.num_listed = ListActive(first, count, row, num_rows, room);
        const uint32_t begin = static_cast<uint32_t>(tile) * columns;
        AddDownRows(bundle, wave.rows.From(first - wave.begin), count, row, begin, std::min(hidden, begin + columns), room);
      },
      [&] { weights_.Poll(); });
  // The same of all threads that had a tile.
  uint32_t listed = 0;
  for (const ChosenRoom& room : chosen_rooms_) listed = std::max(listed, room.num_listed);
  return listed;
}

// Which of `count` members, the first of them position `first` of the union, each row from `row` on adds: as many rows as there is room
// for; gives their number.
uint32_t Forward::ListActive(size_t first, size_t count, uint32_t row, uint32_t num_rows, ChosenRoom& room) const {
  const std::span<ListedRow> entries = room.listed();
  uint32_t listed = 0;
  room.begin[0] = 0;
  for (; row + listed < num_rows && room.begin[listed] + count <= entries.size(); ++listed) {
    const float* const activations = activations_.data() + size_t{row + listed} * config_.ffn_size + first;
    room.begin[listed + 1] = room.begin[listed] + ListNonZero(activations, count, entries.data() + room.begin[listed]);
  }
  return listed;
}

// Adds columns [begin, end) of what ListActive listed to block_out_.
void Forward::AddDownRows(const BundleInfo& bundle, const RowSet& rows, size_t count, uint32_t first_row, uint32_t begin, uint32_t end,
                          ChosenRoom& room) {
  std::byte* const copies = reinterpret_cast<std::byte*>(room.copies.data());
  const DType dtype = ListedType(bundle.down_type);
  const uint64_t units = room.copies.size() * sizeof(float) / (count * DownUnitBytes(bundle));
  const uint32_t piece = DownUnit(bundle) * static_cast<uint32_t>(std::min<uint64_t>(units, config_.hidden_size));
  for (uint32_t from = begin; from < end; from += piece) {
    const uint32_t columns = std::min(piece, end - from);
    const uint64_t offset = bundle.down_offset_bytes + RowBytes(bundle.down_type, from).value();
    const uint64_t row_bytes = RowBytes(dtype, columns).value();
    if (dtype == bundle.down_type) {
      CopyRows(rows, offset, count, row_bytes, copies);
    } else {
      for (size_t i = 0; i < count; ++i) {
        AskForLaterRow(rows, i, count, offset, RowBytes(bundle.down_type, columns).value());
        ConvertToFloat(bundle.down_type, rows.row(i) + offset, columns, reinterpret_cast<float*>(copies + i * row_bytes));
      }
    }
    AddListedRows(dtype, {copies, row_bytes, nullptr}, {room.listed().data(), room.begin.data()}, room.num_listed, columns,
                  block_out_.data() + size_t{first_row} * config_.hidden_size + from, config_.hidden_size);
  }
}

}  // namespace frugal
