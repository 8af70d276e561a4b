// Runs pieces of token ids through an engine, forced: perplexity as llama-perplexity computes it, and what
// the run read. Pieces are independent of each other; a piece's first id is not scored.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "src/cli/run_report.h"
#include "src/cli/text_pieces.h"
#include "src/engine/engine.h"

namespace frugal {

// -log of the probability that softmax(logits) gives `id`, natural logarithm. id is inside the vocabulary.
double NegativeLogLikelihood(std::span<const float> logits, int32_t id);

// Means over the scored ids.
struct Perplexity {
  uint64_t num_scored = 0;
  double sum = 0, sum_of_squares = 0;

  void Add(double nll) {
    ++num_scored;
    sum += nll;
    sum_of_squares += nll * nll;
  }
  double value() const;  // exp(mean)
  double error() const;  // of the value: one standard deviation of the mean, carried through exp
};

// Adds the numbers of one phase to those of others.
void AddPhase(const PhaseReport& phase, PhaseReport* sum);

// Which row of a step an observation's row 0 is.
struct StepPlace {
  uint64_t first_token = 0;     // of all tokens of all pieces
  uint32_t first_position = 0;  // in its piece
};

struct EvalOptions {
  uint32_t rows = 1;  // ids of a step, at most the plan's max_logit_rows
  uint32_t skip = 0;  // traffic is counted from this position of a piece on
  std::function<Status(const StepPlace&, const LayerObservation&)> observe;  // may be empty
  std::function<Status(std::span<const float>)> take_logits;             // of every position; may be empty
  std::function<void(const Perplexity&, uint64_t num_tokens)> progress;  // after a piece; may be empty
};

struct EvalResult {
  Perplexity perplexity;
  uint64_t num_tokens = 0;  // run
  uint64_t num_pieces = 0;
  PhaseReport traffic;  // of the tokens at position `skip` and later
  double sampled_recall = -1;
};

// kFailed "interrupted" after Ctrl-C; the engine's errors.
Result<EvalResult> Evaluate(Engine& engine, PieceReader& pieces, const EvalOptions& options);
// The same of sequences, each a piece of its own, none of them empty.
Result<EvalResult> EvaluateSequences(Engine& engine, std::span<const std::vector<int32_t>> sequences, const EvalOptions& options);

}  // namespace frugal
