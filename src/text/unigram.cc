#include "src/text/unigram.h"

#include <algorithm>

#include "src/text/utf8.h"

namespace frugal {
namespace {

constexpr double kUnknownPenalty = 10.0;  // SentencePiece's and `tokenizers`'

}  // namespace

UnigramEncoder::UnigramEncoder(const TokenTable& table, const UnknownPolicy& unknown, double min_score)
    : table_(table), unknown_(unknown), unknown_score_(min_score - kUnknownPenalty) {}

void UnigramEncoder::Search(std::string_view word) {
  nodes_.assign(word.size() + 1, {0.0, 0, kUnreached});
  for (uint32_t at = 0; at < word.size();) {
    const std::string_view rest = word.substr(at);
    const uint32_t character_bytes = static_cast<uint32_t>(NextUtf8(rest).size_bytes);
    const double score_here = nodes_[at].score;
    const auto offer = [&](size_t size_bytes, double score, int32_t id) {
      Node& node = nodes_[at + size_bytes];
      if (node.id == kUnreached || score > node.score) node = {score, at, id};
    };
    bool has_character = false;
    table_.ForEachPrefix(rest, [&](uint32_t id) {
      const size_t size_bytes = table_.bytes(id).size();
      has_character = has_character || size_bytes == character_bytes;
      offer(size_bytes, score_here + table_.score(id), static_cast<int32_t>(id));
    });
    if (!has_character) offer(character_bytes, score_here + unknown_score_, kUnknown);
    at += character_bytes;
  }
}

void UnigramEncoder::AddUnknown(std::string_view text, std::vector<int32_t>& ids) const {
  // Unknown characters beside each other may be a token together, one that a better way lost to.
  if (const int32_t id = table_.Find(text); id >= 0) return ids.push_back(id);
  const auto byte_token = [this](char c) { return table_.byte_token(static_cast<uint8_t>(c)); };
  if (unknown_.byte_fallback && std::all_of(text.begin(), text.end(), [&](char c) { return byte_token(c) >= 0; })) {
    for (const char c : text) ids.push_back(byte_token(c));
  } else if (unknown_.unknown_id >= 0) {
    ids.push_back(unknown_.unknown_id);
  }
}

void UnigramEncoder::Encode(std::string_view word, std::vector<int32_t>& ids) {
  Search(word);
  ends_.clear();
  for (uint32_t end = static_cast<uint32_t>(word.size()); end > 0; end = nodes_[end].begin) ends_.push_back(end);
  for (size_t i = ends_.size(); i-- > 0;) {
    const Node& node = nodes_[ends_[i]];
    if (node.id != kUnknown) {
      ids.push_back(node.id);
      continue;
    }
    while (unknown_.fuse && i > 0 && nodes_[ends_[i - 1]].id == kUnknown) --i;
    AddUnknown(word.substr(node.begin, ends_[i] - node.begin), ids);
  }
}

}  // namespace frugal
