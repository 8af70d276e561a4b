#include "src/engine/plan.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "src/base/bytes.h"
#include "src/engine/gate_sketch_load.h"
#include "src/engine/process_memory.h"
#include "src/engine/selector_choice.h"
#include "src/model/kv_cache.h"
#include "src/model/forward.h"
#include "src/select/low_rank_predictor.h"

namespace frugal {
namespace {

constexpr uint64_t kSmallBlockBytes = 64 * kKiB;
constexpr uint32_t kSmallContextStep = 64;
constexpr uint32_t kDefaultContext = 2048;
// Of the FFN's neurons, one in so many has a slot before attention is resident (docs/decisions/0013-first-slots-before-attention.md).
constexpr uint32_t kFirstSlotsDivisor = 16;

// What the planner varies. Everything else of a plan follows from it and the options.
struct Choice {
  uint32_t context = 0;
  uint32_t max_rows = 1;
  uint64_t block_bytes = kSmallBlockBytes;
  uint32_t num_stream_buffers = 2;
  uint32_t num_scan_buffers = 0;
  uint32_t queue_depth = 16;
  bool early = false;
  uint64_t resident_bytes = 0;
  uint32_t num_slots = 0;
};

class Planner {
 public:
  Planner(const ModelFile& model, const PredictorInfo* predictor, const TokenizerBytes& tokenizer_bytes, const EngineOptions& options)
      : model_(model), config_(model.config()), predictor_(predictor), tokenizer_bytes_(tokenizer_bytes), options_(options) {}

  Result<EnginePlan> Make();

 private:
  // Where there are no bundles to read on demand (an ordinary GGUF), or all of them are needed, flash mode keeps what fits and streams
  // the rest, as hybrid does.
  bool flash() const {
    return options_.mode == RunMode::kFlash && model_.has_bundles() && (config_.activation.is_sparse() || options_.sparsify);
  }
  bool keeps_what_fits() const { return options_.mode == RunMode::kHybrid || (options_.mode == RunMode::kFlash && !flash()); }
  bool use_predictor() const { return selector_ == SelectorKind::kPredictor; }
  bool may_guess_early() const {
    if (!flash() || !options_.early || !options_.overlap) return false;
    if (!use_predictor()) return options_.sketch_early && SketchMayGuessEarly(model_, selector_);
    return predictor_->early_bytes > 0 && !config_.parallel();  // parallel blocks select before attention anyway
  }
  uint32_t num_bundles() const { return config_.num_layers * config_.ffn_size; }
  Status CheckOptions() const;
  Result<EnginePlan> MakeForSelector(uint32_t context) const;
  uint32_t LongestContext() const;
  uint32_t ChooseContext() const;
  Choice Smallest(uint32_t context) const;
  EnginePlan Build(const Choice& choice) const;
  bool Fits(const Choice& choice) const {
    return options_.ram_bytes == 0 || Build(choice).peak_bytes() <= options_.ram_bytes;
  }
  void TryUpgrade(Choice& choice, const std::function<void(Choice&)>& upgrade) const;
  void Grow(Choice& choice) const;
  void GrowResident(Choice& choice) const;
  void GrowSlots(Choice& choice) const;
  void PrepareToStream(Choice& choice) const;
  Error Refusal(uint32_t context) const;
  void AddLedger(const Choice& choice, const BlockLayout& layout, EnginePlan& plan) const;
  void PlaceTensors(const BlockLayout& layout, EnginePlan& plan) const;

  const ModelFile& model_;
  const ModelConfig& config_;
  const PredictorInfo* predictor_;
  const TokenizerBytes tokenizer_bytes_;
  const EngineOptions& options_;
  SelectorKind selector_ = SelectorKind::kAll;
};

Choice Planner::Smallest(uint32_t context) const {
  Choice choice;
  choice.context = context;
  choice.max_rows = options_.exact_batch ? options_.max_batch : std::max<uint32_t>(1, options_.logit_rows);
  if (options_.mode == RunMode::kResident || options_.resident_type) choice.resident_bytes = ~uint64_t{0};
  if (flash()) {
    choice.num_slots = std::min(num_bundles(), BundleCache::kMinSlots);
    if (options_.slots_share) {
      choice.num_slots = static_cast<uint32_t>(std::lround(*options_.slots_share * num_bundles()));
    }
    if (options_.num_slots) choice.num_slots = *options_.num_slots;
    choice.num_slots = std::clamp(choice.num_slots, BundleCache::kMinSlots, std::max(num_bundles(), BundleCache::kMinSlots));
  }
  // Of a large model the list of many small blocks takes more than larger buffers.
  for (uint64_t block_bytes : {128 * kKiB, 256 * kKiB, 512 * kKiB}) {
    Choice larger = choice;
    larger.block_bytes = block_bytes;
    if (Build(larger).peak_bytes() < Build(choice).peak_bytes()) choice = larger;
  }
  return choice;
}

void Planner::AddLedger(const Choice& choice, const BlockLayout& layout, EnginePlan& plan) const {
  MemoryLedger& ledger = plan.ledger;
  ledger.Add("resident weights", layout.resident_bytes, "matrices (and bundles) that stay in RAM");
  ledger.Add("vectors", Weights::VectorBytes(model_), "norms and biases as float32");
  if (plan.use_predictor()) {
    const auto scratch_bytes = [&](uint32_t max_rows) {
      return LowRankPredictor::ScratchBytes(model_.config().ffn_size, predictor_->max_rank, max_rows, options_.num_threads);
    };
    uint64_t bytes = predictor_->on_time_bytes + scratch_bytes(choice.max_rows);
    if (plan.use_early) bytes += predictor_->early_bytes + scratch_bytes(Forward::kEarlyRows);
    ledger.Add("predictors", bytes, plan.use_early ? "on-time and early" : "on-time");
  }
  if (HasSketch(model_, plan.selector)) {
    const GateSketchOptions sketch = SketchOptionsOf(model_, plan.selector, choice.max_rows, options_.num_threads);
    const DType type = GateSketch::TypeOf(sketch.row_types[0], sketch.hidden_size, sketch.precision);
    ledger.Add("gate sketch", GateSketchBytes(sketch), fmt::format("{} rows of {}", num_bundles(), DTypeName(type)));
  }
  ledger.Add("KV cache", KvCache::SizeBytes(config_, config_.num_layers, choice.context, options_.kv_type),
             fmt::format("{} tokens, {} heads of {}, {}", choice.context, config_.num_kv_heads, config_.head_dim,
                         DTypeName(options_.kv_type)));
  if (flash()) {
    BundleSpace space;
    space.num_layers = config_.num_layers;
    space.bundles_per_layer = config_.ffn_size;
    space.stride_bytes = model_.bundles()[0].stride_bytes;
    ledger.Add("slots", BundleCache::SlotBytes(space, choice.num_slots),
               fmt::format("{} bundles of {} B, {:.1f}% of the FFN", choice.num_slots, space.stride_bytes,
                           100.0 * choice.num_slots / num_bundles()));
    ledger.Add("cache tables",
               BundleCache::TableBytes(space, choice.num_slots) + BundleCache::ScrapBytes(space, plan.weights.cache));
  }
  ledger.Add("hashes", Weights::HashTableBytes(model_, plan.weights));
  ledger.Add("weight blocks", layout.TableBytes(), fmt::format("{} of at most {}", layout.blocks.size(), FormatSize(choice.block_bytes)));
  uint64_t buffers = RoundUp(layout.stream_buffer_bytes, 4096) * choice.num_stream_buffers;
  if (choice.num_scan_buffers > 0) {
    buffers += LayOutScan(model_, 0, choice.block_bytes).stream_buffer_bytes * choice.num_scan_buffers;
  }
  ledger.Add("I/O buffers", buffers + Weights::ReaderBytes(plan.weights_options) + Weights::ScratchBytes(model_) +
                 Weights::ConversionBytes(model_, plan.weights),
             fmt::format("queue depth {}", choice.queue_depth));
  ledger.Add("activations", Forward::MemoryBytes(config_, options_.num_threads, choice.max_rows, plan.max_logit_rows,
                                                 choice.context, Forward::InputsOf(model_, plan.weights)),
             fmt::format("batches of {}", choice.max_rows));
  // What is above is allocated when the files are closed again.
  const uint64_t later_bytes = ledger.total_bytes();
  ledger.Add("tokenizer", tokenizer_bytes_.held);
  if (tokenizer_bytes_.reading > later_bytes) {
    ledger.Add("tokenizer files", tokenizer_bytes_.reading - later_bytes, "read whole, before the weights");
  }
  // 8 bytes a page, and the upper levels.
  ledger.Add("page tables", ledger.total_bytes() / 4096 * 8 + 64 * kKiB);
  ledger.Add("process", ProcessBytes(options_.num_threads), "code, stacks, small objects, kernel memory");
}

void Planner::PlaceTensors(const BlockLayout& layout, EnginePlan& plan) const {
  std::vector<uint64_t> matrix_resident(model_.matrices().size(), 0);
  std::vector<uint64_t> bundle_resident(config_.num_layers, 0);
  std::vector<uint8_t> in_blocks(model_.matrices().size(), 0);
  for (const WeightBlock& block : layout.blocks) {
    const uint64_t bytes = block.resident ? block.extent.size_bytes : 0;
    if (block.matrix != kNoMatrix) {
      matrix_resident[block.matrix] += bytes;
      in_blocks[block.matrix] = 1;
    } else {
      bundle_resident[block.layer] += bytes;
    }
  }
  const auto type_in_memory = [&](uint32_t id) {
    const DType type = MemoryType(model_, plan.weights, id);
    return type == model_.matrices()[id].dtype ? std::string() : fmt::format(" as {}", DTypeName(type));
  };
  const auto where = [](uint64_t resident, uint64_t size) -> std::string {
    if (resident == size) return "resident";
    return resident == 0 ? "streamed" : "streamed, in part resident";
  };
  for (uint32_t id = 0; id < model_.matrices().size(); ++id) {
    const MatrixInfo& matrix = model_.matrices()[id];
    const uint64_t size = matrix.extent.size_bytes;
    const std::string place = in_blocks[id] != 0 ? where(matrix_resident[id], size) + type_in_memory(id) : "rows on demand";
    plan.tensors.push_back({matrix.name, place, size, matrix_resident[id]});
  }
  for (uint32_t layer = 0; layer < model_.bundles().size(); ++layer) {
    const BundleInfo& bundle = model_.bundles()[layer];
    plan.tensors.push_back({bundle.name, flash() ? "bundles on demand" : where(bundle_resident[layer], bundle.extent.size_bytes),
                            bundle.extent.size_bytes, bundle_resident[layer]});
  }
}

EnginePlan Planner::Build(const Choice& choice) const {
  EnginePlan plan;
  plan.ram_bytes = options_.ram_bytes;
  plan.context = choice.context;
  plan.max_rows = choice.max_rows;
  plan.max_logit_rows = std::min(choice.max_rows, std::max<uint32_t>(1, options_.logit_rows));
  plan.num_threads = options_.num_threads;
  plan.selector = selector_;
  plan.sparsified = options_.sparsify;
  plan.exact = !use_predictor() && !options_.sparsify;
  if (HasSketch(model_, selector_)) plan.exact = GateSketch::IsExact(SketchOptionsOf(model_, selector_, choice.max_rows, options_.num_threads));
  plan.use_early = choice.early;
  WeightPlan& weights = plan.weights;
  weights.ffn = flash() ? FfnPlacement::kOnDemand : FfnPlacement::kBlocks;
  weights.resident_bytes = choice.resident_bytes;
  weights.block_bytes = choice.block_bytes;
  weights.num_stream_buffers = choice.num_stream_buffers;
  weights.num_scan_buffers = choice.num_scan_buffers;
  weights.resident_type = options_.resident_type;
  weights.verify = options_.verify;
  weights.overlap = options_.overlap;
  weights.cache.num_slots = choice.num_slots;
  weights.cache.bundling = options_.bundling ? Bundling::kTogether : Bundling::kHalves;
  weights.cache.max_gap_bytes = options_.max_gap_bytes;
  weights.cache.policy.kind = options_.policy;
  weights.cache.policy.half_life_steps = options_.half_life_tokens;
  if (options_.window_tokens) {
    weights.cache.policy.kind = PolicyKind::kWindow;
    weights.cache.policy.window_steps = *options_.window_tokens;
  }
  if (!options_.window) {
    weights.cache.policy.kind = PolicyKind::kWindow;
    weights.cache.policy.window_steps = 0;
  }
  plan.weights_options.backend = options_.io;
  plan.weights_options.direct = options_.direct;
  plan.weights_options.queue_depth = choice.queue_depth;
  // Each thread of the pread pool costs 160 KiB; what a small budget has no room for, a small model does not need.
  const bool roomy = options_.ram_bytes == 0 || options_.ram_bytes >= 256 * kMiB;
  plan.weights_options.num_pread_threads = choice.queue_depth <= 16 ? 2 : (roomy ? 8 : 4);
  plan.weights_options.decorate_reader = options_.decorate_reader;
  const BlockLayout layout = LayOutBlocks(model_, weights);
  plan.streamed_bytes_per_token = layout.streamed_bytes;
  AddLedger(choice, layout, plan);
  PlaceTensors(layout, plan);
  return plan;
}

void Planner::TryUpgrade(Choice& choice, const std::function<void(Choice&)>& upgrade) const {
  Choice better = choice;
  upgrade(better);
  if (Fits(better)) choice = better;
}

// The most resident bytes that fit; everything when that fits.
void Planner::GrowResident(Choice& choice) const {
  Choice all = choice;
  all.resident_bytes = ~uint64_t{0};
  if (options_.mode != RunMode::kHybrid && Fits(all)) {
    choice = all;
    return;
  }
  uint64_t low = 0;
  uint64_t high = model_.streamable_bytes() + kMiB;
  for (int step = 0; step < 24 && low < high; ++step) {
    Choice middle = choice;
    middle.resident_bytes = low + (high - low + 1) / 2;
    if (Fits(middle)) {
      choice = middle;
      low = middle.resident_bytes;
    } else {
      high = middle.resident_bytes - 1;
    }
  }
}

void Planner::GrowSlots(Choice& choice) const {
  uint32_t low = choice.num_slots;
  uint32_t high = num_bundles();
  while (low < high) {
    Choice middle = choice;
    middle.num_slots = low + (high - low + 1) / 2;
    if (Fits(middle)) {
      low = middle.num_slots;
    } else {
      high = middle.num_slots - 1;
    }
  }
  choice.num_slots = std::max(low, choice.num_slots);
}

// Before weights become resident, where not all of them will: reads that are large enough for the device, and slots for a layer's neurons
// and those that are used most, of at most half of what is left.
void Planner::PrepareToStream(Choice& choice) const {
  const uint32_t first_slots = options_.slots_share || options_.num_slots ? choice.num_slots : num_bundles() / kFirstSlotsDivisor;
  Choice resident = choice;
  resident.resident_bytes = ~uint64_t{0};
  resident.num_slots = std::max(choice.num_slots, first_slots);
  if (Fits(resident)) return;
  const uint64_t planned_bytes = Build(choice).peak_bytes(), left_bytes = options_.ram_bytes - planned_bytes;
  for (uint64_t block_bytes : {128 * kKiB, 256 * kKiB, 512 * kKiB, kMiB}) {
    Choice larger = choice;
    larger.block_bytes = std::max(block_bytes, choice.block_bytes);
    larger.num_stream_buffers = 4;
    if (Build(larger).peak_bytes() <= planned_bytes + left_bytes / 32) choice = larger;
  }
  const uint64_t half_of_left = left_bytes / 2 / model_.bundles()[0].stride_bytes;
  choice.num_slots = std::max(choice.num_slots, static_cast<uint32_t>(std::min<uint64_t>(first_slots, half_of_left)));
}

// Spends what the smallest plan leaves, in the order of what a byte saves per token.
void Planner::Grow(Choice& choice) const {
  for (uint32_t rows : {4u, 16u, 32u, 64u, 128u, 512u}) {
    const uint32_t wanted = std::min(rows, options_.max_batch);
    // Flash and hybrid would rather have slots and resident weights; naive has nothing else to spend a budget on.
    const uint32_t most = flash() ? 4 : keeps_what_fits() ? 32 : 512;
    if (wanted <= choice.max_rows || rows > most) continue;
    TryUpgrade(choice, [&](Choice& better) { better.max_rows = wanted; });
  }
  if (!flash()) {
    for (uint64_t block_bytes : {256 * kKiB, kMiB, 4 * kMiB}) {
      // A stream buffer larger than a sixteenth of the model would be memory that hybrid could hold weights in.
      if (block_bytes * 16 > model_.streamable_bytes()) break;
      TryUpgrade(choice, [&](Choice& better) { better.block_bytes = std::max(block_bytes, better.block_bytes); });
    }
    // Two on their way while one is used; more were slower as often as not (docs/decisions/0017-huge-pages-for-reads.md).
    TryUpgrade(choice, [](Choice& better) { better.num_stream_buffers = 3; });
  }
  if (keeps_what_fits()) GrowResident(choice);
  if (!flash()) return;
  TryUpgrade(choice, [](Choice& better) { better.queue_depth = 64; });
  PrepareToStream(choice);
  GrowResident(choice);
  if (!options_.slots_share && !options_.num_slots) GrowSlots(choice);
  // What is beyond the whole FFN may go to prefill; so may a part that is small beside the slots.
  const auto with_slots_kept = [&](uint32_t kept_percent, const std::function<void(Choice&)>& upgrade) {
    Choice better = choice;
    upgrade(better);
    if (!options_.slots_share && !options_.num_slots) {
      better.num_slots = BundleCache::kMinSlots;
      if (!Fits(better)) return;
      GrowSlots(better);
      if (uint64_t{better.num_slots} * 100 < uint64_t{choice.num_slots} * kept_percent) return;
    } else if (!Fits(better)) {
      return;
    }
    choice = better;
  };
  // Early predictors hide reads, slots avoid them; while weights are streamed the device never rests. A sketch that guesses early takes no
  // memory.
  if (use_predictor() && may_guess_early() && choice.resident_bytes == ~uint64_t{0}) {
    with_slots_kept(85, [](Choice& better) { better.early = true; });
  }
  if (!use_predictor()) choice.early = may_guess_early();
  for (uint32_t rows : {16u, 32u, 64u, 128u, 512u}) {
    const uint32_t wanted = std::min(rows, options_.max_batch);
    if (wanted > choice.max_rows) with_slots_kept(96, [&](Choice& better) { better.max_rows = wanted; });
  }
  for (uint64_t block_bytes : {128 * kKiB, 512 * kKiB, kMiB, 4 * kMiB, 8 * kMiB}) {
    with_slots_kept(99, [&](Choice& better) {
      better.num_scan_buffers = 2;
      better.block_bytes = std::max(block_bytes, choice.block_bytes);
    });
  }
  // So many are read while attention runs.
  if (choice.num_scan_buffers > 0) with_slots_kept(98, [](Choice& better) { better.num_scan_buffers = 4; });
}

Error Planner::Refusal(uint32_t context) const {
  const uint64_t smallest = Build(Smallest(context)).peak_bytes();
  return MakeError(ErrorCode::kDoesNotFit,
                   "{}: does not fit {} (--ram {}): the smallest budget that works in {} mode with a context of {} is {} bytes (--ram {}M)",
                   model_.path(), FormatSize(options_.ram_bytes), options_.ram_bytes, RunModeName(options_.mode), context, smallest,
                   (smallest + kMiB - 1) / kMiB);
}

Status Planner::CheckOptions() const {
  const uint32_t most = config_.max_context;
  if (options_.context > most) {
    return MakeError(ErrorCode::kUsage, "{}: context {} is above the model's {}", model_.path(), options_.context, most);
  }
  if (options_.slots_share && !(*options_.slots_share > 0.0 && *options_.slots_share <= 1.0)) {
    return MakeError(ErrorCode::kUsage, "--slots: {} is out of range: expected more than 0% and at most 100%", *options_.slots_share);
  }
  if (options_.kv_type != DType::kF32 && options_.kv_type != DType::kF16) {
    return MakeError(ErrorCode::kUsage, "--kv: {} is not supported: expected f32 or f16", DTypeName(options_.kv_type));
  }
  if (options_.resident_type && options_.resident_type != DType::kQ8_0) {
    return MakeError(ErrorCode::kUsage, "--resident: {} is not supported: expected q8_0", DTypeName(*options_.resident_type));
  }
  if (options_.resident_type && options_.mode != RunMode::kFlash && options_.mode != RunMode::kResident) {
    return MakeError(ErrorCode::kUsage, "--resident: {} mode streams matrices as they are: expected --mode flash or resident",
                     RunModeName(options_.mode));
  }
  if (options_.logit_rows > options_.max_batch || options_.max_batch == 0) {
    return MakeError(ErrorCode::kUsage, "batch {} is smaller than the {} rows whose logits are wanted", options_.max_batch, options_.logit_rows);
  }
  return {};
}

uint32_t Planner::LongestContext() const { return std::min(config_.max_context, kDefaultContext); }

// One that nobody asked for has as many tokens as fit, and, where slots or weights have a use for memory, at most half of what the shortest
// leaves.
uint32_t Planner::ChooseContext() const {
  const uint32_t longest = LongestContext();
  if (options_.context != 0) return options_.context;
  if (options_.ram_bytes == 0 || longest <= kSmallContextStep) return longest;
  const auto bytes_of = [this](uint32_t context) { return Build(Smallest(context)).peak_bytes(); };
  uint64_t limit = options_.ram_bytes;
  const uint64_t least = bytes_of(kSmallContextStep);
  if ((flash() || keeps_what_fits()) && least < limit) limit -= (limit - least) / 2;
  if (bytes_of(longest) <= limit) return longest;
  uint32_t fits = 1, too_long = (longest - 1) / kSmallContextStep + 1;  // steps
  while (fits + 1 < too_long) {
    const uint32_t middle = (fits + too_long) / 2;
    (bytes_of(middle * kSmallContextStep) <= limit ? fits : too_long) = middle;
  }
  return fits * kSmallContextStep;
}

Result<EnginePlan> Planner::MakeForSelector(uint32_t context) const {
  Choice choice = Smallest(context);
  if (!Fits(choice)) return Refusal(context);
  const uint64_t smallest = Build(choice).peak_bytes();
  const bool streams = options_.mode == RunMode::kNaive || options_.mode == RunMode::kHybrid;
  if (streams || (options_.mode == RunMode::kFlash && options_.ram_bytes != 0)) Grow(choice);
  if (options_.ram_bytes == 0 || options_.mode == RunMode::kResident) {
    TryUpgrade(choice, [&](Choice& better) {
      better.queue_depth = 64;
      if (!options_.exact_batch) better.max_rows = options_.max_batch;
    });
    if (options_.ram_bytes == 0) {
      if (options_.mode == RunMode::kFlash) GrowResident(choice);
      if (flash() && !options_.slots_share && !options_.num_slots) choice.num_slots = num_bundles();
      if (flash() && !options_.num_slots) choice.num_scan_buffers = 2;
      choice.early = may_guess_early();
      if (options_.mode == RunMode::kHybrid) choice.resident_bytes = model_.streamable_bytes() / 2;
    }
  }
  EnginePlan plan = Build(choice);
  plan.smallest_bytes = smallest;
  plan.context_reduced = options_.context == 0 && context < LongestContext();
  return plan;
}

Result<EnginePlan> Planner::Make() {
  FRUGAL_TRY(CheckOptions());
  FRUGAL_ASSIGN(selector_, ChooseSelector(model_, predictor_, options_));
  const uint32_t context = ChooseContext();
  FRUGAL_ASSIGN(EnginePlan plan, MakeForSelector(context));
  // All neurons without a read are better than a guess of them; with reads, a sketch that fits is.
  if (!MayTakeSketch(model_, selector_, options_) || plan.weights.cache.num_slots >= num_bundles()) return plan;
  selector_ = SelectorKind::kSketch;
  Result<EnginePlan> with_sketch = MakeForSelector(context);
  if (!with_sketch) return plan;
  with_sketch->smallest_bytes = plan.smallest_bytes;
  return with_sketch;
}

}  // namespace

const char* RunModeName(RunMode mode) {
  switch (mode) {
    case RunMode::kResident:
      return "resident";
    case RunMode::kNaive:
      return "naive";
    case RunMode::kHybrid:
      return "hybrid";
    case RunMode::kFlash:
      break;
  }
  return "flash";
}

uint64_t ProcessBytes(int num_threads) { return kCodeBytes + 7 * kMiB / 4 + uint64_t(num_threads) * 64 * kKiB; }

Result<EnginePlan> MakePlan(const ModelFile& model, const PredictorInfo* predictor, const TokenizerBytes& tokenizer_bytes,
                            const EngineOptions& options) {
  return Planner(model, predictor, tokenizer_bytes, options).Make();
}

}  // namespace frugal
