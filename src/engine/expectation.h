// What a token of a plan will cost: bytes read and milliseconds, from the plan, what is known of the use of neurons (neuron_use.h)
// and the measured device. Everything here is an estimate before the fact; `frugal bench` measures. Pure arithmetic.
#pragma once

#include <limits>
#include <optional>
#include <vector>

#include "src/engine/neuron_use.h"
#include "src/engine/plan.h"
#include "src/io/device_profile.h"

namespace frugal {

// Bytes that one processor socket moves from RAM per second, assumed where nothing has been measured: two
// channels of DDR4-2400 do 38 GB/s on paper, and a few cores with kernels that convert on the way get about a
// third of it.
constexpr double kAssumedMemoryBytesPerSecond = 12e9;
// How much of what plain reading moves from RAM the products reach: most of what is touched are matrices, at 0.87 to 1, gathered rows reach
// 0.45 to 0.9 (`bandwidth_bench`; docs/benchmarks.md, "Kernels"). In whole tokens of OPT-6.7B's shape, without what the engine thread does
// alone and the system for reads: 0.92 to 1.0 in F16, 1.0 in Q8_0, 0.95 in Q4_0, beside plain reading in the same seconds.
constexpr double kProductsShareOfMemory = 0.93;
// Of the bundles that are read with early prediction, those that were guessed: they are read together, and so are the others. Measured: 0.78
// for OPT-6.7B's shape in Q4_0, 0.85 for models/tale (docs/benchmarks.md, "Q8_0 and Q4_0, run by run", "Where the time goes").
constexpr double kGuessedShareOfReads = 0.8;
// What the engine thread does alone between a layer's products, for each bundle that the layer uses: listing, finding and ranking it, and the
// norms. Measured where a token of OPT-6.7B's shape uses 54,400 bundles: 6.7 ms (docs/benchmarks.md, "Where the time goes").
constexpr double kAloneSecondsPerBundle = 120e-9;

// Bundles per token that are not in one of `num_slots` slots when they are wanted, once the cache is warm, and not fewer than those that
// none of the `past_tokens` before it has used:
//   lru     what T tokens did not use, where the sets of T tokens fill the slots. Windows hold what they missed while they
//           grew: held(k) = sum of misses(j) over j < k. Where misses(k) is not known: as if neurons came independently of
//           each other and of the past (Che's approximation; Che, Tung and Wang 2002).
//   window  the same with T at most the window; a window of 0 misses everything
//   decay   of two things that it nearly does the better one: lru, and keeping the most used neurons for good
double ExpectedMisses(const NeuronUse& use, uint32_t num_slots, const PolicyOptions& policy,
                      double past_tokens = std::numeric_limits<double>::infinity());

// Reads for the bundles that a layer misses.
struct BundleReads {
  double num_reads = 0;
  double gap_bundles = 0;  // read over
};
// Neighbours in the file are one read, and so are bundles with a small gap between them: of `missed` bundles at random, as
// many as there are runs of them. A read over gaps does not wait for a scrap: of those asked for together only as many go over gaps as
// the cache has scraps.
BundleReads ExpectBundleReads(uint32_t ffn_size, uint64_t stride_bytes, const CacheOptions& cache, double missed);

// Weights of one type that the processor goes through, and how fast its threads multiply them where memory is no limit.
struct TouchedWeights {
  enum class When { kBeforeReads, kBundles, kAfterReads, kOther };  // kBundles: up rows, kAfterReads: down rows
  When when = When::kOther;
  double bytes = 0;
  double most_bytes_per_second = 0;
};

// Decoding one token, in the middle of the plan's context.
struct Expectation {
  double streamed_bytes = 0;  // weights streamed in layer order, in large sequential reads
  double stream_reads = 0;    // as many
  double row_reads = 0;  // rows of the embeddings, and the bytes around them that are read to verify them
  double row_bytes = 0;
  double bundles_used = 0;  // by the selectors, all layers
  double bundles_active = 0;  // of these, with an activation that is not 0
  double bundles_missed = 0;
  double bundles_in_vain = 0;  // read for wrong guesses of early prediction
  double demand_reads = 0;  // of neighbours together, as often as chance brings them together
  double demand_bytes = 0;
  double touched_bytes = 0;    // weights, predictors and half of the KV cache that the processor goes through
  // Of these, gone through before a layer's bundles are asked for and after they have come: no read of bundles hides behind them.
  double touched_before_reads = 0;
  double touched_after_reads = 0;
  double touched_of_bundles = 0;  // of these, what grows with the bundles that a layer uses
  std::vector<TouchedWeights> touched_weights;  // those whose products were measured (DeviceProfile::products)
  std::vector<double> layer_shares;  // of the bundles used, each layer's; empty: no bundles on demand
  int num_threads = 1;
  bool overlap = true;
  // Of the products where memory is the limit: what was assumed, or kProductsShareOfMemory of the profile's.
  double memory_bytes_per_second = kAssumedMemoryBytesPerSecond;
  double slow_product_seconds = 0;  // more than that, for weights that the processor multiplies slower
  double alone_seconds = 0;    // of the engine thread between a layer's products; counted before the layer's reads
  double compute_seconds = 0;  // touched_bytes at that, these two, and the processor's part of the reads, where it was measured
  // Nothing when the device was not measured. With overlap a layer costs the larger of its reading and of the computing that its reads
  // hide behind, and one read's latency; without it the sum of its reading and of all else.
  std::optional<double> read_seconds;
  std::optional<double> token_seconds;

  double read_bytes() const { return streamed_bytes + row_bytes + demand_bytes; }
  double hit_share() const { return bundles_used > 0 ? 1.0 - bundles_missed / bundles_used : 1.0; }
};

// `use` is looked at only where bundles live on demand. `profile`: nullptr when the device was not measured.
Expectation ExpectDecode(const ModelFile& model, const EnginePlan& plan, const NeuronUse& use,
                         const DeviceProfile* profile);

// The times of an expectation, all that depends on the device: of ExpectDecode's, or anew for another device.
void ExpectTimes(const DeviceProfile* profile, Expectation* expectation);

// The bound of design.md section 1: max(reads / IOPS, bytes / bandwidth, bytes touched / memory bandwidth)
// for what was (or will be) read. `sequential_bytes` in large reads, `random_reads` of random_bytes together.
double ReadBoundSeconds(const DeviceProfile& profile, double sequential_bytes, double random_reads,
                        double random_bytes);

}  // namespace frugal
