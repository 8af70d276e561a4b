// What chooses the neurons that a token needs. A selector's answer depends on the token's hidden state alone, never on the cache,
// on other tokens of the batch or on timing. Engine thread; the work inside may use the pool.
#pragma once

#include <cstdint>
#include <span>

#include "src/base/function_ref.h"
#include "src/base/thread_pool.h"

namespace frugal {

class Selector {
 public:
  virtual ~Selector() = default;

  // For each of num_tokens rows of x [num_tokens, hidden_size]: sets bit i of active[t] for the neurons that the token needs.
  // `active` [num_tokens, words_per_token()] is overwritten. `between_tiles(num_known)` runs as ThreadPool::Run has it: of the first
  // num_known neurons, all of them or whole words of the bitmap, every token's bits are final by then.
  virtual void Select(uint32_t layer, const float* x, uint32_t num_tokens, std::span<uint64_t> active, ThreadPool& pool,
                      FunctionRef<void(uint32_t num_known)> between_tiles) = 0;
  virtual bool selects_all() const = 0;

  static uint32_t WordsPerToken(uint32_t ffn_size) { return (ffn_size + 63) / 64; }
};

// All neurons of every layer.
class AllSelector : public Selector {
 public:
  explicit AllSelector(uint32_t ffn_size) : ffn_size_(ffn_size) {}
  void Select(uint32_t layer, const float* x, uint32_t num_tokens, std::span<uint64_t> active, ThreadPool& pool,
              FunctionRef<void(uint32_t)> between_tiles) override;
  bool selects_all() const override { return true; }

 private:
  const uint32_t ffn_size_;
};

}  // namespace frugal
