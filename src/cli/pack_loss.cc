#include "src/cli/pack_loss.h"

#include <fmt/format.h>

#include "src/base/bytes.h"
#include "src/cli/bare_loop.h"
#include "src/cli/perplexity_measure.h"
#include "src/cli/temporary_model.h"

namespace frugal {
namespace {

class LossMeasurement {
 public:
  LossMeasurement(const LossOptions& options, std::string packed_path, uint64_t held_bytes)
      : options_(options), packed_path_(std::move(packed_path)), ram_bytes_(LeftOfBudget(options.ram_bytes, held_bytes)) {}

  Result<PerplexityEffect> Run() const {
    FRUGAL_ASSIGN(const TokenSequences text, ReadModelText(packed_path_, options_.text, "--measure-ids"));
    FRUGAL_ASSIGN(const Perplexity packed, Measure(packed_path_, std::nullopt, text));
    FRUGAL_ASSIGN(const Perplexity source, MeasureSource(text));
    if (packed.num_scored > 0) return EffectOf(source, packed);
    return MakeError(ErrorCode::kUsage, "{}: has one token, and a text of one says nothing", options_.text.Name());
  }

 private:
  Result<Perplexity> Measure(const std::string& path, std::optional<Activation> activation, const TokenSequences& text) const {
    EngineOptions engine;
    engine.model_path = path;
    engine.activation = activation;
    engine.ram_bytes = ram_bytes_;
    engine.num_threads = options_.num_threads;
    FRUGAL_ASSIGN(const MeasuredPerplexity measured, MeasurePerplexity(engine, text));
    return measured.perplexity;
  }

  Result<Perplexity> MeasureSource(const TokenSequences& text) const {
    if (options_.is_gguf) return Measure(options_.source_path, options_.activation, text);
    const TemporaryModel exact(options_.exact_path);
    FRUGAL_TRY(options_.pack_exactly(exact.path(), ram_bytes_));
    return Measure(exact.path(), std::nullopt, text);
  }

  const LossOptions& options_;
  const std::string packed_path_;
  const uint64_t ram_bytes_;
};

std::optional<std::string> WhyNotUnasked(const LossOptions& options, const PackReport& so_far) {
  if (!so_far.has_tokenizer) return "the model has no tokenizer (--measure-ids FILE takes token ids)";
  if (options.is_gguf || so_far.source_bytes_read <= kLargestUnaskedBytes) return std::nullopt;
  return fmt::format("the checkpoint of {} would have to be packed exactly for it (--measure TEXT does that, beside the output)",
                     FormatSize(so_far.source_bytes_read));
}

}  // namespace

Result<std::optional<PerplexityEffect>> MeasureLoss(const LossOptions& options, const std::string& packed_path, const PackReport& so_far,
                                                    uint64_t held_bytes) {
  const auto skip = [](const std::string& why) {
    fmt::print(stderr, "perplexity was not measured: {}\n", why);
    return std::optional<PerplexityEffect>();
  };
  if (!options.is_asked) {
    if (const std::optional<std::string> why = WhyNotUnasked(options, so_far)) return skip(*why);
  }
  Result<PerplexityEffect> effect = LossMeasurement(options, packed_path, held_bytes).Run();
  if (effect) return std::optional(*effect);
  // The budget or the disk holds the packed model, not what it is compared with.
  const ErrorCode code = effect.error().code;
  if (!options.is_asked && (code == ErrorCode::kDoesNotFit || code == ErrorCode::kIo)) return skip(effect.error().message);
  return std::move(effect).error();
}

}  // namespace frugal
