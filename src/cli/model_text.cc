#include "src/cli/model_text.h"

#include <algorithm>
#include <optional>

#include "src/cli/text_pieces.h"
#include "src/engine/tokenizer_load.h"
#include "src/model/model_file.h"

namespace frugal {
namespace {

std::string FileName(const std::string& path) { return path.substr(path.rfind('/') + 1); }

Result<PieceReader> OpenPieces(const ModelText& text, const std::optional<Tokenizer>& tokenizer, uint32_t piece_tokens) {
  if (!text.ids_path.empty()) {
    FRUGAL_ASSIGN(std::vector<int32_t> ids, ReadIdsFile(text.ids_path));
    return PieceReader::FromIds(std::move(ids), piece_tokens, text.max_tokens);
  }
  if (!text.built_in.empty()) {
    FRUGAL_ASSIGN(std::vector<int32_t> ids, tokenizer->Encode(std::string(text.built_in), SpecialTokens::kAdd));
    return PieceReader::FromIds(std::move(ids), piece_tokens, text.max_tokens);
  }
  const auto encode = [&tokenizer](const std::string& story) { return tokenizer->Encode(story, SpecialTokens::kAdd); };
  return PieceReader::FromText(text.path, text.separator, encode, piece_tokens, text.max_tokens);
}

}  // namespace

std::string ModelText::Name() const {
  if (!ids_path.empty()) return "ids:" + FileName(ids_path);
  return path.empty() ? "built in" : "text:" + FileName(path);
}

Result<TokenSequences> ReadModelText(const std::string& model_path, const ModelText& text, std::string_view ids_flag) {
  FRUGAL_ASSIGN(const ModelFile model, ModelFile::Open(model_path));
  std::optional<Tokenizer> tokenizer;
  if (text.ids_path.empty()) {
    FRUGAL_ASSIGN(const bool has_tokenizer, HasTokenizer(model));
    if (!has_tokenizer) return MakeError(ErrorCode::kUsage, "{} has no tokenizer: give token ids with {}", model_path, ids_flag);
    FRUGAL_ASSIGN(tokenizer, LoadTokenizer(model));
  }
  FRUGAL_ASSIGN(PieceReader reader, OpenPieces(text, tokenizer, std::min(text.piece_tokens, model.config().max_context)));
  TokenSequences sequences;
  std::vector<int32_t> piece;
  while (true) {
    FRUGAL_ASSIGN(const bool more, reader.Next(&piece));
    if (!more) break;
    sequences.push_back(piece);
  }
  if (sequences.empty()) return MakeError(ErrorCode::kUsage, "{}: the text is empty", text.path.empty() ? text.ids_path : text.path);
  return sequences;
}

std::string_view BuiltInText() {
  return "The mill at the end of the lane had not turned for eleven years. When the new owner came to look at it, the wheel was "
         "green with moss, and a family of ducks lived under the stairs. \"It will run before the winter,\" she said, and nobody "
         "in the village believed her. She began with the sluice. For a week she carried stones out of the stream, and in the "
         "evenings she wrote down how high the water stood at each hour. On the eighth day it rained, and by noon the wheel "
         "moved, slowly at first, then as if it had never stopped.\n\n"
         "Water is densest at about four degrees above its freezing point. For this reason a lake freezes from the top: as the "
         "surface cools below that temperature, the colder water no longer sinks, and ice forms above while fish live on at the "
         "bottom. Ice is a poor conductor of heat, so the thicker it grows, the more slowly it thickens. A layer of snow slows it "
         "down further. In a cold region a deep lake may carry half a metre of ice in March, and still hold liquid water of the "
         "same temperature that it had in December.\n\n"
         "To make a simple soup for four people, cut two onions and three carrots into small pieces and cook them in a little oil "
         "until they are soft. Add a litre of water, a cup of lentils, a bay leaf and some salt. Let it simmer for half an hour "
         "and stir it from time to time. If it becomes too thick, add more water. Before serving, take out the bay leaf and add "
         "the juice of half a lemon.\n\n"
         "The committee met on Tuesday to discuss the plan for the railway station. The first proposal would close the old "
         "entrance and build a new one on the north side, at a cost of 2.4 million. The second would repair the roof and leave "
         "everything else as it is. Several members asked who would pay for the lifts. After two hours the chairman said that a "
         "decision could be expected in June, when the results of the survey are known. Until then trains will continue to stop "
         "at platform 3.\n\n"
         "Question: A shop sells pencils in boxes of twelve. How many boxes does a teacher need so that each of her 29 pupils "
         "gets two pencils? Answer: 29 pupils need 58 pencils. Four boxes hold 48, which is too few, and five boxes hold 60, so "
         "she needs five boxes and two pencils are left over.\n";
}

}  // namespace frugal
