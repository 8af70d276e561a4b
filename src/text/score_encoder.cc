#include "src/text/score_encoder.h"

#include <algorithm>
#include <bit>
#include <functional>

#include "src/text/utf8.h"

namespace frugal {
namespace {

// A number that is the lower, the higher the score is: scores are of 32 bits in every file that has them.
uint32_t OrderOf(double score) {
  constexpr uint32_t kSign = uint32_t{1} << 31;
  const uint32_t bits = std::bit_cast<uint32_t>(static_cast<float>(score) + 0.0f);  // -0 is 0
  const uint32_t ascending = (bits & kSign) != 0 ? ~bits : bits | kSign;
  return ~ascending;
}

}  // namespace

int32_t ScoreEncoder::FindPiece(std::string_view text) const {
  const int32_t id = table_.Find(text);
  if (id < 0) return -1;
  const TokenKind kind = table_.kind(static_cast<uint32_t>(id));
  return kind == TokenKind::kNormal || kind == TokenKind::kUserDefined ? id : -1;
}

bool ScoreEncoder::TryPush(uint32_t left, uint32_t right) {
  const uint32_t size_bytes = starts_.Next(right) - left;
  const int32_t id = FindPiece(word_.substr(left, size_bytes));
  if (id < 0) return false;
  candidates_.push_back({OrderOf(table_.score(static_cast<uint32_t>(id))), left, size_bytes});
  return true;
}

void ScoreEncoder::Merge(const Candidate& candidate) {
  starts_.Clear(starts_.Next(candidate.left));
  const auto push = [this](uint32_t left, uint32_t right) {
    if (TryPush(left, right)) std::push_heap(candidates_.begin(), candidates_.end(), std::greater<>());
  };
  if (candidate.left > 0) push(starts_.Previous(candidate.left), candidate.left);
  const uint32_t next = starts_.Next(candidate.left);
  if (next < starts_.size()) push(candidate.left, next);
}

void ScoreEncoder::AddIds(std::vector<int32_t>& ids) const {
  bool after_unknown = false;
  for (uint32_t at = 0; at < starts_.size(); at = starts_.Next(at)) {
    const std::string_view text = word_.substr(at, starts_.Next(at) - at);
    if (const int32_t id = FindPiece(text); id >= 0) {
      ids.push_back(id);
      after_unknown = false;
      continue;
    }
    if (unknown_.byte_fallback &&
        std::all_of(text.begin(), text.end(), [this](char c) { return table_.byte_token(static_cast<uint8_t>(c)) >= 0; })) {
      for (const char c : text) ids.push_back(table_.byte_token(static_cast<uint8_t>(c)));
      after_unknown = false;
      continue;
    }
    if (unknown_.unknown_id >= 0 && !(after_unknown && unknown_.fuse)) ids.push_back(unknown_.unknown_id);
    after_unknown = true;
  }
}

void ScoreEncoder::Encode(std::string_view word, std::vector<int32_t>& ids) {
  word_ = word;
  const uint32_t size = static_cast<uint32_t>(word.size());
  starts_.SetFirst(size);
  for (uint32_t at = 0; at < size; at += static_cast<uint32_t>(NextUtf8(word.substr(at)).size_bytes)) starts_.Set(at);
  candidates_.clear();
  for (uint32_t at = 0; at < size;) {
    const uint32_t next = starts_.Next(at);
    if (next < size) TryPush(at, next);
    at = next;
  }
  std::make_heap(candidates_.begin(), candidates_.end(), std::greater<>());
  while (!candidates_.empty()) {
    const Candidate best = candidates_.front();
    std::pop_heap(candidates_.begin(), candidates_.end(), std::greater<>());
    candidates_.pop_back();
    // A candidate goes stale when one of its symbols is merged otherwise.
    if (!starts_.IsSet(best.left)) continue;
    const uint32_t right = starts_.Next(best.left);
    if (right >= size || starts_.Next(right) - best.left != best.size_bytes) continue;
    Merge(best);
  }
  AddIds(ids);
}

}  // namespace frugal
