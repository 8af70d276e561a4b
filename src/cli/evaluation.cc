#include "src/cli/evaluation.h"

#include <algorithm>
#include <cmath>

#include "src/cli/common.h"

namespace frugal {

double NegativeLogLikelihood(std::span<const float> logits, int32_t id) {
  const double largest = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - largest);
  return std::log(sum) + largest - static_cast<double>(logits[static_cast<size_t>(id)]);
}

double Perplexity::value() const {
  return num_scored == 0 ? 0.0 : std::exp(sum / static_cast<double>(num_scored));
}

double Perplexity::error() const {
  if (num_scored < 2) return 0.0;
  const double count = static_cast<double>(num_scored);
  const double mean = sum / count;
  const double variance = std::max(0.0, sum_of_squares / count - mean * mean);
  return std::sqrt(variance / (count - 1)) * value();
}

void AddPhase(const PhaseReport& phase, PhaseReport* sum) {
  sum->num_tokens += phase.num_tokens;
  sum->elapsed_ns += phase.elapsed_ns;
  sum->num_reads += phase.num_reads;
  sum->bytes_read += phase.bytes_read;
  sum->ffn_bytes_read += phase.ffn_bytes_read;
  sum->busy_ns += phase.busy_ns;
  sum->stall_ns += phase.stall_ns;
  sum->num_hits += phase.num_hits;
  sum->num_late_hits += phase.num_late_hits;
  sum->num_misses += phase.num_misses;
  sum->num_retries += phase.num_retries;
  sum->num_slow += phase.num_slow;
}

namespace {

// One piece; `piece` is not empty.
Status EvaluatePiece(Engine& engine, Session& session, std::span<const int32_t> piece,
                     const EvalOptions& options, EvalResult* result) {
  session.Rewind(0);
  EngineStatistics before;
  for (size_t at = 0; at < piece.size();) {
    if (interrupted()) return Error{ErrorCode::kFailed, "interrupted"};
    // A step does not straddle the place where counting begins.
    const size_t end = at < options.skip ? std::min<size_t>(piece.size(), options.skip) : piece.size();
    const size_t count = std::min<size_t>(options.rows, end - at);
    if (at == options.skip) before = engine.statistics();
    const StepPlace place = {result->num_tokens + at, static_cast<uint32_t>(at)};
    const auto observe = [&](const LayerObservation& observation) {
      return options.observe(place, observation);
    };
    const LayerObserver observer(observe);
    FRUGAL_TRY(engine.Step(session, piece.subspan(at, count), static_cast<uint32_t>(count),
                           options.observe ? &observer : nullptr));
    for (uint32_t row = 0; row < count; ++row) {
      if (options.take_logits) FRUGAL_TRY(options.take_logits(engine.logits(row)));
      if (at + row + 1 == piece.size()) break;
      const int32_t next = piece[at + row + 1];
      if (next < 0 || static_cast<uint32_t>(next) >= engine.config().vocab_size) {
        return MakeError(ErrorCode::kUsage, "token id {} is outside the vocabulary of {}", next,
                         engine.config().vocab_size);
      }
      result->perplexity.Add(NegativeLogLikelihood(engine.logits(row), next));
    }
    at += count;
  }
  if (piece.size() > options.skip) AddPhase(ReportPhase(before, engine.statistics()), &result->traffic);
  return {};
}

// `next` fills in a piece, or says that there is none left.
Result<EvalResult> EvaluatePieces(Engine& engine, FunctionRef<Result<bool>(std::vector<int32_t>* piece)> next, const EvalOptions& options) {
  CHECK(options.rows >= 1 && options.rows <= engine.plan().max_logit_rows);
  FRUGAL_ASSIGN(const std::unique_ptr<Session> session, engine.NewSession());
  EvalResult result;
  std::vector<int32_t> piece;
  while (true) {
    FRUGAL_ASSIGN(const bool more, next(&piece));
    if (!more) break;
    FRUGAL_TRY(EvaluatePiece(engine, *session, piece, options, &result));
    result.num_tokens += piece.size();
    ++result.num_pieces;
    if (options.progress) options.progress(result.perplexity, result.num_tokens);
  }
  result.sampled_recall = engine.statistics().recall;
  return result;
}

}  // namespace

Result<EvalResult> Evaluate(Engine& engine, PieceReader& pieces, const EvalOptions& options) {
  const auto next = [&pieces](std::vector<int32_t>* piece) { return pieces.Next(piece); };
  return EvaluatePieces(engine, next, options);
}

Result<EvalResult> EvaluateSequences(Engine& engine, std::span<const std::vector<int32_t>> sequences, const EvalOptions& options) {
  size_t index = 0;
  const auto next = [&](std::vector<int32_t>* piece) -> Result<bool> {
    if (index == sequences.size()) return false;
    *piece = sequences[index++];
    return true;
  };
  return EvaluatePieces(engine, next, options);
}

}  // namespace frugal
