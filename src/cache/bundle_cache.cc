#include "src/cache/bundle_cache.h"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <bit>

#include "src/base/bytes.h"

namespace frugal {
namespace {

constexpr uint64_t kSectorBytes = 512;  // bundles are multiples of it (docs/packed-model.md)

// Slots lie all over memory: this many entries of a list ahead they are asked for.
constexpr size_t kFetchAhead = 8;
// Slots kept free for the next misses, and how many one call of FreeAhead frees.
constexpr uint32_t kFreeAhead = 256;
constexpr uint32_t kFreeAtOnce = 16;

// Bundles from the first wanted one, bit 0, to the last.
uint32_t SpanOf(uint64_t wanted) { return static_cast<uint32_t>(std::bit_width(wanted)); }

}  // namespace

BundleCache::BundleCache(const BundleSpace& space, const CacheOptions& options, WholeReader& reader)
    : space_(space),
      options_(options),
      reader_(reader),
      planner_({.max_gap_bytes = LongestGapBytes(space.stride_bytes, options),
                .max_read_bytes = std::min(options.max_read_bytes, kMaxSpan * space.stride_bytes),
                .max_segments = kMaxJoined}) {}

Result<std::unique_ptr<BundleCache>> BundleCache::Create(const BundleSpace& space, const CacheOptions& options,
                                                         WholeReader& reader) {
  CHECK(options.num_slots > 0);
  CHECK(space.stride_bytes % kSectorBytes == 0);
  CHECK(options.verify == VerifyMode::kOff || space.hashes.size() == space.num_bundles());
  std::unique_ptr<BundleCache> cache(new BundleCache(space, options, reader));
  const uint32_t num_slots = options.num_slots;
  const uint32_t num_bundles = space.num_bundles();
  FRUGAL_ASSIGN(cache->memory_, AlignedBuffer::Allocate(uint64_t{num_slots} * space.stride_bytes));
  if (const uint64_t scrap_bytes = ScrapBytes(space, options); scrap_bytes > 0) {
    FRUGAL_ASSIGN(cache->scraps_, AlignedBuffer::Allocate(scrap_bytes));
    for (uint8_t i = 0; i < kNumScraps; ++i) cache->free_scraps_.push_back(i);
  }
  cache->policy_ = MakeEvictionPolicy(options.policy, num_bundles);
  cache->slot_of_.assign(num_bundles, kNoSlot);
  cache->slots_.resize(num_slots);
  cache->verified_.assign((num_bundles + 63) / 64, 0);
  cache->heap_.Reserve(num_slots);
  cache->free_slots_.resize(num_slots);
  for (uint32_t i = 0; i < num_slots; ++i) cache->free_slots_[i] = num_slots - 1 - i;
  cache->misses_.reserve(std::min(space.bundles_per_layer, num_slots));
  cache->guessed_.reserve(num_slots / 2);
  cache->next_guessed_.reserve(num_slots / 2);
  cache->unranked_.reserve(num_slots);
  cache->waiting_downs_.reserve(num_slots);
  cache->reads_.resize(num_slots);
  cache->free_reads_.resize(num_slots);
  for (uint32_t i = 0; i < num_slots; ++i) cache->free_reads_[i] = i;
  cache->queue_.resize(num_slots);
  return cache;
}

// Slots are the kernel's until their reads complete.
BundleCache::~BundleCache() { DrainAndDiscard(reader_); }

uint64_t BundleCache::SlotBytes(const BundleSpace& space, uint32_t num_slots) {
  return RoundUp(uint64_t{num_slots} * space.stride_bytes, 4096);
}

uint64_t BundleCache::TableBytes(const BundleSpace& space, uint32_t num_slots) {
  const uint64_t num_bundles = space.num_bundles();
  const uint64_t per_slot = sizeof(Slot) + 7 * sizeof(uint32_t) + sizeof(PendingRead);
  return num_bundles * 4 + num_bundles / 8 + PolicyMemoryBytes(space.num_bundles()) + WideHeap::MemoryBytes(num_slots) +
         num_slots * per_slot;
}

// Scraps take a hundredth of the slots' memory at most.
uint64_t BundleCache::LongestGapBytes(uint64_t stride_bytes, const CacheOptions& options) {
  if (options.bundling == Bundling::kHalves) return 0;
  const uint64_t most = options.num_slots * stride_bytes / 100 / kNumScraps;
  return RoundDown(std::min({options.max_gap_bytes, options.max_read_bytes, most}), stride_bytes);
}

uint64_t BundleCache::ScrapBytes(const BundleSpace& space, const CacheOptions& options) {
  return kNumScraps * LongestGapBytes(space.stride_bytes, options);
}

void BundleCache::NoteUses(uint32_t layer, std::span<const uint32_t> positions, std::span<const uint32_t> counts) {
  const uint32_t base = layer * space_.bundles_per_layer;
  for (size_t i = 0; i < positions.size(); ++i) policy_->OnUse(base + positions[i], step_, counts[i]);
}

void BundleCache::PushHeap(uint32_t index) {
  Slot& slot = slots_[index];
  if (slot.in_heap) return;
  slot.in_heap = true;
  heap_.Push({policy_->Priority(slot.bundle), index});
}

// An empty slot; kNoSlot when every slot is pinned or reading.
uint32_t BundleCache::TakeSlot() {
  if (free_slots_.empty() && !Evict()) return kNoSlot;
  const uint32_t index = free_slots_.back();
  free_slots_.pop_back();
  return index;
}

void BundleCache::FreeAhead() {
  const size_t wanted = std::min(kFreeAhead, options_.num_slots / 64);
  for (uint32_t i = 0; i < kFreeAtOnce && free_slots_.size() < wanted && Evict(); ++i) {
  }
}

// Empties the ready, unpinned slot of lowest priority; false without one. Entries of the heap may be older than their slot's last use:
// a popped entry whose bundle has risen since goes back.
bool BundleCache::Evict() {
  while (!heap_.empty()) {
    const auto [priority, index] = heap_.Pop();
    Slot& slot = slots_[index];
    slot.in_heap = false;
    if (slot.state != SlotState::kReady) continue;  // arrival puts it back
    if (pinned(slot)) {
      unranked_.push_back(index);
      continue;
    }
    if (policy_->Priority(slot.bundle) > priority) {
      PushHeap(index);
      continue;
    }
    DropSlot(index);
    return true;
  }
  return false;
}

void BundleCache::DropSlot(uint32_t index) {
  Slot& slot = slots_[index];
  DCHECK(slot.state == SlotState::kReady && !pinned(slot));
  slot_of_[slot.bundle] = kNoSlot;
  slot.state = SlotState::kEmpty;
  free_slots_.push_back(index);
}

void BundleCache::StartReading(uint32_t bundle, uint32_t index) {
  slot_of_[bundle] = index;
  Slot& slot = slots_[index];
  slot.bundle = bundle;
  slot.pin = kNoPin;
  slot.state = SlotState::kReading;
  slot.up_arrived = false;
  slot.prefetched = false;
  ++num_reading_;
}

void BundleCache::CountAsked(Slot& slot) {
  slot.prefetched = false;
  if (slot.state == SlotState::kReady) {
    ++statistics_.num_hits;
  } else {
    ++statistics_.num_late_hits;
  }
}

size_t BundleCache::PinPresent(uint32_t layer, std::span<const uint32_t> positions, size_t max_pins) {
  const uint32_t base = layer * space_.bundles_per_layer;
  size_t num_pinned = 0;
  for (size_t i = 0; i < positions.size() && num_pinned < max_pins; ++i) {
    const uint32_t slot = slot_of_[base + positions[i]];
    if (slot == kNoSlot) continue;
    if (!pinned(slots_[slot])) slots_[slot].pin = guess_pin_;
    ++num_pinned;
  }
  return num_pinned;
}

void BundleCache::FetchSlot(uint32_t slot) const {
  if (slot != kNoSlot) __builtin_prefetch(&slots_[slot], 1);
}

size_t BundleCache::Acquire(uint32_t layer, std::span<const uint32_t> positions, std::span<uint32_t> slots) {
  const uint32_t base = layer * space_.bundles_per_layer;
  misses_.clear();
  size_t taken = 0;
  for (; taken < positions.size(); ++taken) {
    if (taken + kFetchAhead < positions.size()) FetchSlot(slot_of_[base + positions[taken + kFetchAhead]]);
    const uint32_t position = positions[taken];
    const uint32_t bundle = base + position;
    uint32_t slot = slot_of_[bundle];
    if (slot != kNoSlot) {
      CountAsked(slots_[slot]);
    } else {
      slot = TakeSlot();
      if (slot == kNoSlot) break;
      StartReading(bundle, slot);
      ++statistics_.num_misses;
      misses_.push_back(position);
    }
    if (slots_[slot].pin != kPinForGood) slots_[slot].pin = asked_pin_;
    slots[taken] = slot;
    if (misses_.size() == misses_.capacity()) {
      QueueReads(layer, misses_);
      misses_.clear();
    }
  }
  QueueReads(layer, misses_);
  return taken;
}

void BundleCache::Unpin(std::span<const uint32_t> slots) {
  for (size_t i = 0; i < slots.size(); ++i) {
    if (i + kFetchAhead < slots.size()) FetchSlot(slots[i + kFetchAhead]);
    if (slots_[slots[i]].pin != kPinForGood) slots_[slots[i]].pin = kNoPin;
  }
  PushUnpinned();
}

// What is ready and unpinned again is ranked; what is pinned for good never.
void BundleCache::PushUnpinned() {
  size_t num_kept = 0;
  for (const uint32_t index : unranked_) {
    const Slot& slot = slots_[index];
    if (slot.state != SlotState::kReady || slot.pin == kPinForGood) continue;
    if (pinned(slot)) {
      unranked_[num_kept++] = index;
    } else {
      PushHeap(index);
    }
  }
  unranked_.resize(num_kept);
}

void BundleCache::BeginUse() {
  UnpinGuesses();
  std::swap(guessed_, next_guessed_);
  guess_pin_ = next_guess_pin_;
  next_guess_pin_ = NewPin();
}

void BundleCache::UnpinGuesses() {
  for (const uint32_t slot : guessed_) {
    if (slots_[slot].prefetched) ++statistics_.num_prefetched_unused;
    slots_[slot].prefetched = false;
  }
  guessed_.clear();
  guess_pin_ = kNoPin;
  PushUnpinned();
}

// A slot whose mark is of a use so long ago that it is taken again stays for one use more.
void BundleCache::EndUse() {
  asked_pin_ = NewPin();
  UnpinGuesses();
}

void BundleCache::Prefetch(uint32_t layer, std::span<const uint32_t> positions) {
  const uint32_t base = layer * space_.bundles_per_layer;
  // Half of the pool at most is held for guesses; the on-time set needs the rest.
  const size_t limit = std::min<size_t>(options_.num_slots / 2 - next_guessed_.size(), positions.size());
  misses_.clear();
  for (size_t i = 0; i < limit; ++i) {
    if (i + kFetchAhead < positions.size()) FetchSlot(slot_of_[base + positions[i + kFetchAhead]]);
    const uint32_t position = positions[i];
    const uint32_t bundle = base + position;
    uint32_t slot = slot_of_[bundle];
    if (slot == kNoSlot) {
      slot = TakeSlot();
      if (slot == kNoSlot) break;
      StartReading(bundle, slot);
      slots_[slot].prefetched = true;
      next_guessed_.push_back(slot);
      ++statistics_.num_prefetched;
      misses_.push_back(position);
    }
    if (slots_[slot].pin != kPinForGood) slots_[slot].pin = next_guess_pin_;
    if (misses_.size() == misses_.capacity()) {
      QueueReads(layer, misses_);
      misses_.clear();
    }
  }
  QueueReads(layer, misses_);
}

size_t BundleCache::PinForGood(uint32_t layer, std::span<const uint32_t> positions, std::span<uint32_t> slots) {
  const CacheStatistics before = statistics_;
  const size_t taken = Acquire(layer, positions, slots);
  for (const uint32_t slot : slots.first(taken)) slots_[slot].pin = kPinForGood;
  statistics_ = before;  // filling the cache is not traffic of a token
  return taken;
}

// Bundles of one layer that follow each other in the file, or nearly do, become one vectored read.
void BundleCache::QueueReads(uint32_t layer, std::span<const uint32_t> positions) {
  const uint32_t base = layer * space_.bundles_per_layer;
  if (options_.bundling == Bundling::kHalves) {
    for (uint32_t position : positions) {
      QueueRead({.wanted = 1, .first_bundle = base + position, .half = Half::kUp});
      ++num_ups_;
      waiting_downs_.push_back(base + position);
    }
    SubmitQueued();
    return;
  }
  std::array<PlannedRead, 32> reads;
  while (!positions.empty()) {
    const size_t count = planner_.Plan(positions, {space_.layer_offset_bytes[layer], space_.stride_bytes}, reads);
    for (const PlannedRead& read : std::span(reads).first(count)) {
      QueuePlanned(layer, positions.subspan(read.first, read.count));
    }
    positions = positions.subspan(reads[count - 1].first + reads[count - 1].count);
  }
  SubmitQueued();
}

// One read; without a scrap for its gaps, one for each run of neighbours.
void BundleCache::QueuePlanned(uint32_t layer, std::span<const uint32_t> positions) {
  const uint32_t base = layer * space_.bundles_per_layer;
  const bool has_gaps = positions.back() - positions.front() + 1 != positions.size();
  PendingRead read{.wanted = 1, .first_bundle = base + positions[0]};
  if (has_gaps && !free_scraps_.empty()) {
    read.scrap = free_scraps_.back();
    free_scraps_.pop_back();
  }
  for (size_t i = 1; i < positions.size(); ++i) {
    if (read.scrap == kNoScrap && positions[i] != positions[i - 1] + 1) {
      QueueRead(read);
      read = {.wanted = 0, .first_bundle = base + positions[i]};
    }
    read.wanted |= uint64_t{1} << (base + positions[i] - read.first_bundle);
  }
  QueueRead(read);
}

void BundleCache::QueueRead(PendingRead read) {
  CHECK(!free_reads_.empty());
  const uint32_t index = free_reads_.back();
  free_reads_.pop_back();
  reads_[index] = read;
  queue_[(queue_head_ + queue_size_) % queue_.size()] = index;
  ++queue_size_;
}

void BundleCache::SubmitQueued() {
  while (queue_size_ > 0 && TrySubmitRead(queue_[queue_head_])) {
    queue_head_ = (queue_head_ + 1) % queue_.size();
    --queue_size_;
  }
}

bool BundleCache::TrySubmitRead(uint32_t read_index) {
  const PendingRead& read = reads_[read_index];
  const uint32_t layer = read.first_bundle / space_.bundles_per_layer;
  const uint32_t position = read.first_bundle % space_.bundles_per_layer;
  uint64_t begin = 0;
  uint64_t end = space_.stride_bytes;
  if (read.half == Half::kUp) end = RoundUp(space_.up_bytes, kSectorBytes);
  if (read.half == Half::kDown) begin = RoundDown(space_.up_bytes, kSectorBytes);
  std::array<iovec, kMaxJoined> destinations;
  size_t count = 0;
  for (uint32_t i = 0; i < SpanOf(read.wanted); ++count) {
    if (((read.wanted >> i) & 1) != 0) {
      const uint64_t slot = slot_of_[read.first_bundle + i];
      destinations[count] = {memory_.data() + slot * space_.stride_bytes + begin, end - begin};
      ++i;
      continue;
    }
    const uint32_t gap = static_cast<uint32_t>(std::countr_zero(read.wanted >> i));
    destinations[count] = {scraps_.data() + read.scrap * planner_.limits().max_gap_bytes, gap * space_.stride_bytes};
    i += gap;
  }
  WholeRead whole;
  whole.file = space_.file;
  whole.offset_bytes = space_.layer_offset_bytes[layer] + position * space_.stride_bytes + begin;
  whole.destinations = {destinations.data(), count};
  whole.tag = kTagOwner | read_index;
  return reader_.TrySubmit(whole);
}

void BundleCache::QueueWaitingDowns() {
  for (uint32_t bundle : waiting_downs_) QueueRead({.wanted = 1, .first_bundle = bundle, .half = Half::kDown});
  waiting_downs_.clear();
}

Status BundleCache::OnCompletion(const WholeCompletion& completion) {
  const uint32_t read_index = static_cast<uint32_t>(completion.tag & ~kTagOwner);
  const PendingRead read = reads_[read_index];
  free_reads_.push_back(read_index);
  if (read.scrap != kNoScrap) free_scraps_.push_back(read.scrap);
  if (completion.failed) {
    const uint32_t layer = read.first_bundle / space_.bundles_per_layer;
    const uint64_t from_layer = completion.failure.offset_bytes - space_.layer_offset_bytes[layer];
    const uint32_t failed = layer * space_.bundles_per_layer +
                            static_cast<uint32_t>(std::min<uint64_t>(from_layer / space_.stride_bytes,
                                                                      space_.bundles_per_layer - 1));
    num_reading_ -= static_cast<size_t>(std::popcount(read.wanted));  // the slots stay unusable: the engine ends after an error
    return ReadError(failed, completion.failure);
  }
  if (read.half == Half::kUp) {
    slots_[slot_of_[read.first_bundle]].up_arrived = true;
    if (--num_ups_ == 0) QueueWaitingDowns();
    SubmitQueued();
    return {};
  }
  const uint32_t num_gaps = SpanOf(read.wanted) - static_cast<uint32_t>(std::popcount(read.wanted));
  statistics_.gap_bytes += num_gaps * space_.stride_bytes;
  for (uint64_t rest = read.wanted; rest != 0; rest &= rest - 1) {
    FRUGAL_TRY(FinishBundle(read.first_bundle + static_cast<uint32_t>(std::countr_zero(rest))));
  }
  SubmitQueued();
  return {};
}

Status BundleCache::FinishBundle(uint32_t bundle) {
  const uint32_t slot = slot_of_[bundle];
  --num_reading_;
  const uint64_t bit = uint64_t{1} << (bundle % 64);
  const bool verified = (verified_[bundle / 64] & bit) != 0;
  if (options_.verify == VerifyMode::kAlways || (options_.verify == VerifyMode::kFirst && !verified)) {
    const std::byte* bytes = memory_.data() + uint64_t{slot} * space_.stride_bytes;
    if (XXH3_64bits(bytes, space_.stride_bytes) != space_.hashes[bundle]) {
      const uint32_t layer = bundle / space_.bundles_per_layer;
      const uint32_t position = bundle % space_.bundles_per_layer;
      return BadModel("{}: {}: row {} at offset {}: its bytes do not match their hash: the file is damaged", space_.file->path(),
                      space_.layer_tensor_names[layer], position,
                      space_.layer_offset_bytes[layer] + position * space_.stride_bytes);
    }
    verified_[bundle / 64] |= bit;
  }
  slots_[slot].state = SlotState::kReady;
  if (pinned(slots_[slot])) {
    if (!slots_[slot].in_heap) unranked_.push_back(slot);
  } else {
    PushHeap(slot);
  }
  return {};
}

Error BundleCache::ReadError(uint32_t bundle, const ReadFailure& failure) const {
  const uint32_t layer = bundle / space_.bundles_per_layer;
  return MakeError(ErrorCode::kIo, "{}: {}: row {}: {}", space_.file->path(), space_.layer_tensor_names[layer],
                   bundle % space_.bundles_per_layer, DescribeFailure(failure));
}

bool BundleCache::Contains(uint32_t layer, uint32_t position) const {
  return slot_of_[layer * space_.bundles_per_layer + position] != kNoSlot;
}

uint32_t BundleCache::FindReady(uint32_t layer, uint32_t position) const {
  const uint32_t slot = slot_of_[layer * space_.bundles_per_layer + position];
  return slot != kNoSlot && ready(slot) ? slot : kNoSlot;
}

void BundleCache::EndStep() {
  if (options_.policy.kind == PolicyKind::kWindow) {
    for (uint32_t slot = 0; slot < options_.num_slots; ++slot) {
      if (!ready(slot) || pinned(slots_[slot])) continue;
      if (policy_->Expired(slots_[slot].bundle, step_)) DropSlot(slot);
    }
  }
  ++step_;
}

}  // namespace frugal
