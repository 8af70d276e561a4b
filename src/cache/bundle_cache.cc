#include "src/cache/bundle_cache.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "src/base/bytes.h"

namespace frugal {
namespace {

// Slots kept free for the next misses, and how many one call of FreeAhead frees.
constexpr uint32_t kFreeAhead = 256;
constexpr uint32_t kFreeAtOnce = 16;
// A round of the hand shall evict this share of the slots, but at least one bundle of so many: passing that many must be cheap beside
// the read that an eviction makes room for.
constexpr double kRoundShare = 1.0 / 64;
constexpr uint32_t kBundlesPerVictim = 2048;
// Priorities that are looked at to find the limit of a round.
constexpr uint32_t kSampleSize = 1024;
// What part of the slots is lent at most.
constexpr uint32_t kLentPart = 8;
// Of lent memory: what O_DIRECT asks for at most.
constexpr uint64_t kLentAlignment = 4096;

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
  cache->pins_.assign(num_bundles, kNoPin);
  cache->flags_.assign(RoundUp(num_bundles, sizeof(uint64_t)), 0);
  cache->sample_.reserve(2 * kSampleSize);
  cache->free_slots_.resize(num_slots);
  for (uint32_t i = 0; i < num_slots; ++i) cache->free_slots_[i] = num_slots - 1 - i;
  cache->misses_.reserve(std::min(space.bundles_per_layer, num_slots));
  cache->guessed_.reserve(num_slots / 2);
  cache->next_guessed_.reserve(num_slots / 2);
  cache->waiting_downs_.reserve(num_slots);
  cache->reads_.resize(num_slots);
  cache->free_reads_.resize(num_slots);
  for (uint32_t i = 0; i < num_slots; ++i) cache->free_reads_[i] = i;
  cache->queue_.resize(num_slots);
  cache->held_.reserve(num_slots / 2);
  return cache;
}

// Slots are the kernel's until their reads complete.
BundleCache::~BundleCache() { DrainAndDiscard(reader_); }

uint64_t BundleCache::SlotBytes(const BundleSpace& space, uint32_t num_slots) {
  return RoundUp(uint64_t{num_slots} * space.stride_bytes, 4096);
}

uint64_t BundleCache::TableBytes(const BundleSpace& space, uint32_t num_slots) {
  const uint64_t num_bundles = RoundUp(space.num_bundles(), sizeof(uint64_t));
  const uint64_t per_bundle = sizeof(uint32_t) + sizeof(uint16_t) + sizeof(uint8_t);
  const uint64_t per_slot = 13 * sizeof(uint32_t) / 2 + sizeof(PendingRead);
  return num_bundles * per_bundle + PolicyMemoryBytes(space.num_bundles()) + num_slots * per_slot + 2 * kSampleSize * sizeof(float);
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
  policy_->OnUses(BundleOf(layer, 0), positions, counts, step_);
}

// An empty slot; kNoSlot when everything is pinned or being read.
uint32_t BundleCache::TakeSlot() {
  if (free_slots_.empty() && !Evict()) return kNoSlot;
  const uint32_t slot = free_slots_.back();
  free_slots_.pop_back();
  return slot;
}

void BundleCache::FreeAhead() {
  const size_t wanted = std::min(kFreeAhead, options_.num_slots / 64);
  for (uint32_t i = 0; i < kFreeAtOnce && free_slots_.size() < wanted && Evict(); ++i) {
  }
}

// Gives up one ready, unpinned bundle of nearly the lowest priority; false without one.
bool BundleCache::Evict() {
  if (has_no_victims_) return false;
  uint32_t victim = NextVictim();
  if (victim == space_.num_bundles()) {  // the round is over
    hand_ = 0;
    SetLimit();
    victim = NextVictim();
  }
  has_no_victims_ = victim == space_.num_bundles();
  if (has_no_victims_) return false;
  Drop(victim);
  return true;
}

// The next bundle from the hand on that is ready, unpinned and ranked no higher than the limit; num_bundles() without one.
uint32_t BundleCache::NextVictim() {
  constexpr uint64_t kReadyBytes = kReady * 0x0101010101010101u;
  const uint32_t num_bundles = space_.num_bundles();
  const float* const priorities = policy_->priorities().data();
  while (hand_ < num_bundles) {
    const uint32_t first = hand_ / 8 * 8;
    uint64_t ready;
    std::memcpy(&ready, flags_.data() + first, sizeof(ready));
    ready &= kReadyBytes & ~uint64_t{0} << (8 * (hand_ - first));
    for (; ready != 0; ready &= ready - 1) {
      const uint32_t bundle = first + static_cast<uint32_t>(std::countr_zero(ready)) / 8;
      if (priorities[bundle] > limit_ || pinned(bundle)) continue;
      hand_ = bundle + 1;
      return bundle;
    }
    hand_ = first + 8;
  }
  return num_bundles;
}

// The limit of the hand's next round, from a sample: the priority below which the round shall find its share of the slots.
void BundleCache::SetLimit() {
  const uint32_t num_bundles = space_.num_bundles();
  const uint32_t stride = std::max(1u, options_.num_slots / kSampleSize);
  sample_.clear();
  for (uint32_t bundle = 0; bundle < num_bundles && sample_.size() < sample_.capacity(); bundle += stride) {
    if ((flags_[bundle] & kReady) != 0 && !pinned(bundle)) sample_.push_back(policy_->priorities()[bundle]);
  }
  limit_ = std::numeric_limits<float>::infinity();
  const double share = std::max(kRoundShare, static_cast<double>(num_bundles) / kBundlesPerVictim / options_.num_slots);
  const size_t rank = static_cast<size_t>(share * static_cast<double>(sample_.size()));
  if (rank >= sample_.size()) return;
  std::nth_element(sample_.begin(), sample_.begin() + static_cast<std::ptrdiff_t>(rank), sample_.end());
  limit_ = sample_[rank];
}

void BundleCache::Drop(uint32_t bundle) {
  DCHECK((flags_[bundle] & kReady) != 0 && !pinned(bundle));
  free_slots_.push_back(slot_of_[bundle]);
  slot_of_[bundle] = kNoSlot;
  flags_[bundle] &= kVerified;
}

void BundleCache::StartReading(uint32_t bundle, uint32_t slot) {
  slot_of_[bundle] = slot;
  pins_[bundle] = kNoPin;
  flags_[bundle] |= kReading;
  ++num_reading_;
}

// The tables' entries of a position that comes soon after positions[from].
void BundleCache::AskForTables(uint32_t layer, std::span<const uint32_t> positions, size_t from) const {
  if (from + kAskedAhead >= positions.size()) return;
  const uint32_t bundle = BundleOf(layer, positions[from + kAskedAhead]);
  __builtin_prefetch(slot_of_.data() + bundle);
  __builtin_prefetch(pins_.data() + bundle);
  __builtin_prefetch(flags_.data() + bundle);
}

void BundleCache::CountAsked(uint32_t bundle) {
  const uint8_t flags = flags_[bundle];
  flags_[bundle] &= static_cast<uint8_t>(~(kPrefetched | kMissed));
  if ((flags & kMissed) != 0) return;  // counted
  if ((flags & kReady) != 0) {
    ++statistics_.num_hits;
  } else {
    ++statistics_.num_late_hits;
  }
}

size_t BundleCache::PinPresent(uint32_t layer, std::span<const uint32_t> positions, size_t max_pins) {
  size_t num_pinned = 0;
  for (size_t i = 0; i < positions.size() && num_pinned < max_pins; ++i) {
    const uint32_t bundle = BundleOf(layer, positions[i]);
    if (slot_of_[bundle] == kNoSlot) continue;
    if (!pinned(bundle)) pins_[bundle] = guess_pin_;
    ++num_pinned;
  }
  return num_pinned;
}

size_t BundleCache::Acquire(uint32_t layer, std::span<const uint32_t> positions, std::span<uint32_t> slots) {
  misses_.clear();
  size_t taken = 0;
  for (; taken < positions.size(); ++taken) {
    AskForTables(layer, positions, taken);
    const uint32_t bundle = BundleOf(layer, positions[taken]);
    if (slot_of_[bundle] != kNoSlot) {
      CountAsked(bundle);
    } else {
      const uint32_t slot = TakeSlot();
      if (slot == kNoSlot) break;
      StartReading(bundle, slot);
      ++statistics_.num_misses;
      misses_.push_back(positions[taken]);
    }
    Pin(bundle, asked_pin_);
    slots[taken] = slot_of_[bundle];
    if (misses_.size() == misses_.capacity()) {
      QueueReads(layer, misses_);
      misses_.clear();
    }
  }
  QueueReads(layer, misses_);
  return taken;
}

void BundleCache::Unpin(uint32_t layer, std::span<const uint32_t> positions) {
  for (const uint32_t position : positions) Pin(BundleOf(layer, position), kNoPin);
  has_no_victims_ = false;
}

void BundleCache::BeginUse() {
  StartPrefetched();
  GiveUpGuesses();
  UnpinGuesses();
  std::swap(guessed_, next_guessed_);
  guess_pin_ = next_guess_pin_;
  next_guess_pin_ = NewPin();
}

void BundleCache::UnpinGuesses() {
  for (const uint32_t bundle : guessed_) {
    if ((flags_[bundle] & kPrefetched) != 0) ++statistics_.num_prefetched_unused;
    flags_[bundle] &= static_cast<uint8_t>(~kPrefetched);
  }
  guessed_.clear();
  guess_pin_ = kNoPin;
  has_no_victims_ = false;
}

// A bundle whose mark is of a use so long ago that it is taken again stays for one use more.
void BundleCache::EndUse() {
  asked_pin_ = NewPin();
  UnpinGuesses();
}

void BundleCache::Prefetch(uint32_t layer, std::span<const uint32_t> positions, Need need) {
  const bool is_guess = need == Need::kGuess;
  CHECK(is_guess || options_.bundling == Bundling::kTogether);
  // Half of the pool at most is held before its use; the on-time set needs the rest.
  const size_t limit = std::min<size_t>(options_.num_slots / 2 - next_guessed_.size(), positions.size());
  misses_.clear();
  queues_as_ = is_guess ? QueueAs::kHeldGuess : QueueAs::kFirst;
  for (size_t i = 0; i < limit; ++i) {
    AskForTables(layer, positions, i);
    const uint32_t position = positions[i], bundle = BundleOf(layer, position);
    if (slot_of_[bundle] == kNoSlot) {
      const uint32_t slot = TakeSlot();
      if (slot == kNoSlot) break;
      StartReading(bundle, slot);
      flags_[bundle] |= is_guess ? kPrefetched : kMissed;
      next_guessed_.push_back(bundle);
      ++(is_guess ? statistics_.num_prefetched : statistics_.num_misses);
      misses_.push_back(position);
    }
    Pin(bundle, next_guess_pin_);
    if (misses_.size() == misses_.capacity()) {
      QueueReads(layer, misses_);
      misses_.clear();
    }
  }
  QueueReads(layer, misses_);
  queues_as_ = QueueAs::kLast;
}

bool BundleCache::Keep(uint32_t layer, uint32_t position, const std::byte* bundle_bytes) {
  const uint32_t bundle = BundleOf(layer, position);
  if (slot_of_[bundle] != kNoSlot) return true;
  const uint32_t slot = TakeSlot();
  if (slot == kNoSlot) return false;
  std::memcpy(memory_.data() + slot * space_.stride_bytes, bundle_bytes, space_.stride_bytes);
  slot_of_[bundle] = slot;
  pins_[bundle] = kNoPin;
  flags_[bundle] = kReady | kVerified;
  has_no_victims_ = false;
  return true;
}

std::span<std::byte> BundleCache::Lend(uint64_t size_bytes) {
  CHECK(num_lent_ == 0);
  const uint32_t num_wanted = static_cast<uint32_t>(std::min<uint64_t>(size_bytes / space_.stride_bytes, options_.num_slots / kLentPart));
  const uint32_t first = options_.num_slots - num_wanted;
  const auto is_wanted = [first](uint32_t slot) { return slot != kNoSlot && slot >= first; };
  for (uint32_t bundle = 0; bundle < space_.num_bundles(); ++bundle) {
    if (is_wanted(slot_of_[bundle]) && ((flags_[bundle] & kReady) == 0 || pinned(bundle))) return {};
  }
  for (uint32_t bundle = 0; bundle < space_.num_bundles(); ++bundle) {
    if (is_wanted(slot_of_[bundle])) Drop(bundle);
  }
  std::erase_if(free_slots_, is_wanted);
  num_lent_ = num_wanted;
  const uint64_t begin = RoundUp(first * space_.stride_bytes, kLentAlignment), end = options_.num_slots * space_.stride_bytes;
  return begin < end ? std::span(memory_.data() + begin, end - begin) : std::span<std::byte>();
}

void BundleCache::TakeBack() {
  const size_t size = free_slots_.size();
  for (uint32_t i = 1; i <= num_lent_; ++i) free_slots_.push_back(options_.num_slots - i);
  std::rotate(free_slots_.begin(), free_slots_.begin() + static_cast<std::ptrdiff_t>(size), free_slots_.end());
  num_lent_ = 0;
  has_no_victims_ = false;
}

size_t BundleCache::PinForGood(uint32_t layer, std::span<const uint32_t> positions, std::span<uint32_t> slots) {
  const CacheStatistics before = statistics_;
  const size_t taken = Acquire(layer, positions, slots);
  for (const uint32_t position : positions.first(taken)) pins_[BundleOf(layer, position)] = kPinForGood;
  statistics_ = before;  // filling the cache is not traffic of a token
  return taken;
}

bool BundleCache::Contains(uint32_t layer, uint32_t position) const { return slot_of_[BundleOf(layer, position)] != kNoSlot; }

uint32_t BundleCache::FindReady(uint32_t layer, uint32_t position) const {
  return ready(layer, position) ? slot_of_[BundleOf(layer, position)] : kNoSlot;
}

void BundleCache::EndStep() {
  if (options_.policy.kind == PolicyKind::kWindow) {
    for (uint32_t bundle = 0; bundle < space_.num_bundles(); ++bundle) {
      if ((flags_[bundle] & kReady) != 0 && !pinned(bundle) && policy_->Expired(bundle, step_)) Drop(bundle);
    }
  }
  ++step_;
}

}  // namespace frugal
