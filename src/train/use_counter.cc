#include "src/train/use_counter.h"

#include <bit>

namespace frugal {

void UseCounter::AddToken(std::span<const uint64_t> bits) {
  ++num_tokens_;
  for (size_t word = 0; word < bits.size(); ++word) {
    for (uint64_t rest = bits[word]; rest != 0; rest &= rest - 1) {
      const size_t neuron = word * 64 + static_cast<size_t>(std::countr_zero(rest));
      ++uses_[neuron];
      ++num_chosen_;
      const uint32_t last = last_use_[neuron];
      for (size_t i = 0; i < kNumWindows; ++i) {
        const uint32_t window = uint32_t{1} << i;
        if (num_tokens_ <= window) break;
        if (last == 0 || last + window < num_tokens_) ++misses_[i];
      }
      last_use_[neuron] = num_tokens_;
    }
  }
}

std::vector<float> UseCounter::Popularity() const {
  std::vector<float> shares(uses_.size());
  for (size_t i = 0; i < shares.size() && num_tokens_ > 0; ++i) {
    shares[i] = static_cast<float>(static_cast<double>(uses_[i]) / num_tokens_);
  }
  return shares;
}

float UseCounter::Share(uint64_t count, uint32_t num_tokens) const {
  if (num_tokens == 0) return 0.0f;
  return static_cast<float>(static_cast<double>(count) / (static_cast<double>(num_tokens) * static_cast<double>(uses_.size())));
}

float UseCounter::ChosenShare() const { return Share(num_chosen_, num_tokens_); }

WindowMisses UseCounter::Misses() const {
  WindowMisses shares{};
  float last = ChosenShare();
  for (size_t i = 0; i < kNumWindows; ++i) {
    const uint32_t window = uint32_t{1} << i;
    if (num_tokens_ > window) last = Share(misses_[i], num_tokens_ - window);
    shares[i] = last;
  }
  return shares;
}

}  // namespace frugal
