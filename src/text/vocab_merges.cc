// vocab.json + merges.txt: GPT-2's own files. vocab.json: {"token": id, ...}; merges.txt: "#version: 0.2",
// then a merge a line, "left right", by rank.
#include <string>
#include <string_view>

#include "src/text/utf8.h"
#include "src/text/vocabulary_parts.h"

namespace frugal {
namespace {

Status ReadMerges(std::string_view text, std::vector<std::string>& merges) {
  if (const auto broken = FindInvalidUtf8(text)) return BadModel("merges: not UTF-8 at byte {}", *broken);
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  for (size_t line_number = 1; !text.empty(); ++line_number) {
    const size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    // A carriage return is spelled U+010D in a merge, so this one is of a line end.
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || line.starts_with("#version")) continue;
    const size_t space = line.find(' ');
    if (space == 0 || space == std::string_view::npos || space + 1 == line.size() ||
        line.find(' ', space + 1) != std::string_view::npos) {
      return BadModel("merges: line {}: {}: expected two tokens with one space between them", line_number,
                      Quoted(line));
    }
    merges.emplace_back(line);
  }
  return {};
}

Status MakeSpecial(std::string_view content, Vocabulary& vocabulary) {
  return PlaceAddedToken(MakeAddedToken(FindTokenId(vocabulary, content), content, /*special*/ 1),
                         vocabulary);
}

}  // namespace

Result<Vocabulary> ParsePlainVocabAndMerges(std::string_view vocab_json, std::string_view merges_txt,
                                            const std::string& name) {
  FRUGAL_ASSIGN(TokenizerDocument document,
                ParseTokenizerDocument(vocab_json, TokenizerDocumentKind::kVocabJson, name));
  Vocabulary vocabulary;
  const auto fill = [&]() -> Status {
    FRUGAL_TRY(PlaceTokens(std::move(document.entries), vocabulary));
    return ReadMerges(merges_txt, vocabulary.merges);
  };
  if (Status status = fill(); !status) return WithContext(std::move(status).error(), name);
  return vocabulary;
}

Status AddDefaultSpecialTokens(Vocabulary& vocabulary) {
  constexpr int32_t kOptPad = 1, kOptEnd = 2;
  if (FindTokenId(vocabulary, "</s>") == kOptEnd && FindTokenId(vocabulary, "<pad>") == kOptPad) {
    FRUGAL_TRY(MakeSpecial("</s>", vocabulary));
    FRUGAL_TRY(MakeSpecial("<pad>", vocabulary));
    vocabulary.bos_id = vocabulary.eos_id = vocabulary.unk_id = kOptEnd;
    vocabulary.pad_id = kOptPad;
    vocabulary.prefix_ids = {kOptEnd};
  } else if (const int32_t end = FindTokenId(vocabulary, "<|endoftext|>"); end >= 0) {
    FRUGAL_TRY(MakeSpecial("<|endoftext|>", vocabulary));
    vocabulary.bos_id = vocabulary.eos_id = vocabulary.unk_id = end;
  }
  return {};
}

Result<Vocabulary> ParseVocabAndMerges(std::string_view vocab_json, std::string_view merges_txt,
                                       const std::string& name) {
  FRUGAL_ASSIGN(Vocabulary vocabulary, ParsePlainVocabAndMerges(vocab_json, merges_txt, name));
  if (Status status = AddDefaultSpecialTokens(vocabulary); !status)
    return WithContext(std::move(status).error(), name);
  return vocabulary;
}

}  // namespace frugal
