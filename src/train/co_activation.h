// An order of a layer's neurons in which what a token misses in the cache lies together, so that few reads
// fetch it. Pure.
//
// A read ends where the next neuron is not missing. So a token's misses take (misses - neighbours that are
// both missing) reads, and an order saves as many reads as the sum, over all pairs of neighbours, of the
// tokens that miss both: the order sought is the heaviest path through all neurons with that count as weight
// (compare Ripple, arXiv 2410.19274, which counts common uses: neurons that are used by most tokens lie in
// the cache, and what lies beside them does not matter). Such paths are hard to find; they are put together
// greedily here, heaviest pair first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "src/base/thread_pool.h"
#include "src/cache/eviction_policy.h"

namespace frugal {

// Sets of a layer's neurons, one for each token of a text, in the order of the text.
class TokenSets {
 public:
  explicit TokenSets(uint32_t ffn_size) : ffn_size_(ffn_size) {}

  // Ascending neurons of the next token.
  void Add(std::span<const uint32_t> neurons);

  uint32_t ffn_size() const { return ffn_size_; }
  size_t num_tokens() const { return begins_.size() - 1; }
  size_t num_members() const { return neurons_.size(); }
  std::span<const uint32_t> Set(size_t token) const {
    return std::span(neurons_).subspan(begins_[token], begins_[token + 1] - begins_[token]);
  }

 private:
  const uint32_t ffn_size_;
  std::vector<uint32_t> neurons_;     // [num_members]
  std::vector<size_t> begins_ = {0};  // [num_tokens + 1]
};

// Replays a text's uses through a cache of one layer with the engine's own eviction policy. Gives what each token missed.
class MissReplay {
 public:
  // Of the neurons, the share that the cache holds.
  MissReplay(uint32_t ffn_size, double cached_share);

  // The ascending neurons that a token uses -> those of them that are not there. Valid until the next call.
  std::span<const uint32_t> Step(std::span<const uint32_t> used);
  // Whether the cache was full before the last step: until then all is missing that was never used.
  bool was_full() const { return was_full_; }

 private:
  void Evict();

  const size_t num_slots_;
  std::unique_ptr<EvictionPolicy> policy_;
  std::vector<uint8_t> is_cached_;
  std::vector<uint32_t> cached_, misses_;
  uint32_t token_ = 0;
  bool was_full_ = false;
};

// The neuron of each position. `misses`: of a text; `uses` [ffn_size]: tokens of the text that used the
// neuron, which orders those that were never missed. The same for any number of threads.
std::vector<uint32_t> OrderByMisses(const TokenSets& misses, std::span<const uint32_t> uses,
                                    ThreadPool& pool);
// What it allocates at most, beside its result.
uint64_t OrderByMissesBytes(uint32_t ffn_size, uint64_t num_members, int num_threads);

// Reads that fetch what the tokens missed, neighbours in `order` joined.
uint64_t CountReads(const TokenSets& misses, std::span<const uint32_t> order);

}  // namespace frugal
