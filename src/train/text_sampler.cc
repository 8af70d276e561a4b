#include "src/train/text_sampler.h"

#include <algorithm>

#include "src/base/random.h"
#include "src/kernels/kernels.h"
#include "src/model/forward.h"
#include "src/train/text_cut.h"

namespace frugal {
namespace {

// `probabilities` is overwritten.
int32_t Draw(std::span<const float> logits, std::vector<float>& probabilities, Random& random) {
  probabilities.assign(logits.begin(), logits.end());
  Softmax(probabilities.data(), probabilities.size());
  double left = random.Uniform();
  size_t last = 0;
  for (size_t i = 0; i < probabilities.size(); ++i) {
    if (probabilities[i] <= 0.0f) continue;
    last = i;
    left -= static_cast<double>(probabilities[i]);
    if (left < 0.0) break;
  }
  return static_cast<int32_t>(last);  // the last possible token when rounding left something over
}

}  // namespace

Result<TokenSequences> SampleText(Weights& weights, ThreadPool& pool, uint64_t num_sequences,
                                  uint32_t sequence_tokens, uint32_t batch, uint64_t seed,
                                  const std::atomic<bool>* cancel, FunctionRef<void(double share)> progress) {
  const ModelConfig& config = weights.model().config();
  AllSelector selector(config.ffn_size);
  Forward forward(weights, selector, nullptr, pool, batch, batch, sequence_tokens);
  std::vector<KvCache> caches;
  for (uint32_t i = 0; i < batch; ++i) {
    FRUGAL_ASSIGN(KvCache kv, KvCache::Create(config, config.num_layers, sequence_tokens, DType::kF16));
    caches.push_back(std::move(kv));
  }
  TokenSequences text(num_sequences);
  std::vector<float> probabilities;
  std::vector<BatchRow> rows;
  for (uint64_t first = 0; first < num_sequences; first += batch) {
    const uint32_t count = static_cast<uint32_t>(std::min<uint64_t>(batch, num_sequences - first));
    std::vector<Random> randoms;
    for (uint32_t i = 0; i < count; ++i) {
      randoms.emplace_back(seed * 0x9e3779b97f4a7c15ULL + first + i);
      text[first + i] = {FirstToken(config)};
    }
    for (uint32_t position = 0; position + 1 < sequence_tokens; ++position) {
      if (cancel != nullptr && cancel->load()) return MakeError(ErrorCode::kFailed, "interrupted");
      rows.clear();
      for (uint32_t i = 0; i < count; ++i) rows.push_back({&caches[i], text[first + i].back(), position});
      FRUGAL_TRY(forward.Step(rows, count));
      for (uint32_t i = 0; i < count; ++i) {
        const auto logits = forward.logits().subspan(size_t{i} * config.vocab_size, config.vocab_size);
        text[first + i].push_back(Draw(logits, probabilities, randoms[i]));
      }
      progress((static_cast<double>(first) + count * (static_cast<double>(position + 1) / sequence_tokens)) /
               static_cast<double>(num_sequences));
    }
  }
  return text;
}

}  // namespace frugal
