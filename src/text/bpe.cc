#include "src/text/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>

namespace frugal {

uint32_t BpeEncoder::Next(uint32_t position) const {
  uint32_t word = (position + 1) / 64;
  uint64_t bits = starts_[word] & (~uint64_t{0} << ((position + 1) % 64));
  while (bits == 0) bits = starts_[++word];  // ends: bit size_ is set
  return word * 64 + static_cast<uint32_t>(std::countr_zero(bits));
}

uint32_t BpeEncoder::Previous(uint32_t position) const {
  uint32_t word = position / 64;
  uint64_t bits = starts_[word] & ~(~uint64_t{0} << (position % 64));
  while (bits == 0) bits = starts_[--word];  // ends: bit 0 is set, and position > 0
  return word * 64 + 63 - static_cast<uint32_t>(std::countl_zero(bits));
}

void BpeEncoder::PushCandidate(uint32_t left, uint32_t right) {
  const uint32_t rank = table_.FindMerge(symbols_[left], symbols_[right]);
  if (rank != TokenTable::kNoMerge) candidates_.push_back(static_cast<uint64_t>(rank) << 32 | left);
}

void BpeEncoder::Merge(uint32_t left, uint32_t right, uint32_t rank) {
  symbols_[left] = table_.merged(rank);
  starts_[right / 64] &= ~(uint64_t{1} << (right % 64));
  const auto push = [this](uint32_t a, uint32_t b) {
    const size_t before = candidates_.size();
    PushCandidate(a, b);
    if (candidates_.size() != before)
      std::push_heap(candidates_.begin(), candidates_.end(), std::greater<>());
  };
  if (left > 0) push(Previous(left), left);
  const uint32_t next = Next(left);
  if (next < size_) push(left, next);
}

void BpeEncoder::Encode(std::string_view word, std::vector<int32_t>& ids) {
  symbols_.clear();
  for (const char c : word) {
    const int32_t known = table_.byte_token(static_cast<uint8_t>(c));
    const int32_t id = known >= 0 ? known : unknown_id_;
    if (id >= 0) symbols_.push_back(static_cast<uint32_t>(id));
  }
  size_ = static_cast<uint32_t>(symbols_.size());
  starts_.assign(size_ / 64 + 1, ~uint64_t{0});
  candidates_.clear();
  for (uint32_t i = 0; i + 1 < size_; ++i) PushCandidate(i, i + 1);
  std::make_heap(candidates_.begin(), candidates_.end(), std::greater<>());

  while (!candidates_.empty()) {
    const uint64_t best = candidates_.front();
    std::pop_heap(candidates_.begin(), candidates_.end(), std::greater<>());
    candidates_.pop_back();
    const uint32_t left = static_cast<uint32_t>(best);
    const uint32_t rank = static_cast<uint32_t>(best >> 32);
    // A candidate goes stale when one of its symbols is merged otherwise.
    if ((starts_[left / 64] >> (left % 64) & 1) == 0) continue;
    const uint32_t right = Next(left);
    if (right >= size_ || table_.FindMerge(symbols_[left], symbols_[right]) != rank) continue;
    Merge(left, right, rank);
  }
  for (uint32_t i = 0; i < size_; i = Next(i)) ids.push_back(static_cast<int32_t>(symbols_[i]));
}

}  // namespace frugal
