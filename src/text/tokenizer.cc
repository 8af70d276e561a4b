#include "src/text/tokenizer.h"

#include <new>

#include "src/base/bytes.h"
#include "src/text/bpe.h"
#include "src/text/tokenizer_builder.h"
#include "src/text/tokenizer_impl.h"
#include "src/text/utf8.h"

namespace frugal {
namespace {

constexpr uint64_t kPageBytes = 4096;  // of the arena, which is a mapping of its own

// The two compiled expressions take 1.3 KiB with PCRE2 10.42; memory_bytes() counts what they really take.
constexpr uint64_t kExpressionBytes = 2048;

// One call of Encode: a text goes through the added tokens of the raw text, those of the normalised text,
// words, merges.
class Encoder {
 public:
  Encoder(const TokenizerParts& parts, std::vector<int32_t>& ids)
      : parts_(parts), ids_(ids), scratch_(parts.pre_tokenizer), bpe_(parts.table, parts.unknown_id) {}

  Status Run(std::string_view text) {
    Split(text, AddedTokenPass::kRaw, [this](std::string_view raw) {
      Split(raw, AddedTokenPass::kNormalized, [this](std::string_view piece) { AddPiece(piece); });
    });
    return status_;
  }

 private:
  void Split(std::string_view text, AddedTokenPass pass, FunctionRef<void(std::string_view)> on_text) {
    parts_.added_tokens.Split(text, pass, parts_.table, parts_.pre_tokenizer, scratch_, on_text,
                              [this](int32_t id) { ids_.push_back(id); });
  }

  void AddPiece(std::string_view piece) {
    if (!status_) return;
    std::string with_space;
    if (parts_.add_prefix_space && piece[0] != ' ') {
      with_space.reserve(piece.size() + 1);
      with_space.append(" ").append(piece);
      piece = with_space;
    }
    if (!parts_.use_regex) return AddWord(piece);
    status_ = parts_.pre_tokenizer.Split(piece, scratch_, [this](std::string_view word) { AddWord(word); });
  }

  void AddWord(std::string_view word) {
    if (parts_.ignore_merges) {
      const int32_t id = parts_.table.Find(word);
      if (id >= 0) return ids_.push_back(id);
    }
    bpe_.Encode(word, ids_);
  }

  const TokenizerParts& parts_;
  std::vector<int32_t>& ids_;
  PreTokenizer::Scratch scratch_;
  BpeEncoder bpe_;
  Status status_;
};

// What can be said of `text` now: whole characters, and U+FFFD for broken ones. Removes it from `text`.
std::string TakeWholeCharacters(std::string& text) {
  std::string out;
  size_t at = 0;
  while (at < text.size()) {
    const Utf8Step step = NextUtf8(std::string_view(text).substr(at));
    if (step.state == Utf8State::kIncomplete) break;
    if (step.state == Utf8State::kWhole) {
      out.append(text, at, step.size_bytes);
    } else {
      AppendUtf8(step.code_point, out);
    }
    at += step.size_bytes;
  }
  text.erase(0, at);
  return out;
}

}  // namespace

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Result<Tokenizer> Tokenizer::Create(const Vocabulary& vocabulary, const std::string& name) {
  if (vocabulary.kinds.size() != vocabulary.tokens.size()) {
    return BadModel("{}: {} kinds of {} tokens", name, vocabulary.kinds.size(), vocabulary.tokens.size());
  }
  uint64_t token_bytes = 0;
  for (const std::string& token : vocabulary.tokens) token_bytes += token.size();
  TokenizerBuilder builder(vocabulary, vocabulary.tokens.size(), vocabulary.merges.size(), token_bytes);
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    Status status = builder.AddToken(vocabulary.tokens[id], vocabulary.kinds[id]);
    if (!status) return WithContext(std::move(status).error(), name);
  }
  for (const std::string& merge : vocabulary.merges) {
    Status status = builder.AddMerge(merge);
    if (!status) return WithContext(std::move(status).error(), name);
  }
  return builder.Finish(name);
}

Result<std::vector<int32_t>> Tokenizer::Encode(std::string_view text, SpecialTokens special) const {
  if (text.size() > kMaxTextBytes) {
    return MakeError(ErrorCode::kUsage, "the text has {} bytes, at most {} are supported", text.size(),
                     kMaxTextBytes);
  }
  if (const auto broken = FindInvalidUtf8(text)) {
    return MakeError(ErrorCode::kUsage, "the text is not UTF-8 at byte {} of {}", *broken, text.size());
  }
  try {
    std::vector<int32_t> ids;
    if (special == SpecialTokens::kAdd) ids = impl_->prefix_ids;
    FRUGAL_TRY(Encoder(*impl_, ids).Run(text));
    if (special == SpecialTokens::kAdd) {
      ids.insert(ids.end(), impl_->suffix_ids.begin(), impl_->suffix_ids.end());
    }
    return ids;
  } catch (const std::bad_alloc&) {
    return MakeError(ErrorCode::kOutOfMemory, "no memory to tokenise a text of {} bytes", text.size());
  }
}

std::string Tokenizer::Decode(std::span<const int32_t> ids, ShowSpecial show) const {
  std::string bytes;
  for (const int32_t id : ids) {
    if (show == ShowSpecial::kYes || !IsSpecial(id)) bytes += TokenBytes(id);
  }
  Utf8Stream stream;
  std::string text = stream.Push(bytes);
  return text + stream.Flush();
}

std::string_view Tokenizer::TokenBytes(int32_t id) const {
  if (id < 0 || id >= vocab_size()) return {};
  return impl_->table.bytes(static_cast<uint32_t>(id));
}

bool Tokenizer::IsSpecial(int32_t id) const {
  return id >= 0 && id < vocab_size() && impl_->IsSpecial(static_cast<uint32_t>(id));
}

int32_t Tokenizer::vocab_size() const { return static_cast<int32_t>(impl_->table.num_tokens()); }

int32_t Tokenizer::FindToken(std::string_view spelled) const { return impl_->table.FindSpelled(spelled); }

uint64_t Tokenizer::max_token_bytes() const { return impl_->max_token_bytes; }

uint64_t Tokenizer::memory_bytes() const {
  return sizeof(Impl) + RoundUp(impl_->table.memory_bytes(), kPageBytes) +
         impl_->pre_tokenizer.memory_bytes() + impl_->added_tokens.memory_bytes() +
         (impl_->prefix_ids.capacity() + impl_->suffix_ids.capacity()) * sizeof(int32_t);
}

uint64_t Tokenizer::EstimateMemoryBytes(uint64_t num_tokens, uint64_t num_merges, uint64_t total_token_bytes,
                                        uint64_t num_added_tokens) {
  const uint64_t arena_bytes = TokenTable::ArenaBytes({num_tokens, num_merges, total_token_bytes});
  return sizeof(Impl) + RoundUp(arena_bytes, kPageBytes) + kExpressionBytes +
         num_added_tokens * sizeof(AddedTokenMatcher::Entry);
}

std::string Utf8Stream::Push(std::string_view bytes) {
  pending_ += bytes;
  return TakeWholeCharacters(pending_);
}

std::string Utf8Stream::Flush() {
  std::string rest;
  if (!pending_.empty()) AppendUtf8(0xFFFD, rest);  // the beginning of one character, so one mark
  pending_.clear();
  return rest;
}

}  // namespace frugal
