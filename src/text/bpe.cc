#include "src/text/bpe.h"

#include <algorithm>
#include <functional>

#include "src/text/utf8.h"

namespace frugal {

void BpeEncoder::PushCandidate(uint32_t left, uint32_t right) {
  const uint32_t rank = table_.FindMerge(symbols_[left], symbols_[right]);
  if (rank != TokenTable::kNoMerge) candidates_.push_back(static_cast<uint64_t>(rank) << 32 | left);
}

void BpeEncoder::Merge(uint32_t left, uint32_t right, uint32_t rank) {
  symbols_[left] = table_.merged(rank);
  starts_.Clear(right);
  const auto push = [this](uint32_t a, uint32_t b) {
    const size_t before = candidates_.size();
    PushCandidate(a, b);
    if (candidates_.size() != before)
      std::push_heap(candidates_.begin(), candidates_.end(), std::greater<>());
  };
  if (left > 0) push(starts_.Previous(left), left);
  const uint32_t next = starts_.Next(left);
  if (next < starts_.size()) push(left, next);
}

bool BpeEncoder::TryAddBytes(std::string_view character) {
  for (const char c : character) {
    if (table_.byte_token(static_cast<uint8_t>(c)) < 0) return false;
  }
  for (const char c : character) {
    symbols_.push_back(static_cast<uint32_t>(table_.byte_token(static_cast<uint8_t>(c))));
  }
  return true;
}

void BpeEncoder::AddSymbols(std::string_view word) {
  const bool is_plain = table_.spelling() == TokenSpelling::kPlain;
  // An unknown token waits for what may fuse with it, as in `tokenizers`; bytes do not end its wait.
  bool waits = false;
  const auto flush = [&] {
    if (waits) symbols_.push_back(static_cast<uint32_t>(unknown_.unknown_id));
    waits = false;
  };
  while (!word.empty()) {
    const std::string_view character = word.substr(0, is_plain ? NextUtf8(word).size_bytes : 1);
    word.remove_prefix(character.size());
    const int32_t id = is_plain ? table_.Find(character) : table_.byte_token(static_cast<uint8_t>(character[0]));
    if (id >= 0) {
      flush();
      symbols_.push_back(static_cast<uint32_t>(id));
      continue;
    }
    if (is_plain && unknown_.byte_fallback && TryAddBytes(character)) continue;
    if (unknown_.unknown_id < 0) continue;
    if (!unknown_.fuse) flush();
    waits = true;
  }
  flush();
}

void BpeEncoder::Encode(std::string_view word, std::vector<int32_t>& ids) {
  symbols_.clear();
  AddSymbols(word);
  const uint32_t size = static_cast<uint32_t>(symbols_.size());
  starts_.SetAll(size);
  candidates_.clear();
  for (uint32_t i = 0; i + 1 < size; ++i) PushCandidate(i, i + 1);
  std::make_heap(candidates_.begin(), candidates_.end(), std::greater<>());

  while (!candidates_.empty()) {
    const uint64_t best = candidates_.front();
    std::pop_heap(candidates_.begin(), candidates_.end(), std::greater<>());
    candidates_.pop_back();
    const uint32_t left = static_cast<uint32_t>(best);
    const uint32_t rank = static_cast<uint32_t>(best >> 32);
    // A candidate goes stale when one of its symbols is merged otherwise.
    if (!starts_.IsSet(left)) continue;
    const uint32_t right = starts_.Next(left);
    if (right >= size || table_.FindMerge(symbols_[left], symbols_[right]) != rank) continue;
    Merge(left, right, rank);
  }
  for (uint32_t i = 0; i < size; i = starts_.Next(i)) ids.push_back(static_cast<int32_t>(symbols_[i]));
}

}  // namespace frugal
