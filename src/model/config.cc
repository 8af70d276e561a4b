#include "src/model/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numbers>

#include "src/base/check.h"

namespace frugal {
namespace {

template <typename T>
struct Name {
  T value;
  const char* text;
};

constexpr Name<ActivationKind> kActivations[] = {
    {ActivationKind::kRelu, "relu"},  {ActivationKind::kRelu2, "relu2"}, {ActivationKind::kFatRelu, "fatrelu"},
    {ActivationKind::kDRelu, "drelu"}, {ActivationKind::kSilu, "silu"},   {ActivationKind::kGelu, "gelu"},
    {ActivationKind::kGeluTanh, "gelu_tanh"},
};

constexpr Name<FfnLayout> kLayouts[] = {
    {FfnLayout::kMatrices, "matrices"},
    {FfnLayout::kUpDown, "up+down"},
    {FfnLayout::kBundle3, "bundle3"},
    {FfnLayout::kGateAndBundle2, "gate+bundle2"},
};

template <typename T, size_t n>
const char* NameOf(const Name<T> (&names)[n], T value) {
  for (const Name<T>& name : names) {
    if (name.value == value) return name.text;
  }
  CHECK(false);
  return "";
}

Status CheckRange(const std::string& name, const char* what, uint64_t value, uint64_t low, uint64_t high) {
  if (value >= low && value <= high) return {};
  return BadModel("{}: {} is {}, expected {}..{}", name, what, value, low, high);
}

// Finite, above `low` and at most `high`.
Status CheckFloat(const std::string& name, const char* what, float value, float low, float high) {
  if (value > low && value <= high) return {};
  return BadModel("{}: {} is {}, expected more than {} and at most {}", name, what, value, low, high);
}

Status ValidateRope(const Rope& rope, const ModelConfig& config, const std::string& name) {
  if (rope.dims > config.head_dim || rope.dims % 2 != 0) {
    return BadModel("{}: rope dimensions are {}, expected an even number up to head_dim {}", name, rope.dims, config.head_dim);
  }
  if (rope.dims == 0) return {};
  FRUGAL_TRY(CheckFloat(name, "rope_theta", rope.theta, 0.0f, 1e12f));
  const RopeScaling& scaling = rope.scaling;
  if (scaling.kind == RopeScaling::Kind::kNone) return {};
  FRUGAL_TRY(CheckFloat(name, "rope scaling factor", scaling.factor, 0.0f, 1e6f));
  if (scaling.kind == RopeScaling::Kind::kLinear) return {};
  FRUGAL_TRY(CheckRange(name, "rope scaling's original context", scaling.original_context, 1, ConfigLimits::kContext));
  if (scaling.kind == RopeScaling::Kind::kYarn) {
    FRUGAL_TRY(CheckFloat(name, "rope scaling's beta_fast", scaling.beta_fast, 0.0f, 1e6f));
    FRUGAL_TRY(CheckFloat(name, "rope scaling's beta_slow", scaling.beta_slow, 0.0f, 1e6f));
    return CheckFloat(name, "rope scaling's attention factor", scaling.amplitude, 0.0f, 1e3f);
  }
  FRUGAL_TRY(CheckFloat(name, "rope scaling's low_freq_factor", scaling.low_frequency, 0.0f, 1e6f));
  if (!(scaling.high_frequency > scaling.low_frequency && scaling.high_frequency <= 1e6f)) {
    return BadModel("{}: rope scaling's high_freq_factor is {}, expected more than low_freq_factor {}", name, scaling.high_frequency,
                    scaling.low_frequency);
  }
  return {};
}

Status ValidateAttention(const ModelConfig& config, const std::string& name) {
  FRUGAL_TRY(CheckRange(name, "num_heads", config.num_heads, 1, ConfigLimits::kHeads));
  FRUGAL_TRY(CheckRange(name, "num_kv_heads", config.num_kv_heads, 1, config.num_heads));
  FRUGAL_TRY(CheckRange(name, "head_dim", config.head_dim, 1, ConfigLimits::kHeadDim));
  if (config.num_heads % config.num_kv_heads != 0) {
    return BadModel("{}: num_heads {} is no multiple of num_kv_heads {}", name, config.num_heads, config.num_kv_heads);
  }
  FRUGAL_TRY(CheckRange(name, "num_heads * head_dim", uint64_t{config.num_heads} * config.head_dim, 1, ConfigLimits::kHidden));
  FRUGAL_TRY(ValidateRope(config.rope, config, name));
  if (config.has_local_rope) FRUGAL_TRY(ValidateRope(config.local_rope, config, name));
  if (!config.layer_windows.empty() && config.layer_windows.size() != config.num_layers) {
    return BadModel("{}: sliding windows of {} layers, expected {}", name, config.layer_windows.size(), config.num_layers);
  }
  for (const uint32_t window : config.layer_windows) FRUGAL_TRY(CheckRange(name, "sliding window", window, 0, ConfigLimits::kContext));
  return CheckFloat(name, "attention scale", config.attention_scale, 0.0f, 1e3f);
}

Status ValidateFfn(const ModelConfig& config, const std::string& name) {
  FRUGAL_TRY(CheckRange(name, "ffn_size", config.ffn_size, 1, ConfigLimits::kFfn));
  const Activation& activation = config.activation;
  if (activation.kind == ActivationKind::kDRelu && !config.gated) {
    return BadModel("{}: activation drelu asks for a gate, which this model has not", name);
  }
  if (activation.kind == ActivationKind::kFatRelu && !(activation.threshold >= 0.0f && activation.threshold <= 1e6f)) {
    return BadModel("{}: the threshold of activation fatrelu is {}, expected 0..1e6", name, activation.threshold);
  }
  const bool asks_for_gate = config.ffn_layout == FfnLayout::kBundle3 || config.ffn_layout == FfnLayout::kGateAndBundle2;
  if (config.ffn_layout != FfnLayout::kMatrices && asks_for_gate != config.gated) {
    return BadModel("{}: bundle layout \"{}\" does not fit a model {} gate", name, FfnLayoutName(config.ffn_layout),
                    config.gated ? "with a" : "without");
  }
  return {};
}

}  // namespace

const char* ArchitectureName(Architecture architecture) {
  constexpr Name<Architecture> kNames[] = {
      {Architecture::kOpt, "opt"},         {Architecture::kFalcon, "falcon"}, {Architecture::kPersimmon, "persimmon"},
      {Architecture::kPhi2, "phi2"},       {Architecture::kLlama, "llama"},   {Architecture::kNemotron, "nemotron"},
      {Architecture::kArcee, "arcee"},     {Architecture::kQwen2, "qwen2"},   {Architecture::kQwen3, "qwen3"},
      {Architecture::kGemma3, "gemma3"},
  };
  return NameOf(kNames, architecture);
}

std::string ActivationName(const Activation& activation) {
  const char* const name = NameOf(kActivations, activation.kind);
  return activation.kind == ActivationKind::kFatRelu ? fmt::format("{}:{}", name, activation.threshold) : name;
}

std::optional<Activation> ParseActivation(std::string_view text) {
  const size_t colon = std::min(text.find(':'), text.size());
  for (const Name<ActivationKind>& name : kActivations) {
    if (text.substr(0, colon) != name.text) continue;
    Activation activation{name.value, 0.0f};
    const bool has_threshold = colon < text.size();
    if (has_threshold != (name.value == ActivationKind::kFatRelu)) return std::nullopt;
    if (!has_threshold) return activation;
    const char* const end = text.data() + text.size();
    const auto [last, error] = std::from_chars(text.data() + colon + 1, end, activation.threshold);
    if (error != std::errc() || last != end || !(activation.threshold >= 0.0f && activation.threshold <= 1e6f)) return std::nullopt;
    return activation;
  }
  return std::nullopt;
}

const char* RopePairsName(RopePairs pairs) { return pairs == RopePairs::kHalves ? "halves" : "neighbours"; }

const char* FfnLayoutName(FfnLayout layout) { return NameOf(kLayouts, layout); }

std::optional<FfnLayout> ParseFfnLayout(std::string_view text) {
  for (const Name<FfnLayout>& name : kLayouts) {
    if (text == name.text) return name.value;
  }
  return std::nullopt;
}

std::vector<float> Llama3Divisors(const Rope& rope) {
  // transformers, _compute_llama3_parameters: long wavelengths are stretched, short ones kept, those between mixed.
  const RopeScaling& scaling = rope.scaling;
  const double context = scaling.original_context;
  std::vector<float> divisors(rope.dims / 2, 1.0f);
  for (uint32_t i = 0; i < divisors.size(); ++i) {
    const double frequency = std::pow(static_cast<double>(rope.theta), -2.0 * i / rope.dims);
    const double wavelength = 2.0 * std::numbers::pi / frequency;
    if (wavelength < context / scaling.high_frequency) continue;
    double divisor = scaling.factor;
    if (wavelength <= context / scaling.low_frequency) {
      const double smooth = (context / wavelength - scaling.low_frequency) / (scaling.high_frequency - scaling.low_frequency);
      divisor = 1.0 / ((1.0 - smooth) / scaling.factor + smooth);
    }
    divisors[i] = static_cast<float>(divisor);
  }
  return divisors;
}

// Peng et al., arXiv 2309.00071, section 3.2: pairs that turn often in the original context keep their frequency, those that turn less
// than once are stretched, with a ramp between. Bounds in whole pairs, as transformers and the paper's code have them.
static void ScaleByYarn(const Rope& rope, std::vector<double>& frequencies) {
  const RopeScaling& scaling = rope.scaling;
  const auto pair_that_turns = [&](double times) {
    const double turns = scaling.original_context / (times * 2.0 * std::numbers::pi);
    return rope.dims * std::log(turns) / (2.0 * std::log(static_cast<double>(rope.theta)));
  };
  const double low = std::max(std::floor(pair_that_turns(scaling.beta_fast)), 0.0);
  const double high = std::min(std::ceil(pair_that_turns(scaling.beta_slow)), rope.dims - 1.0);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / std::max(high - low, 0.001), 0.0, 1.0);
    frequencies[i] *= ramp / scaling.factor + (1.0 - ramp);
  }
}

std::vector<float> RopeFrequencies(const Rope& rope) {
  std::vector<double> frequencies(rope.dims / 2);
  for (uint32_t i = 0; i < frequencies.size(); ++i) frequencies[i] = std::pow(static_cast<double>(rope.theta), -2.0 * i / rope.dims);
  switch (rope.scaling.kind) {
    case RopeScaling::Kind::kNone:
      break;
    case RopeScaling::Kind::kLinear:
      for (double& frequency : frequencies) frequency /= rope.scaling.factor;
      break;
    case RopeScaling::Kind::kLlama3: {
      const std::vector<float> divisors = Llama3Divisors(rope);
      for (size_t i = 0; i < frequencies.size(); ++i) frequencies[i] /= divisors[i];
      break;
    }
    case RopeScaling::Kind::kYarn:
      ScaleByYarn(rope, frequencies);
      break;
  }
  std::vector<float> rounded(frequencies.size());
  std::transform(frequencies.begin(), frequencies.end(), rounded.begin(), [](double value) { return static_cast<float>(value); });
  return rounded;
}

Status ValidateConfig(const ModelConfig& config, const std::string& name) {
  FRUGAL_TRY(CheckRange(name, "num_layers", config.num_layers, 1, ConfigLimits::kLayers));
  FRUGAL_TRY(CheckRange(name, "hidden_size", config.hidden_size, 1, ConfigLimits::kHidden));
  FRUGAL_TRY(CheckRange(name, "embedding_size", config.embedding_size, 1, ConfigLimits::kHidden));
  FRUGAL_TRY(CheckRange(name, "vocab_size", config.vocab_size, 1, ConfigLimits::kVocab));
  FRUGAL_TRY(CheckRange(name, "max_context", config.max_context, 1, ConfigLimits::kContext));
  FRUGAL_TRY(ValidateAttention(config, name));
  FRUGAL_TRY(ValidateFfn(config, name));
  FRUGAL_TRY(CheckFloat(name, "embedding scale", config.embedding_scale, 0.0f, 1e6f));
  if (!(config.norm_epsilon > 0.0f && config.norm_epsilon < 1.0f)) {
    return BadModel("{}: norm epsilon is {}, expected a number between 0 and 1", name, config.norm_epsilon);
  }
  return {};
}

}  // namespace frugal
