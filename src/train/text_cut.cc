#include "src/train/text_cut.h"

#include <algorithm>

namespace frugal {
namespace {

constexpr uint32_t kLeastSequences = 10;
constexpr uint32_t kLeastSequenceTokens = 8;

uint32_t SequenceTokens(const TrainOptions& options, const ModelConfig& config, uint64_t num_tokens) {
  const uint32_t longest = std::min(options.sequence_tokens, config.max_context);
  const uint64_t for_ten =
      std::max<uint64_t>(kLeastSequenceTokens, (num_tokens + kLeastSequences - 1) / kLeastSequences);
  return static_cast<uint32_t>(std::min<uint64_t>(longest, for_ten));
}

}  // namespace

int32_t FirstToken(const ModelConfig& config) {
  const int32_t token = config.bos_id >= 0 ? config.bos_id : config.eos_id;
  return token >= 0 && static_cast<uint32_t>(token) < config.vocab_size ? token : 0;
}

TextSize SampledTextSize(const TrainOptions& options, const ModelConfig& config) {
  TextSize size;
  size.longest = SequenceTokens(options, config, options.num_tokens);
  size.num_sequences =
      std::max<uint64_t>(kLeastSequences, (options.num_tokens + size.longest - 1) / size.longest);
  size.num_tokens = size.num_sequences * size.longest;
  return size;
}

Result<TokenSequences> CutText(const TrainOptions& options, const ModelConfig& config) {
  uint64_t num_tokens = 0;
  for (const std::vector<int32_t>& sequence : options.sequences) {
    num_tokens += sequence.size();
    for (const int32_t id : sequence) {
      if (id >= 0 && static_cast<uint32_t>(id) < config.vocab_size) continue;
      return MakeError(ErrorCode::kUsage, "the text holds token {}, the vocabulary has {} tokens", id,
                       config.vocab_size);
    }
  }
  const int32_t first = FirstToken(config);
  const uint32_t length = SequenceTokens(options, config, std::min(num_tokens, options.num_tokens));
  TokenSequences pieces;
  for (const std::vector<int32_t>& sequence : options.sequences) {
    for (size_t begin = 0; begin < sequence.size();) {
      std::vector<int32_t> piece;
      if (sequence[begin] != first) piece.push_back(first);
      const size_t end = std::min(sequence.size(), begin + length - piece.size());
      piece.insert(piece.end(), sequence.begin() + static_cast<std::ptrdiff_t>(begin),
                   sequence.begin() + static_cast<std::ptrdiff_t>(end));
      begin = end;
      if (piece.size() >= kLeastSequenceTokens) pieces.push_back(std::move(piece));
    }
  }
  const uint64_t wanted = std::max<uint64_t>(kLeastSequences, (options.num_tokens + length - 1) / length);
  if (pieces.size() > wanted) {
    TokenSequences spread;
    for (uint64_t i = 0; i < wanted; ++i) spread.push_back(std::move(pieces[i * pieces.size() / wanted]));
    pieces = std::move(spread);
  }
  if (pieces.size() < 3) {
    return MakeError(ErrorCode::kUsage,
                     "the text has {} tokens, too few to train on and to hold some of them out", num_tokens);
  }
  return pieces;
}

}  // namespace frugal
