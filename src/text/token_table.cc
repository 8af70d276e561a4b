#include "src/text/token_table.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "src/base/bytes.h"
#include "src/base/random.h"
#include "src/text/byte_alphabet.h"
#include "src/text/utf8.h"

namespace frugal {
namespace {

// Three quarters full: linear probing then looks at 2.5 slots for a hit and 8.5 for a miss (Knuth, volume
// 3, 6.4).
uint64_t SlotsFor(uint64_t count) { return count + count / 3 + 1; }

// The finaliser of MurmurHash3 (Appleby, public domain).
uint64_t Mix(uint64_t h) {
  h = (h ^ (h >> 33)) * 0xff51afd7ed558ccdULL;
  h = (h ^ (h >> 33)) * 0xc4ceb9fe1a85ec53ULL;
  return h ^ (h >> 33);
}

// [0, count) without a division (Lemire 2019, arXiv 1805.10941).
uint64_t Scale(uint64_t hash, uint64_t count) {
  return static_cast<uint64_t>((static_cast<Wide>(hash) * count) >> 64);
}

template <typename T>
std::span<T> Carve(AlignedBuffer& arena, uint64_t count, uint64_t& offset_bytes) {
  T* first = reinterpret_cast<T*>(arena.data() + offset_bytes);
  offset_bytes += count * sizeof(T);
  return {first, count};
}

}  // namespace

uint64_t TokenTable::ArenaBytes(const Sizes& sizes) {
  const uint64_t score_bytes = sizes.has_scores ? (sizeof(double) + sizeof(uint32_t)) * sizes.num_tokens : 0;
  return score_bytes + sizeof(uint32_t) * (sizes.num_tokens + 1 + SlotsFor(sizes.num_tokens) + SlotsFor(sizes.num_merges)) +
         sizeof(Merge) * sizes.num_merges + sizeof(uint16_t) * sizes.num_tokens + sizes.token_bytes;
}

Result<TokenTable> TokenTable::Allocate(const Sizes& sizes, TokenSpelling spelling) {
  const auto check = [](uint64_t value, uint64_t max, std::string_view what) -> Status {
    if (value > max) return BadModel("{} {} in the vocabulary, at most {} are supported", value, what, max);
    return {};
  };
  FRUGAL_TRY(check(sizes.num_tokens, kMaxTokens, "tokens"));
  FRUGAL_TRY(check(sizes.num_merges, kMaxMerges, "merges"));
  FRUGAL_TRY(check(sizes.token_bytes, kMaxTokenBytes, "bytes of text"));
  TokenTable table;
  FRUGAL_ASSIGN(table.arena_, AlignedBuffer::Allocate(ArenaBytes(sizes)));
  table.spelling_ = spelling;
  uint64_t offset_bytes = 0;
  const uint64_t num_scores = sizes.has_scores ? sizes.num_tokens : 0;
  table.scores_ = Carve<double>(table.arena_, num_scores, offset_bytes);
  table.by_text_ = Carve<uint32_t>(table.arena_, num_scores, offset_bytes);
  table.offsets_ = Carve<uint32_t>(table.arena_, sizes.num_tokens + 1, offset_bytes);
  table.token_slots_ = Carve<uint32_t>(table.arena_, SlotsFor(sizes.num_tokens), offset_bytes);
  table.merge_slots_ = Carve<uint32_t>(table.arena_, SlotsFor(sizes.num_merges), offset_bytes);
  table.merges_ = Carve<Merge>(table.arena_, sizes.num_merges, offset_bytes);
  table.flags_ = Carve<uint16_t>(table.arena_, sizes.num_tokens, offset_bytes);
  table.text_ = Carve<char>(table.arena_, sizes.token_bytes, offset_bytes);
  table.byte_tokens_.fill(-1);
  return table;
}

uint64_t TokenTable::SlotOf(std::string_view bytes, Form form) const {
  uint64_t h = 0xcbf29ce484222325ULL + static_cast<uint64_t>(form);  // FNV-1a
  for (const char c : bytes) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return Scale(Mix(h), token_slots_.size());
}

uint64_t TokenTable::SlotOf(uint32_t left, uint32_t right) const {
  // An odd factor first: the finaliser alone maps (0, 0) to 0 and keeps small pairs close together in their
  // high bits.
  const uint64_t key = (static_cast<uint64_t>(left) << 32 | right) + 1;
  return Scale(Mix(key * 0x9e3779b97f4a7c15ULL), merge_slots_.size());
}

int32_t TokenTable::FindKey(std::string_view key, Form key_form) const {
  for (uint64_t slot = SlotOf(key, key_form); token_slots_[slot] != 0;) {
    const uint32_t id = token_slots_[slot] - 1;
    if (form(id) == key_form && bytes(id) == key) return static_cast<int32_t>(id);
    if (++slot == token_slots_.size()) slot = 0;
  }
  return -1;
}

int32_t TokenTable::FindSpelled(std::string_view spelled) const {
  std::string decoded;
  if (spelling_ == TokenSpelling::kByteLevel && TryDecodeByteLevel(spelled, decoded)) {
    return FindKey(decoded, Form::kBytes);
  }
  return FindKey(spelled, Form::kLiteral);
}

uint32_t TokenTable::FindMerge(uint32_t left, uint32_t right) const {
  for (uint64_t slot = SlotOf(left, right); merge_slots_[slot] != 0;) {
    const uint32_t rank = merge_slots_[slot] - 1;
    if (merges_[rank].left == left && merges_[rank].right == right) return rank;
    if (++slot == merge_slots_.size()) slot = 0;
  }
  return kNoMerge;
}

Status TokenTable::AddToken(std::string_view spelled, TokenKind kind, double score) {
  const uint32_t id = num_tokens_;
  if (id == flags_.size()) return BadModel("more than the {} tokens announced", flags_.size());
  if (kind < TokenKind::kNormal || kind > TokenKind::kByte) {
    return BadModel("token {}: kind {} is unknown", id, static_cast<int>(kind));
  }
  if (spelled.empty() && kind != TokenKind::kUnused) return BadModel("token {} is empty", id);
  if (const auto broken = FindInvalidUtf8(spelled)) {
    return BadModel("token {} {}: not UTF-8 at byte {}", id, Quoted(spelled), *broken);
  }
  if (std::isnan(score)) return BadModel("token {} {}: its score is no number", id, Quoted(spelled));
  const bool is_plain = spelling_ == TokenSpelling::kPlain;
  // Nothing can make an unused token; in a byte-level vocabulary it is a hole, which decodes to nothing.
  if (kind == TokenKind::kUnused && !is_plain) spelled = {};
  std::string text;
  Form token_form = Form::kBytes;
  if (is_plain || !TryDecodeByteLevel(spelled, text)) {
    token_form = Form::kLiteral;
    text.assign(spelled);
  }
  const uint32_t begin = offsets_[id];
  if (text.size() > text_.size() - begin) {
    return BadModel("token {}: more text than the {} bytes announced", id, text_.size());
  }
  if (kind != TokenKind::kUnused) {
    const int32_t known = FindKey(text, token_form);
    if (known >= 0) return BadModel("tokens {} and {} are the same: {}", known, id, Quoted(spelled));
  }
  std::copy(text.begin(), text.end(), text_.begin() + begin);
  offsets_[id + 1] = static_cast<uint32_t>(begin + text.size());
  flags_[id] = static_cast<uint16_t>(static_cast<unsigned>(kind) | static_cast<unsigned>(token_form));
  if (!scores_.empty()) scores_[id] = score;
  ++num_tokens_;
  if (kind != TokenKind::kUnused) InsertToken(id);
  return {};
}

void TokenTable::InsertToken(uint32_t id) {
  const std::string_view text = bytes(id);
  uint64_t slot = SlotOf(text, form(id));
  while (token_slots_[slot] != 0) {
    if (++slot == token_slots_.size()) slot = 0;
  }
  token_slots_[slot] = id + 1;
  std::optional<uint8_t> byte;
  if (spelling_ == TokenSpelling::kPlain) {
    byte = ParseByteToken(text);
  } else if (text.size() == 1 && form(id) == Form::kBytes) {
    byte = static_cast<uint8_t>(text[0]);
  }
  if (byte) byte_tokens_[*byte] = static_cast<int32_t>(id);
}

Status TokenTable::AddMerge(std::string_view left_right) {
  const uint32_t rank = num_merges_;
  if (rank == merges_.size()) return BadModel("more than the {} merges announced", merges_.size());
  const size_t space = left_right.find(' ');
  if (space == 0 || space == std::string_view::npos || space + 1 == left_right.size() ||
      left_right.find(' ', space + 1) != std::string_view::npos) {
    return BadModel("merge {} {}: expected two tokens with one space between them", rank, Quoted(left_right));
  }
  const std::string_view left = left_right.substr(0, space);
  const std::string_view right = left_right.substr(space + 1);
  const int32_t left_id = FindSpelled(left);
  const int32_t right_id = FindSpelled(right);
  if (left_id < 0 || right_id < 0) {
    return BadModel("merge {}: {} is not in the vocabulary", rank, Quoted(left_id < 0 ? left : right));
  }
  const std::string joined = std::string(left) + std::string(right);
  const int32_t result = FindSpelled(joined);
  if (result < 0) return BadModel("merge {}: its result {} is not in the vocabulary", rank, Quoted(joined));

  merges_[rank] = {static_cast<uint32_t>(left_id), static_cast<uint32_t>(right_id),
                   static_cast<uint32_t>(result)};
  uint64_t slot = SlotOf(merges_[rank].left, merges_[rank].right);
  while (merge_slots_[slot] != 0) {
    const Merge& other = merges_[merge_slots_[slot] - 1];
    if (other.left == merges_[rank].left && other.right == merges_[rank].right) break;
    if (++slot == merge_slots_.size()) slot = 0;
  }
  merge_slots_[slot] = rank + 1;
  ++num_merges_;
  return {};
}

Status TokenTable::Complete() {
  if (num_tokens_ != flags_.size())
    return BadModel("{} tokens, {} were announced", num_tokens_, flags_.size());
  if (num_merges_ != merges_.size())
    return BadModel("{} merges, {} were announced", num_merges_, merges_.size());
  if (by_text_.empty()) return {};
  for (uint32_t id = 0; id < num_tokens_; ++id) by_text_[id] = id;
  std::sort(by_text_.begin(), by_text_.end(), [this](uint32_t a, uint32_t b) { return bytes(a) < bytes(b); });
  uint32_t at = 0;
  while (at < num_tokens_ && bytes(by_text_[at]).empty()) ++at;
  for (unsigned byte = 0; byte < 256; ++byte) {
    by_first_byte_[byte] = at;
    while (at < num_tokens_ && static_cast<unsigned char>(bytes(by_text_[at])[0]) == byte) ++at;
  }
  by_first_byte_[256] = at;
  return {};
}

void TokenTable::ForEachPrefix(std::string_view text, FunctionRef<void(uint32_t id)> token) const {
  if (text.empty() || by_text_.empty()) return;
  const unsigned first = static_cast<unsigned char>(text[0]);
  std::span<const uint32_t> sorted(by_text_);
  sorted = sorted.subspan(by_first_byte_[first], by_first_byte_[first + 1] - by_first_byte_[first]);
  // Invariant: `sorted` are the tokens that begin with text[0, depth).
  for (size_t depth = 1; !sorted.empty(); ++depth) {
    while (!sorted.empty() && bytes(sorted.front()).size() == depth) {
      if (kind(sorted.front()) != TokenKind::kUnused) token(sorted.front());
      sorted = sorted.subspan(1);
    }
    if (depth == text.size()) return;
    const auto byte_of = [&](uint32_t id) { return static_cast<unsigned char>(bytes(id)[depth]); };
    const unsigned char byte = static_cast<unsigned char>(text[depth]);
    const auto low =
        std::partition_point(sorted.begin(), sorted.end(), [&](uint32_t id) { return byte_of(id) < byte; });
    const auto high =
        std::partition_point(low, sorted.end(), [&](uint32_t id) { return byte_of(id) == byte; });
    sorted = {low, high};
  }
}

}  // namespace frugal
