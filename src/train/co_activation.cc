#include "src/train/co_activation.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "src/base/check.h"

namespace frugal {
namespace {

// Partners of a neuron that are remembered in a round. When all of them have been taken, another round finds
// others.
constexpr size_t kPartners = 32;
// How many common misses the expectation of independent neurons counts for. Among 16,384 neurons some pairs
// miss together three times by chance; a pair's weight is what it will miss together in another text of the
// same length.
constexpr double kPriorMisses = 0.5;

struct Pair {
  float weight = 0;
  uint32_t a = 0, b = 0;  // a < b
};

// The tokens that missed each neuron: TokenSets, turned round.
struct MissesByNeuron {
  std::vector<size_t> begins;    // [ffn_size + 1]
  std::vector<uint32_t> tokens;  // [num_members]

  explicit MissesByNeuron(const TokenSets& misses)
      : begins(misses.ffn_size() + 1), tokens(misses.num_members()) {
    for (size_t token = 0; token < misses.num_tokens(); ++token) {
      for (const uint32_t neuron : misses.Set(token)) ++begins[neuron + 1];
    }
    std::partial_sum(begins.begin(), begins.end(), begins.begin());
    std::vector<size_t> next(begins.begin(), begins.end() - 1);
    for (size_t token = 0; token < misses.num_tokens(); ++token) {
      for (const uint32_t neuron : misses.Set(token)) tokens[next[neuron]++] = static_cast<uint32_t>(token);
    }
  }
  std::span<const uint32_t> Of(uint32_t neuron) const {
    return std::span(tokens).subspan(begins[neuron], begins[neuron + 1] - begins[neuron]);
  }
};

// Paths that grow together: every neuron has at most two neighbours, and there is no circle.
class Paths {
 public:
  explicit Paths(uint32_t size) : root_(size), neighbours_(size, {kNone, kNone}) {
    std::iota(root_.begin(), root_.end(), 0u);
  }

  static constexpr uint32_t kNone = UINT32_MAX;

  bool IsEnd(uint32_t neuron) const { return neighbours_[neuron].second == kNone; }
  // Of the neuron's path: any of its neurons, the same for all.
  uint32_t Root(uint32_t neuron) {
    while (root_[neuron] != neuron) {
      root_[neuron] = root_[root_[neuron]];
      neuron = root_[neuron];
    }
    return neuron;
  }
  // False when one of them is no end, or both are of one path.
  bool TryJoin(uint32_t a, uint32_t b) {
    if (!IsEnd(a) || !IsEnd(b)) return false;
    const uint32_t root_a = Root(a), root_b = Root(b);
    if (root_a == root_b) return false;
    root_[root_b] = root_a;
    AddNeighbour(a, b);
    AddNeighbour(b, a);
    return true;
  }
  // From an end to the other.
  std::vector<uint32_t> Walk(uint32_t end) const {
    std::vector<uint32_t> path;
    uint32_t before = kNone;
    for (uint32_t at = end; at != kNone;) {
      path.push_back(at);
      const auto [first, second] = neighbours_[at];
      const uint32_t next = first != before ? first : second;
      before = at;
      at = next;
    }
    return path;
  }

 private:
  void AddNeighbour(uint32_t to, uint32_t neighbour) {
    (neighbours_[to].first == kNone ? neighbours_[to].first : neighbours_[to].second) = neighbour;
  }

  std::vector<uint32_t> root_;
  std::vector<std::pair<uint32_t, uint32_t>> neighbours_;
};

class PathBuilder {
 public:
  PathBuilder(const TokenSets& misses, ThreadPool& pool)
      : misses_(misses), pool_(pool), by_neuron_(misses), paths_(misses.ffn_size()) {}

  Paths& Build() {
    // Later rounds only see ends of paths, so each is smaller than the one before.
    while (true) {
      std::vector<Pair> pairs = FindPairs();
      std::sort(pairs.begin(), pairs.end(), [](const Pair& x, const Pair& y) {
        return x.weight != y.weight ? x.weight > y.weight : std::pair(x.a, x.b) < std::pair(y.a, y.b);
      });
      size_t num_joined = 0;
      for (const Pair& pair : pairs) num_joined += paths_.TryJoin(pair.a, pair.b) ? 1 : 0;
      if (num_joined == 0) return paths_;
    }
  }
  size_t NumMisses(uint32_t neuron) const { return by_neuron_.Of(neuron).size(); }

 private:
  struct Scratch {
    std::vector<uint32_t> counts;  // [ffn_size], zero between neurons
    std::vector<uint32_t> touched;
    std::vector<Pair> partners;
  };

  // For each end the partners of other paths that it misses most with.
  std::vector<Pair> FindPairs() {
    const uint32_t size = misses_.ffn_size();
    std::vector<uint32_t> roots(size);
    for (uint32_t i = 0; i < size; ++i) roots[i] = paths_.IsEnd(i) ? paths_.Root(i) : Paths::kNone;
    TokenSets ends(size);
    std::vector<uint32_t> set;
    for (size_t token = 0; token < misses_.num_tokens(); ++token) {
      set.clear();
      for (const uint32_t i : misses_.Set(token)) {
        if (roots[i] != Paths::kNone) set.push_back(i);
      }
      ends.Add(set);
    }
    std::vector<Scratch> scratch(static_cast<size_t>(pool_.num_threads()));
    for (Scratch& s : scratch) s.counts.resize(size);
    std::vector<std::vector<Pair>> found((size + kPerTile - 1) / kPerTile);
    pool_.Run(static_cast<int>(found.size()), [&](int tile, int worker) {
      const uint32_t begin = static_cast<uint32_t>(tile) * kPerTile;
      for (uint32_t i = begin; i < std::min(size, begin + kPerTile); ++i) {
        if (roots[i] == Paths::kNone) continue;
        FindPartners(i, ends, roots, scratch[static_cast<size_t>(worker)], found[static_cast<size_t>(tile)]);
      }
    });
    std::vector<Pair> pairs;
    for (const std::vector<Pair>& some : found) pairs.insert(pairs.end(), some.begin(), some.end());
    return pairs;
  }

  void FindPartners(uint32_t neuron, const TokenSets& ends, std::span<const uint32_t> roots, Scratch& scratch,
                    std::vector<Pair>& found) const {
    for (const uint32_t token : by_neuron_.Of(neuron)) {
      for (const uint32_t other : ends.Set(token)) {
        if (scratch.counts[other]++ == 0) scratch.touched.push_back(other);
      }
    }
    for (const uint32_t other : scratch.touched) {
      const uint32_t common = std::exchange(scratch.counts[other], 0u);
      if (roots[other] == roots[neuron]) continue;
      scratch.partners.push_back(
          {Weight(neuron, other, common), std::min(neuron, other), std::max(neuron, other)});
    }
    scratch.touched.clear();
    const size_t kept = std::min(kPartners, scratch.partners.size());
    std::partial_sort(scratch.partners.begin(), scratch.partners.begin() + static_cast<std::ptrdiff_t>(kept),
                      scratch.partners.end(), [](const Pair& x, const Pair& y) {
                        return x.weight != y.weight ? x.weight > y.weight
                                                    : std::pair(x.a, x.b) < std::pair(y.a, y.b);
                      });
    found.insert(found.end(), scratch.partners.begin(),
                 scratch.partners.begin() + static_cast<std::ptrdiff_t>(kept));
    scratch.partners.clear();
  }

  // Common misses to be expected: those that were seen, drawn towards those of independent neurons (the mean
  // of a Gamma distribution after a Poisson count).
  float Weight(uint32_t a, uint32_t b, uint32_t common) const {
    const double independent = static_cast<double>(NumMisses(a)) * static_cast<double>(NumMisses(b)) /
                               static_cast<double>(misses_.num_tokens());
    return static_cast<float>(independent * (kPriorMisses + common) / (kPriorMisses + independent));
  }

  static constexpr uint32_t kPerTile = 64;
  const TokenSets& misses_;
  ThreadPool& pool_;
  const MissesByNeuron by_neuron_;
  Paths paths_;
};

}  // namespace

void TokenSets::Add(std::span<const uint32_t> neurons) {
  DCHECK(neurons.empty() || neurons.back() < ffn_size_);
  neurons_.insert(neurons_.end(), neurons.begin(), neurons.end());
  begins_.push_back(neurons_.size());
}

MissReplay::MissReplay(uint32_t ffn_size, double cached_share)
    : num_slots_(std::max<size_t>(1, static_cast<size_t>(cached_share * ffn_size))),
      policy_(MakeEvictionPolicy(PolicyOptions(), ffn_size)),
      is_cached_(ffn_size) {}

std::span<const uint32_t> MissReplay::Step(std::span<const uint32_t> used) {
  was_full_ = cached_.size() == num_slots_;
  misses_.clear();
  for (const uint32_t neuron : used) {
    policy_->OnUse(neuron, token_);
    if (is_cached_[neuron] != 0) continue;
    is_cached_[neuron] = 1;
    cached_.push_back(neuron);
    misses_.push_back(neuron);
  }
  if (cached_.size() > num_slots_) Evict();
  ++token_;
  return misses_;
}

void MissReplay::Evict() {
  const auto kept = cached_.begin() + static_cast<std::ptrdiff_t>(num_slots_);
  std::nth_element(cached_.begin(), kept, cached_.end(), [this](uint32_t a, uint32_t b) {
    const float priority_a = policy_->priorities()[a], priority_b = policy_->priorities()[b];
    return priority_a != priority_b ? priority_a > priority_b : a < b;
  });
  for (auto evicted = kept; evicted != cached_.end(); ++evicted) is_cached_[*evicted] = 0;
  cached_.erase(kept, cached_.end());
}

std::vector<uint32_t> OrderByMisses(const TokenSets& misses, std::span<const uint32_t> uses,
                                    ThreadPool& pool) {
  CHECK(uses.size() == misses.ffn_size());
  PathBuilder builder(misses, pool);
  Paths& paths = builder.Build();
  struct Path {
    double rate = 0;  // misses of a neuron, on average
    uint32_t first_uses = 0;
    std::vector<uint32_t> neurons;
  };
  std::vector<Path> found;
  std::vector<bool> seen(misses.ffn_size());
  for (uint32_t neuron = 0; neuron < misses.ffn_size(); ++neuron) {
    if (seen[neuron] || !paths.IsEnd(neuron)) continue;
    Path& path = found.emplace_back();
    path.neurons = paths.Walk(neuron);
    path.first_uses = uses[neuron];
    for (const uint32_t member : path.neurons) {
      seen[member] = true;
      path.rate += static_cast<double>(builder.NumMisses(member)) / static_cast<double>(path.neurons.size());
    }
  }
  // What is missed most comes first, what is always there or never used last, by popularity.
  std::stable_sort(found.begin(), found.end(), [](const Path& a, const Path& b) {
    return a.rate != b.rate ? a.rate > b.rate : a.first_uses > b.first_uses;
  });
  std::vector<uint32_t> order;
  order.reserve(misses.ffn_size());
  for (const Path& path : found) order.insert(order.end(), path.neurons.begin(), path.neurons.end());
  CHECK(order.size() == misses.ffn_size());
  return order;
}

uint64_t OrderByMissesBytes(uint32_t ffn_size, uint64_t num_members, int num_threads) {
  const uint64_t pairs_bytes =
      uint64_t{ffn_size} * kPartners * sizeof(Pair) * 2;  // by tile and all together, one growing
  const uint64_t scratch_bytes =
      static_cast<uint64_t>(num_threads) * ffn_size * (2 * sizeof(uint32_t) + sizeof(Pair)) * 2;
  return 3 * num_members * sizeof(uint32_t) + 2 * pairs_bytes + scratch_bytes + uint64_t{ffn_size} * 96;
}

uint64_t CountReads(const TokenSets& misses, std::span<const uint32_t> order) {
  CHECK(order.size() == misses.ffn_size());
  std::vector<uint32_t> position_of(order.size());
  for (uint32_t position = 0; position < order.size(); ++position) position_of[order[position]] = position;
  std::vector<uint32_t> positions;
  uint64_t num_reads = 0;
  for (size_t token = 0; token < misses.num_tokens(); ++token) {
    positions.clear();
    for (const uint32_t neuron : misses.Set(token)) positions.push_back(position_of[neuron]);
    std::sort(positions.begin(), positions.end());
    for (size_t i = 0; i < positions.size(); ++i) {
      if (i == 0 || positions[i] != positions[i - 1] + 1) ++num_reads;
    }
  }
  return num_reads;
}

}  // namespace frugal
