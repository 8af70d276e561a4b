#include "src/engine/expectation.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <initializer_list>
#include <numeric>
#include <utility>

#include "src/base/bytes.h"
#include "src/format/packed_format.h"

namespace frugal {
namespace {

// Tokens after which a neuron of any use at all counts as kept for good.
constexpr double kForever = 1e7;

double Sum(std::span<const float> values) { return std::accumulate(values.begin(), values.end(), 0.0); }

// Neurons used at least once in the last `tokens` tokens.
double DistinctUsed(std::span<const float> use, double tokens) {
  double sum = 0;
  for (const float p : use) sum += 1.0 - std::pow(1.0 - static_cast<double>(p), tokens);
  return sum;
}

// Che's T: after how many tokens a bundle that was not used again is given up.
double KeptTokens(std::span<const float> use, uint32_t num_slots) {
  if (DistinctUsed(use, kForever) <= num_slots) return kForever;
  double low = 0, high = kForever;
  for (int step = 0; step < 40; ++step) {
    const double middle = (low + high) / 2;
    (DistinctUsed(use, middle) <= num_slots ? low : high) = middle;
  }
  return low;
}

// Misses of windows of any length, from those of 1, 2, 4, ... tokens: on a line between them when both scales are
// logarithms, and on the last one's beyond.
class WindowCurve {
 public:
  WindowCurve(double used, std::span<const double> misses) : used_(used), misses_(misses) {}

  // `tokens` >= 1.
  double Misses(double tokens) const {
    const double position = std::log2(tokens);
    const size_t i = std::min(misses_.size() - 2, static_cast<size_t>(position));
    if (misses_[i + 1] <= 0) return position >= static_cast<double>(i + 1) ? 0 : misses_[i] * (static_cast<double>(i + 1) - position);
    return misses_[i] * std::pow(misses_[i + 1] / misses_[i], position - static_cast<double>(i));
  }
  // Misses of a window that fills `num_slots` slots, of `longest` tokens at most.
  double MissesOf(double num_slots, double longest) const {
    double held = used_;  // by a window of 1
    if (longest < 1 || num_slots < held) return used_;
    constexpr double kLongest = 65536;
    for (double tokens = 1; tokens < std::min(longest, kLongest); ++tokens) {
      const double misses = Misses(tokens);
      if (held + misses > num_slots) return Misses(tokens + (num_slots - held) / misses);
      held += misses;
    }
    return Misses(std::min(longest, kLongest));
  }

 private:
  const double used_;
  const std::span<const double> misses_;
};

double RecencyMisses(std::span<const float> use, double tokens) {
  // One token's set does not fit: what comes back has always been given up.
  if (tokens < 1) return Sum(use);
  double missed = 0;
  for (const float p : use) missed += static_cast<double>(p) * std::pow(1.0 - static_cast<double>(p), tokens);
  return missed;
}

double FrequencyMisses(std::span<const float> use, uint32_t num_slots) {
  if (num_slots >= use.size()) return 0;
  std::vector<float> sorted(use.begin(), use.end());
  const auto rest = sorted.begin() + num_slots;
  std::nth_element(sorted.begin(), rest, sorted.end(), std::greater<>());
  return Sum({rest, sorted.end()});
}

// What is missed where the slots hold what the next token uses most probably, judged by how often a bundle is used and whether the last
// token used it. After a use with probability p comes another with p + again (1 - p), else with p (1 - again); `again`, the same for all,
// is what a window of one token, which misses (1 - again) times the sum of p (1 - p), says of it.
double LastTokenMisses(std::span<const float> use, double misses_of_one_token, uint32_t num_slots) {
  double independent = 0;
  for (const float p : use) independent += static_cast<double>(p) * (1.0 - static_cast<double>(p));
  const double again = independent > 0 ? std::clamp(1.0 - misses_of_one_token / independent, 0.0, 1.0) : 0.0;
  // The slots of what is used with more than a probability, and the uses of that.
  const auto held = [&](double probability) {
    double slots = 0, hits = 0;
    for (const float share : use) {
      const double p = static_cast<double>(share), after_use = p + again * (1.0 - p), otherwise = p * (1.0 - again);
      if (after_use > probability) slots += p, hits += p * after_use;
      if (otherwise > probability) slots += 1.0 - p, hits += (1.0 - p) * otherwise;
    }
    return std::pair(slots, hits);
  };
  double low = 0, high = 1;
  for (int step = 0; step < 20; ++step) {
    const double middle = (low + high) / 2;
    (held(middle).first > num_slots ? low : high) = middle;
  }
  const auto [slots, hits] = held(high);
  return Sum(use) - hits - (num_slots - slots) * high;
}

// What is guessed wrongly is used seldom, and is in memory less often than what is used. Measured where 2 to 77% of the used bundles were
// missed: this is 0.8 to 1.5 of it (docs/benchmarks.md, "Wrong guesses").
double AbsentOfWrongGuesses(double missed_share) { return std::pow(missed_share, 2.0 / 3); }

// Bytes of both reads of a bundle in halves: sectors that both halves touch are read twice.
uint64_t BundleReadBytes(const BundleInfo& bundle, Bundling bundling) {
  if (bundling == Bundling::kTogether) return bundle.stride_bytes;
  const uint64_t up_bytes = bundle.down_offset_bytes;
  return bundle.stride_bytes + RoundUp(up_bytes, kSectorBytes) - RoundDown(up_bytes, kSectorBytes);
}

void AddEmbeddingRow(const MatrixInfo& matrix, const PlacedTensor& placed, Expectation& expectation) {
  if (placed.size_bytes == 0) return;
  const double absent =
      1.0 - static_cast<double>(placed.resident_bytes) / static_cast<double>(placed.size_bytes);
  expectation.row_reads += absent;
  expectation.row_bytes += absent * static_cast<double>(RoundUp(matrix.row_bytes, kHashChunkBytes));
}

double DownRowBytes(const BundleInfo& bundle) { return static_cast<double>(bundle.stride_bytes - bundle.down_offset_bytes); }

// Up rows of the bundles that are used, down rows of those that are active.
double TouchedBundleBytes(const ModelFile& model, const Expectation& expectation) {
  if (!model.has_bundles()) return 0;
  const BundleInfo& bundle = model.bundles()[0];
  return expectation.bundles_used * static_cast<double>(bundle.down_offset_bytes) + expectation.bundles_active * DownRowBytes(bundle);
}

// 0 of a table, of which rows are copied.
double TouchedMatrixBytes(const ModelFile& model, const EnginePlan& plan, uint32_t id) {
  const bool is_table = id == model.ids().token_embedding || id == model.ids().position_embedding;
  if (is_table && id != model.ids().output) return 0;
  const MatrixInfo& matrix = model.matrices()[id];
  return static_cast<double>(matrix.rows * *RowBytes(MemoryType(model, plan.weights, id), matrix.columns));
}

double TouchedBytes(const ModelFile& model, const EnginePlan& plan, const Expectation& expectation) {
  double bytes = TouchedBundleBytes(model, expectation);
  for (uint32_t id = 0; id < model.matrices().size(); ++id) bytes += TouchedMatrixBytes(model, plan, id);
  bytes += static_cast<double>(plan.ledger.line_bytes("predictors") + plan.ledger.line_bytes("gate sketch"));
  return bytes + static_cast<double>(plan.ledger.line_bytes("KV cache")) / 2;
}

// Where the processor's products were measured.
void ListTouchedWeights(const ModelFile& model, const EnginePlan& plan, const DeviceProfile& profile, Expectation& e) {
  using When = TouchedWeights::When;
  const auto add = [&](When when, DType dtype, double bytes, double ProductSpeed::*speed) {
    const auto found = std::find_if(profile.products.begin(), profile.products.end(), [&](const auto& of) { return of.dtype == dtype; });
    if (found == profile.products.end() || !((*found).*speed > 0) || bytes <= 0) return;
    e.touched_weights.push_back({when, bytes, (*found).*speed * e.num_threads});
  };
  for (uint32_t id = 0; id < model.matrices().size(); ++id) {
    const double bytes = TouchedMatrixBytes(model, plan, id);
    const PlacedTensor& placed = plan.tensors[id];
    const double resident =
        placed.size_bytes > 0 ? static_cast<double>(placed.resident_bytes) / static_cast<double>(placed.size_bytes) : 1;
    const DType dtype = MemoryType(model, plan.weights, id);
    add(When::kOther, dtype, resident * bytes, &ProductSpeed::matrix);
    add(When::kOther, dtype, (1 - resident) * bytes, &ProductSpeed::rows);
  }
  if (!model.has_bundles()) return;
  const BundleInfo& bundle = model.bundles()[0];
  const double gate_bytes = static_cast<double>(bundle.up_offset_bytes);
  const double up_bytes = static_cast<double>(bundle.down_offset_bytes) - gate_bytes;
  add(When::kBundles, bundle.gate_type, e.bundles_used * gate_bytes, &ProductSpeed::rows);
  add(When::kBundles, bundle.up_type, e.bundles_used * up_bytes, &ProductSpeed::rows);
  add(When::kAfterReads, bundle.down_type, e.bundles_active * DownRowBytes(bundle), &ProductSpeed::sum);
}

// What reads of bundles cannot hide behind. Without early prediction a layer's bundles are asked for when its attention (and its gate) is
// done, with it when the early predictor is, which is about half of the predictors (all but the first layer's run while the layer before
// waits, which is not counted on); a parallel block knows its neurons before attention.
// The down sum comes when all are there.
void SplitByReads(const ModelFile& model, const EnginePlan& plan, const NeuronUse& use, Expectation& expectation) {
  const BundleInfo& bundle = model.bundles()[0];
  expectation.alone_seconds = expectation.bundles_used * kAloneSecondsPerBundle;
  expectation.touched_of_bundles = TouchedBundleBytes(model, expectation);
  expectation.touched_after_reads = expectation.bundles_active * DownRowBytes(bundle);
  if (plan.use_early) {
    expectation.touched_before_reads = static_cast<double>(plan.ledger.line_bytes("predictors")) / 2;
  } else if (!model.config().parallel()) {
    expectation.touched_before_reads = expectation.touched_bytes - expectation.touched_of_bundles;
    for (TouchedWeights& weights : expectation.touched_weights) {
      if (weights.when == TouchedWeights::When::kOther) weights.when = TouchedWeights::When::kBeforeReads;
    }
  }
  const size_t num_layers = model.config().num_layers, ffn_size = model.config().ffn_size;
  const double used = Sum(use.shares);
  for (size_t layer = 0; layer < num_layers; ++layer) {
    const double of_layer = Sum(std::span(use.shares).subspan(layer * ffn_size, ffn_size));
    expectation.layer_shares.push_back(used > 0 ? of_layer / used : 1.0 / static_cast<double>(num_layers));
  }
}

// Seconds to go through bytes of such a time: at memory's speed, but no faster than their products.
double TouchedSeconds(const Expectation& e, double bytes, std::initializer_list<TouchedWeights::When> times) {
  double seconds = bytes / e.memory_bytes_per_second;
  for (const TouchedWeights& weights : e.touched_weights) {
    if (std::find(times.begin(), times.end(), weights.when) == times.end()) continue;
    seconds += weights.bytes * std::max(0.0, 1 / weights.most_bytes_per_second - 1 / e.memory_bytes_per_second);
  }
  return seconds;
}

// A layer's reads are in proportion to the bundles that it uses, and so is its computing of bundles: in layers that use few the device
// waits, in those that use many the threads. What is streamed comes all the time.
double LayerByLayer(const Expectation& e, double demand_seconds, double other_seconds, double latency_seconds) {
  using When = TouchedWeights::When;
  const double num_layers = static_cast<double>(e.layer_shares.size());
  const double before = (TouchedSeconds(e, e.touched_before_reads, {When::kBeforeReads}) + e.alone_seconds) / num_layers;
  const double of_bundles = TouchedSeconds(e, e.touched_of_bundles, {When::kBundles, When::kAfterReads});
  const double after = TouchedSeconds(e, e.touched_after_reads, {When::kAfterReads});
  const double others = (e.compute_seconds - of_bundles) / num_layers - before;
  const double latency = e.demand_reads < num_layers ? latency_seconds * e.demand_reads / num_layers : latency_seconds;
  double seconds = 0;
  for (const double share : e.layer_shares) {
    const double waited = demand_seconds * share;
    const double hidden_behind = std::max(0.0, others) + share * (of_bundles - after);
    const double alone = before + std::max(waited, hidden_behind) + latency + share * after;
    seconds += std::max(alone, waited + other_seconds / num_layers);
  }
  return seconds;
}

// The latency of a read while no other is in flight; 0: not measured.
double SecondsOfOneRead(const DeviceProfile& profile) {
  double iops = 0;
  for (const DeviceProfile::Point& point : profile.random) {
    if (point.queue_depth == 1) iops = std::max(iops, point.iops);
  }
  return iops > 0 ? 1 / iops : 0;
}

// ExpectedReadSeconds for a number of reads that need not be whole.
double RandomReadSeconds(const DeviceProfile& profile, double reads, double bytes) {
  if (reads <= 0) return 0;
  constexpr double kTokens = 1000;
  const double count = std::max(1.0, std::round(reads * kTokens));
  return ExpectedReadSeconds(profile, static_cast<uint64_t>(count),
                             static_cast<uint64_t>(std::max(1.0, bytes / reads))) /
         kTokens;
}

// Of the bundles that are read, those that were guessed.
double GuessedShare(const EnginePlan& plan) { return plan.use_early ? kGuessedShareOfReads : 0; }

// Reads and bytes of bundles, from those missed and those in vain.
void CountBundleReads(const ModelFile& model, const EnginePlan& plan, Expectation& e) {
  const CacheOptions& cache = plan.weights.cache;
  const BundleInfo& bundle = model.bundles()[0];
  const double read_bundles = e.bundles_missed + e.bundles_in_vain, num_layers = model.config().num_layers;
  double gap_bundles = 0;
  e.demand_reads = 0;
  for (const double share : {GuessedShare(plan), 1 - GuessedShare(plan)}) {
    if (share <= 0 || read_bundles <= 0) continue;
    const BundleReads reads = ExpectBundleReads(model.config().ffn_size, bundle.stride_bytes, cache, share * read_bundles / num_layers);
    e.demand_reads += num_layers * reads.num_reads;
    gap_bundles += num_layers * reads.gap_bundles;
  }
  e.demand_bytes = (read_bundles + gap_bundles) * static_cast<double>(BundleReadBytes(bundle, cache.bundling));
}

// The share of a token's guesses that is given up: what the device has not begun to read when the layer's neurons are known. Guesses are
// read from the down sum of the layer before until then.
double GivenUpGuesses(const ModelFile& model, const EnginePlan& plan, const DeviceProfile& profile, const Expectation& e) {
  if (e.demand_reads <= 0) return 0;
  const double num_layers = model.config().num_layers;
  const double system_seconds = e.demand_reads * profile.cpu_seconds_per_read / e.num_threads;
  using When = TouchedWeights::When;
  const double others = TouchedSeconds(e, e.touched_bytes - e.touched_of_bundles, {When::kBeforeReads, When::kOther});
  const double window = (others + system_seconds) / num_layers;
  const double seconds_per_read = ReadBoundSeconds(profile, 0, e.demand_reads, e.demand_bytes) / e.demand_reads;
  const double begun = static_cast<double>(plan.weights_options.queue_depth + Weights::kMostStarts) + window / seconds_per_read;
  double given_up = 0;
  for (const double share : e.layer_shares) {
    const double guessed = GuessedShare(plan) * e.demand_reads * share;
    given_up += share * std::max(0.0, 1 - begun / guessed);
  }
  return given_up;
}

}  // namespace

double ExpectedMisses(const NeuronUse& use, uint32_t num_slots, const PolicyOptions& policy, double past_tokens) {
  const auto recency_misses = [&use](uint32_t slots, double longest) {
    return use.window_misses.empty() ? RecencyMisses(use.shares, std::min(longest, KeptTokens(use.shares, slots)))
                                     : WindowCurve(Sum(use.shares), use.window_misses).MissesOf(slots, longest);
  };
  const uint32_t all = static_cast<uint32_t>(use.shares.size());
  double misses = 0;
  if (policy.kind == PolicyKind::kWindow) {
    misses = recency_misses(num_slots, policy.window_steps);
  } else if (num_slots < all) {
    misses = recency_misses(num_slots, kForever);
    if (policy.kind == PolicyKind::kDecay) {
      misses = std::min(misses, FrequencyMisses(use.shares, num_slots));
      // Where more than two tokens' bundles fit, what earlier tokens used says more.
      if (!use.window_misses.empty() && num_slots < 2 * Sum(use.shares)) {
        misses = std::min(misses, LastTokenMisses(use.shares, use.window_misses[0], num_slots));
      }
    }
  }
  const double never_used = past_tokens < kForever ? recency_misses(all, past_tokens) : 0;
  return std::max(misses, never_used);
}

double ReadBoundSeconds(const DeviceProfile& profile, double sequential_bytes, double random_reads,
                        double random_bytes) {
  double seconds = RandomReadSeconds(profile, random_reads, random_bytes);
  if (sequential_bytes > 0) seconds += sequential_bytes / profile.sequential_bytes_per_second;
  return seconds;
}

BundleReads ExpectBundleReads(uint32_t ffn_size, uint64_t stride_bytes, const CacheOptions& cache, double missed) {
  if (cache.bundling == Bundling::kHalves) return {2 * missed, 0};
  const double density = missed / ffn_size;
  const double longest = std::max(1.0, static_cast<double>(cache.max_read_bytes) / static_cast<double>(stride_bytes));
  double gap_bundles = 0;
  double next_is_further = 1;  // than a gap of that many bundles
  for (uint64_t gap = 0; gap <= BundleCache::LongestGapBytes(stride_bytes, cache) / stride_bytes; ++gap) {
    gap_bundles += missed * static_cast<double>(gap) * density * next_is_further;
    next_is_further *= 1 - density;
  }
  const double num_runs = missed * std::max(1 - density, 1 / longest);
  const double num_joined = missed * std::max(next_is_further, 1 / longest);
  if (num_joined == num_runs) return {num_runs, 0};
  const double num_over_gaps = num_joined * (1 - num_joined / num_runs);
  const double share = std::min(1.0, static_cast<double>(BundleCache::kNumScraps) / num_over_gaps);
  return {share * num_joined + (1 - share) * num_runs, share * gap_bundles};
}

Expectation ExpectDecode(const ModelFile& model, const EnginePlan& plan, const NeuronUse& use,
                         const DeviceProfile* profile) {
  Expectation expectation;
  const MatrixIds& ids = model.ids();
  expectation.streamed_bytes = static_cast<double>(plan.streamed_bytes_per_token);
  for (const uint32_t id : {ids.token_embedding, ids.position_embedding}) {
    if (id != kNoMatrix) AddEmbeddingRow(model.matrices()[id], plan.tensors[id], expectation);
  }
  expectation.bundles_used = static_cast<double>(model.config().num_layers) * model.config().ffn_size;
  expectation.bundles_active = expectation.bundles_used;
  if (plan.weights.ffn == FfnPlacement::kOnDemand) {
    const CacheOptions& cache = plan.weights.cache;
    expectation.bundles_used = Sum(use.shares);
    expectation.bundles_active = std::min(expectation.bundles_used, use.active);
    expectation.bundles_missed = ExpectedMisses(use, cache.num_slots, cache.policy, plan.context / 2.0);
    if (plan.use_early && expectation.bundles_used > 0) {
      expectation.bundles_in_vain = use.early_wrong * AbsentOfWrongGuesses(expectation.bundles_missed / expectation.bundles_used);
    }
    CountBundleReads(model, plan, expectation);
  }
  expectation.touched_bytes = TouchedBytes(model, plan, expectation);
  expectation.stream_reads = expectation.streamed_bytes / static_cast<double>(plan.weights.block_bytes);
  expectation.num_threads = plan.num_threads;
  expectation.overlap = plan.weights.overlap;
  if (profile != nullptr) ListTouchedWeights(model, plan, *profile, expectation);
  if (plan.weights.ffn == FfnPlacement::kOnDemand) SplitByReads(model, plan, use, expectation);
  ExpectTimes(profile, &expectation);
  const bool gives_up = plan.use_early && plan.weights.overlap && plan.weights.ffn == FfnPlacement::kOnDemand &&
                        plan.weights.cache.bundling == Bundling::kTogether;
  if (profile != nullptr && gives_up) {
    expectation.bundles_in_vain *= 1 - GivenUpGuesses(model, plan, *profile, expectation);
    CountBundleReads(model, plan, expectation);
    ExpectTimes(profile, &expectation);
  }
  return expectation;
}

void ExpectTimes(const DeviceProfile* profile, Expectation* expectation) {
  Expectation& e = *expectation;
  e.memory_bytes_per_second =
      profile != nullptr && profile->memory_bytes_per_second > 0 ? kProductsShareOfMemory * profile->memory_bytes_per_second
                                                                 : kAssumedMemoryBytesPerSecond;
  using When = TouchedWeights::When;
  const double touched_seconds = TouchedSeconds(e, e.touched_bytes, {When::kBeforeReads, When::kBundles, When::kAfterReads, When::kOther});
  e.slow_product_seconds = touched_seconds - e.touched_bytes / e.memory_bytes_per_second;
  e.compute_seconds = touched_seconds + e.alone_seconds;
  e.read_seconds.reset();
  e.token_seconds.reset();
  if (profile == nullptr) return;
  // What the system's work for a read takes of the threads' time, which they share. Without overlap it is done while the device works.
  const double system_seconds = (e.demand_reads + e.row_reads + e.stream_reads) * profile->cpu_seconds_per_read / e.num_threads;
  e.compute_seconds += system_seconds;
  const double demand_seconds = ReadBoundSeconds(*profile, 0, e.demand_reads, e.demand_bytes);
  const double other_seconds =
      ReadBoundSeconds(*profile, 0, e.row_reads, e.row_bytes) + ReadBoundSeconds(*profile, e.streamed_bytes, 0, 0);
  e.read_seconds = demand_seconds + other_seconds;
  if (!e.overlap) {
    e.token_seconds = std::max(*e.read_seconds, system_seconds) + e.compute_seconds - system_seconds;
  } else if (e.layer_shares.empty()) {
    e.token_seconds = std::max(*e.read_seconds, e.compute_seconds);
  } else {
    e.token_seconds = LayerByLayer(e, demand_seconds, other_seconds, SecondsOfOneRead(*profile));
  }
}

}  // namespace frugal
