// How often a layer's neurons are chosen in a text, and how often the last tokens' neurons lack what the next token needs: from these
// `plan` expects the misses of a cache (src/engine/expectation.h).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "src/format/packed_format.h"

namespace frugal {

class UseCounter {
 public:
  explicit UseCounter(uint32_t ffn_size) : uses_(ffn_size), last_use_(ffn_size) {}

  // The neurons chosen for the text's next token. // bits [Selector::WordsPerToken(ffn_size)]
  void AddToken(std::span<const uint64_t> bits);

  // Share of the tokens that chose each neuron. // [ffn_size]
  std::vector<float> Popularity() const;
  // Share of the neurons that a token chose.
  float ChosenShare() const;
  // Entry i: share of the neurons that a token chose and none of the 2^i tokens before it; of the tokens that have so many before
  // them. In a shorter text, the entry of the longest window that it fills.
  WindowMisses Misses() const;

 private:
  // Of the neurons of so many tokens.
  float Share(uint64_t count, uint32_t num_tokens) const;

  std::vector<uint32_t> uses_;      // [ffn_size]
  std::vector<uint32_t> last_use_;  // number of the token, from 1; 0: not yet // [ffn_size]
  uint32_t num_tokens_ = 0;
  uint64_t num_chosen_ = 0;
  std::array<uint64_t, kNumWindows> misses_{};
};

}  // namespace frugal
