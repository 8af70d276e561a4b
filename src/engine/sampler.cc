#include "src/engine/sampler.h"

#include <algorithm>
#include <cmath>

namespace frugal {

Status ValidateSamplerOptions(const SamplerOptions& options) {
  const auto check = [](const char* flag, float value, float low, float high) -> Status {
    if (value >= low && value <= high) return {};
    return MakeError(ErrorCode::kUsage, "{}: {} is out of range {}..{}", flag, value, low, high);
  };
  FRUGAL_TRY(check("--temp", options.temperature, 0.0f, 100.0f));
  FRUGAL_TRY(check("--top-p", options.top_p, 0.0f, 1.0f));
  FRUGAL_TRY(check("--min-p", options.min_p, 0.0f, 1.0f));
  return check("--repeat-penalty", options.repeat_penalty, 0.01f, 100.0f);
}

int32_t ArgMax(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

Sampler::Sampler(const SamplerOptions& options, uint32_t vocab_size)
    : options_(options), random_(options.seed), candidates_(vocab_size) {}

int32_t Sampler::Sample(std::span<const float> logits, std::span<const int32_t> history) {
  CHECK(logits.size() == candidates_.size());
  for (size_t i = 0; i < logits.size(); ++i) candidates_[i] = {logits[i], static_cast<int32_t>(i)};
  if (options_.repeat_penalty != 1.0f) {
    const size_t look_back = std::min<size_t>(history.size(), options_.repeat_last);
    for (const int32_t id : history.last(look_back)) {
      // Each id once, as CTRL (Keskar et al. 2019) has it: dividing again for every repetition would grow without bound.
      const float logit = logits[id];
      candidates_[id].logit = logit > 0 ? logit / options_.repeat_penalty : logit * options_.repeat_penalty;
    }
  }
  const auto before = [](const Candidate& a, const Candidate& b) { return a.logit != b.logit ? a.logit > b.logit : a.id < b.id; };
  if (options_.temperature == 0.0f) return std::min_element(candidates_.begin(), candidates_.end(), before)->id;

  size_t count = candidates_.size();
  if (options_.top_k > 0) count = std::min<size_t>(count, options_.top_k);
  std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(count), candidates_.end(), before);
  const float top = candidates_[0].logit;
  const auto sum_of = [&](size_t size, float temperature) {
    double sum = 0;
    for (size_t i = 0; i < size; ++i) sum += std::exp(static_cast<double>((candidates_[i].logit - top) / temperature));
    return sum;
  };
  if (options_.top_p < 1.0f) {
    const double sum = sum_of(count, 1.0f);
    double share = 0;
    size_t kept = 0;
    while (kept < count && (kept == 0 || share < static_cast<double>(options_.top_p))) {
      share += std::exp(static_cast<double>(candidates_[kept].logit - top)) / sum;
      ++kept;
    }
    count = kept;
  }
  if (options_.min_p > 0.0f) {
    while (count > 1 && std::exp(candidates_[count - 1].logit - top) < options_.min_p) --count;
  }
  double left = random_.Uniform() * sum_of(count, options_.temperature);
  for (size_t i = 0; i < count; ++i) {
    left -= std::exp(static_cast<double>((candidates_[i].logit - top) / options_.temperature));
    if (left < 0) return candidates_[i].id;
  }
  return candidates_[count - 1].id;
}

}  // namespace frugal
