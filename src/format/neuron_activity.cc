#include "src/format/neuron_activity.h"

namespace frugal {
namespace {

Result<std::vector<float>> ReadShares(const GgufReader& gguf, const char* key, uint64_t expected) {
  FRUGAL_ASSIGN(const uint64_t count, gguf.ArrayCount(key));
  if (count != expected) return BadModel("{}: {} has {} entries, expected {}", gguf.name(), key, count, expected);
  std::vector<float> shares(count);
  FRUGAL_TRY(gguf.ForEachFloat(key, [&](uint64_t i, float value) -> Status {
    if (!(value >= 0.0f && value <= 1.0f)) return BadModel("{}: {}[{}] is {}, expected 0 to 1", gguf.name(), key, i, value);
    shares[i] = value;
    return {};
  }));
  return shares;
}

}  // namespace

void AddActivityKeys(const NeuronActivity& activity, GgufWriter& keys) {
  keys.AddFloat32Array(kActiveSharesKey, activity.active_shares);
  if (activity.window_misses.empty()) return;
  std::vector<float> misses;
  for (const WindowMisses& of_layer : activity.window_misses) misses.insert(misses.end(), of_layer.begin(), of_layer.end());
  keys.AddFloat32Array(kWindowMissesKey, misses);
}

bool IsActivityKey(std::string_view key) { return key == kActiveSharesKey || key == kWindowMissesKey; }

Result<std::optional<NeuronActivity>> ReadActivityKeys(const GgufReader& gguf, uint32_t num_layers) {
  if (gguf.Find(kActiveSharesKey) == nullptr) return std::optional<NeuronActivity>();
  NeuronActivity activity;
  FRUGAL_ASSIGN(activity.active_shares, ReadShares(gguf, kActiveSharesKey, num_layers));
  if (gguf.Find(kWindowMissesKey) != nullptr) {
    FRUGAL_ASSIGN(const std::vector<float> misses, ReadShares(gguf, kWindowMissesKey, uint64_t{num_layers} * kNumWindows));
    activity.window_misses.resize(num_layers);
    for (size_t i = 0; i < misses.size(); ++i) activity.window_misses[i / kNumWindows][i % kNumWindows] = misses[i];
  }
  return std::optional(std::move(activity));
}

}  // namespace frugal
