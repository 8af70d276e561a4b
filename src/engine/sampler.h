// Picks the next token from logits, as llama.cpp's users know it: repeat penalty, then top-k, top-p, min-p, temperature.
// temperature 0 is greedy (the first of equal maxima). Deterministic by seed. Allocates nothing after construction.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "src/base/random.h"
#include "src/base/result.h"

namespace frugal {

struct SamplerOptions {
  float temperature = 0.8f;
  uint32_t top_k = 40;         // 0: all
  float top_p = 0.95f;         // 1: off
  float min_p = 0.05f;         // 0: off
  float repeat_penalty = 1.0f;  // 1: off
  uint32_t repeat_last = 64;   // tokens the penalty looks back
  uint64_t seed = 0;
};

// kUsage naming the flag and its range.
Status ValidateSamplerOptions(const SamplerOptions& options);

class Sampler {
 public:
  Sampler(const SamplerOptions& options, uint32_t vocab_size);
  // `history`: all tokens so far, the prompt's too.
  int32_t Sample(std::span<const float> logits, std::span<const int32_t> history);

  static uint64_t MemoryBytes(uint32_t vocab_size) { return uint64_t{vocab_size} * sizeof(Candidate); }

 private:
  struct Candidate {
    float logit;
    int32_t id;
  };
  const SamplerOptions options_;
  Random random_;
  std::vector<Candidate> candidates_;  // [vocab_size]
};

// The index of the first largest element.
int32_t ArgMax(std::span<const float> logits);

}  // namespace frugal
