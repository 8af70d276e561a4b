#include "src/cli/training_text.h"

#include <algorithm>

#include "src/format/regular_file.h"
#include "src/text/utf8.h"

namespace frugal {
namespace {

constexpr size_t kSmallestSequence = 8;

// Whole characters of a piece that was cut out of a text anywhere: at most 3 bytes go at each end.
std::string_view TrimToCharacters(std::string_view text, bool cut_front, bool cut_back) {
  for (int i = 0;
       cut_front && i < 3 && !text.empty() && (static_cast<unsigned char>(text.front()) & 0xC0) == 0x80;
       ++i) {
    text.remove_prefix(1);
  }
  if (!cut_back) return text;
  for (size_t back = 1; back <= std::min<size_t>(3, text.size()); ++back) {
    if (NextUtf8(text.substr(text.size() - back)).state == Utf8State::kIncomplete) {
      return text.substr(0, text.size() - back);
    }
  }
  return text;
}

void CutIntoSequences(const std::vector<int32_t>& prefix, const std::vector<int32_t>& ids,
                      size_t sequence_tokens, std::vector<std::vector<int32_t>>& sequences) {
  const size_t body = sequence_tokens - prefix.size();
  for (size_t at = 0; at < ids.size(); at += body) {
    const size_t count = std::min(body, ids.size() - at);
    if (prefix.size() + count < kSmallestSequence) return;
    std::vector<int32_t>& sequence = sequences.emplace_back(prefix);
    sequence.insert(sequence.end(), ids.begin() + static_cast<std::ptrdiff_t>(at),
                    ids.begin() + static_cast<std::ptrdiff_t>(at + count));
  }
}

}  // namespace

Result<std::vector<std::vector<int32_t>>> ReadTrainingText(const std::string& path,
                                                           const Tokenizer& tokenizer,
                                                           const TrainingTextOptions& options) {
  FRUGAL_ASSIGN(const RegularFile file, OpenRegularFile(path));
  FRUGAL_ASSIGN(const std::vector<int32_t> prefix, tokenizer.Encode("", SpecialTokens::kAdd));
  if (prefix.size() >= options.sequence_tokens) {
    return MakeError(ErrorCode::kUsage, "sequences of {} tokens hold nothing behind the tokenizer's {}",
                     options.sequence_tokens, prefix.size());
  }
  // Pieces lie one behind the other when the text is short enough, else a stride apart.
  const uint64_t num_pieces = std::max<uint64_t>(
      1, (std::min(file.size_bytes, options.max_bytes) + options.piece_bytes - 1) / options.piece_bytes);
  const uint64_t stride_bytes = std::max(options.piece_bytes, file.size_bytes / num_pieces);
  std::vector<std::vector<int32_t>> sequences;
  std::string piece;
  for (uint64_t at = 0; at < file.size_bytes; at += stride_bytes) {
    piece.resize(std::min(options.piece_bytes, file.size_bytes - at));
    FRUGAL_TRY(ReadFully(file.fd.get(), path, at, std::as_writable_bytes(std::span(piece))));
    const std::string_view text = TrimToCharacters(piece, at > 0, at + piece.size() < file.size_bytes);
    Result<std::vector<int32_t>> ids = tokenizer.Encode(text, SpecialTokens::kOmit);
    if (!ids) return WithContext(std::move(ids).error(), path + ": piece at offset " + std::to_string(at));
    CutIntoSequences(prefix, *ids, options.sequence_tokens, sequences);
  }
  if (sequences.empty()) {
    return MakeError(ErrorCode::kUsage, "{}: too little text: a sequence needs {} tokens", path,
                     kSmallestSequence);
  }
  return sequences;
}

}  // namespace frugal
