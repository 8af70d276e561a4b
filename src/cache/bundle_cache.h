// One pool of slots for the bundles of all layers: absent -> reading -> ready. Bundles in use are pinned; only ready, unpinned ones are
// evicted, so that a read in flight is never overwritten. A use is what one layer of a step does with the cache; a pin is a mark of
// the use that it belongs to, so that the end of a use touches no bundle. All memory is allocated by Create; the per-token path
// allocates nothing. Engine thread only; workers see the rows of pinned bundles as read-only memory.
//
// What is known of a bundle lies in tables by bundle, not by slot: a layer's active set walks them forwards. Evictions walk them too
// (docs/decisions/0012-evict-in-rounds.md).
//
// The cache decides when bytes arrive, never which neurons count.
#pragma once

#include <limits>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "src/base/aligned_buffer.h"
#include "src/base/result.h"
#include "src/cache/eviction_policy.h"
#include "src/io/read_plan.h"
#include "src/io/whole_reader.h"

namespace frugal {

enum class VerifyMode { kFirst, kAlways, kOff };
enum class Bundling { kTogether, kHalves };  // kHalves: all up halves of a set first, then, when they are there, the down halves

// Where the bundles lie. Bundle id = layer * bundles_per_layer + position.
struct BundleSpace {
  const File* file = nullptr;
  uint32_t num_layers = 0;
  uint32_t bundles_per_layer = 0;
  uint64_t stride_bytes = 0;
  uint64_t up_bytes = 0;                       // of a bundle's first half (for Bundling::kHalves)
  std::vector<uint64_t> layer_offset_bytes;    // [num_layers]
  std::vector<std::string> layer_tensor_names;  // [num_layers], for messages
  // [num_layers * bundles_per_layer], XXH3 of a bundle's stride_bytes; may be empty with VerifyMode::kOff.
  std::span<const uint64_t> hashes;

  uint32_t num_bundles() const { return num_layers * bundles_per_layer; }
};

struct CacheOptions {
  uint32_t num_slots = 0;
  PolicyOptions policy;
  VerifyMode verify = VerifyMode::kFirst;
  Bundling bundling = Bundling::kTogether;
  uint64_t max_read_bytes = 256 * 1024;  // a joined read is cut here
  // Gaps between bundles of one read are read over up to this size (device_profile.h: GapWorthReading), as far as a
  // small part of the slots' memory is enough for where they go; 0: only neighbours are joined.
  uint64_t max_gap_bytes = 0;
};

struct CacheStatistics {
  uint64_t num_hits = 0;
  uint64_t num_late_hits = 0;  // still being read when asked for
  uint64_t num_misses = 0;
  uint64_t num_prefetched = 0;         // bundles that early prediction asked for
  uint64_t num_prefetched_unused = 0;  // of these, released without having been asked for
  uint64_t gap_bytes = 0;              // read over between bundles
};

// Of bundles that are asked for before their use begins.
enum class Need : uint8_t { kGuess, kCertain };

class BundleCache {
 public:
  // Smallest pool the planner gives: sets that exceed it go through in waves of a quarter, and a wave of 16 still fills a queue.
  static constexpr uint32_t kMinSlots = 64;
  static constexpr uint32_t kNoSlot = ~0u;
  // Most bundles and gaps of one read; the reader's number of segments.
  static constexpr uint32_t kMaxJoined = 32;
  // Reads with gaps that are in flight together; each has its own scrap memory for what lies in the gaps.
  static constexpr uint32_t kNumScraps = 16;

  static Result<std::unique_ptr<BundleCache>> Create(const BundleSpace& space, const CacheOptions& options, WholeReader& reader);
  ~BundleCache();

  // Bytes of slots and of tables, for the ledger.
  static uint64_t SlotBytes(const BundleSpace& space, uint32_t num_slots);
  static uint64_t TableBytes(const BundleSpace& space, uint32_t num_slots);
  // The longest gap that a cache of these options reads over.
  static uint64_t LongestGapBytes(uint64_t stride_bytes, const CacheOptions& options);
  // What gaps are read into: kNumScraps times the longest gap that is read over.
  static uint64_t ScrapBytes(const BundleSpace& space, const CacheOptions& options);

  // Tells the policy about a layer's active set, before anything of it is acquired. count[i] tokens of the step use positions[i].
  void NoteUses(uint32_t layer, std::span<const uint32_t> positions, std::span<const uint32_t> counts);
  // The guesses made until now are this use's. Those whose reads the reader has not taken yet are given up
  // (docs/decisions/0018-give-up-late-guesses.md): call it when it is known what the use needs.
  void BeginUse();
  // Pins bundles of one layer from the front of `positions` (ascending), queues reads for those that are absent, and writes
  // their slots. Returns how many were taken: fewer than asked when no slot is left (at least one when nothing is pinned).
  size_t Acquire(uint32_t layer, std::span<const uint32_t> positions, std::span<uint32_t> slots);
  // Unpins bundles before their use ends.
  void Unpin(uint32_t layer, std::span<const uint32_t> positions);
  // Takes slots for absent bundles that the next use will probably need, in the place of what nobody has pinned; those that are there
  // already are pinned too. Their reads begin with StartPrefetched or BeginUse. Not with Bundling::kHalves while this use's reads are not
  // done. kCertain, not with kHalves: what the next use is known to need. These are misses, not guesses: their reads begin at once, before
  // those of guesses, and are not given up (docs/decisions/0019-ask-while-choosing.md).
  void Prefetch(uint32_t layer, std::span<const uint32_t> positions, Need need = Need::kGuess);
  void StartPrefetched();
  // Pins those of the positions that are in memory, as far as `max_pins` allows; returns how many.
  size_t PinPresent(uint32_t layer, std::span<const uint32_t> positions, size_t max_pins);
  // Unpins what guesses for this use and PinPresent have pinned and Acquire has not asked for.
  void UnpinGuesses();
  // Unpins everything but guesses for the next use and what is pinned for good.
  void EndUse();
  // Evicts a few bundles ahead of the misses that will need their slots. For between tiles: then other threads work meanwhile.
  void FreeAhead();
  // Hands a completion of this cache's reads over (tag without the owner bits). An error names tensor, row and offset.
  Status OnCompletion(const WholeCompletion& completion);
  // Pushes queued reads to the reader as far as it takes them.
  void SubmitQueued();

  bool ready(uint32_t layer, uint32_t position) const { return (flags_[BundleOf(layer, position)] & kReady) != 0; }
  bool up_ready(uint32_t layer, uint32_t position) const { return (flags_[BundleOf(layer, position)] & (kReady | kUpArrived)) != 0; }
  bool Contains(uint32_t layer, uint32_t position) const;
  // The slot of a ready bundle, kNoSlot otherwise. Nothing is counted.
  uint32_t FindReady(uint32_t layer, uint32_t position) const;
  const std::byte* slots_base() const { return memory_.data(); }
  uint64_t stride_bytes() const { return space_.stride_bytes; }
  uint32_t num_slots() const { return options_.num_slots; }
  size_t num_reading() const { return num_reading_; }

  // Takes a copy of a bundle that was read past the cache, and verified, into an empty slot or that of a bundle of low priority. False
  // where every slot is taken by what may not be given up.
  bool Keep(uint32_t layer, uint32_t position, const std::byte* bundle);
  // Lends the memory of the last slots, size_bytes of it at most and an eighth of all, for other reads; what lies there is given up. Empty
  // where something of it is pinned or being read. TakeBack: they are empty slots, the last to be taken.
  std::span<std::byte> Lend(uint64_t size_bytes);
  void TakeBack();
  uint32_t num_lent() const { return num_lent_; }
  // Pins bundles for good (a popular part). They are read by the next Acquire-like wait; call before the first step.
  size_t PinForGood(uint32_t layer, std::span<const uint32_t> positions, std::span<uint32_t> slots);
  // Ends a step: the window drops what it no longer holds.
  void EndStep();

  const CacheStatistics& statistics() const { return statistics_; }
  const BundleSpace& space() const { return space_; }
  // The bits of WholeRead::tag that say "this read is the cache's".
  static constexpr uint64_t kTagOwner = uint64_t{1} << 62;

 private:
  enum class Half : uint8_t { kWhole, kUp, kDown };
  struct PendingRead {  // one read in flight or queued
    uint64_t wanted = 0;  // bit i: first_bundle + i is; the others are gaps
    uint32_t first_bundle = 0;
    Half half = Half::kWhole;
    uint8_t scrap = kNoScrap;  // where the gaps go
    bool is_guess = false;
  };
  // Bits of flags_: neither kReading nor kReady is absent.
  static constexpr uint8_t kReading = 1, kReady = 2, kUpArrived = 4;
  static constexpr uint8_t kPrefetched = 8;  // and not yet asked for
  static constexpr uint8_t kVerified = 16;   // once; stays when the bundle is given up
  static constexpr uint8_t kMissed = 32;     // asked for as kCertain when it was absent, and counted; its use has not begun
  static constexpr uint16_t kNoPin = 0, kPinForGood = 65535;  // other marks of pins are those of uses
  static constexpr uint8_t kNoScrap = 255;
  static constexpr uint64_t kSectorBytes = 512;  // bundles are multiples of it (docs/packed-model.md)
  static constexpr uint32_t kMaxSpan = 64;  // bundles of a read, gaps included: bits of PendingRead::wanted

  BundleCache(const BundleSpace& space, const CacheOptions& options, WholeReader& reader);
  uint32_t BundleOf(uint32_t layer, uint32_t position) const { return layer * space_.bundles_per_layer + position; }
  uint32_t TakeSlot();
  bool Evict();
  uint32_t NextVictim();
  void SetLimit();
  bool pinned(uint32_t bundle) const {
    const uint16_t pin = pins_[bundle];
    return pin != kNoPin && (pin == asked_pin_ || pin == guess_pin_ || pin == next_guess_pin_ || pin == kPinForGood);
  }
  void Pin(uint32_t bundle, uint16_t pin) {
    if (pins_[bundle] != kPinForGood) pins_[bundle] = pin;
  }
  uint16_t NewPin() { return last_pin_ = last_pin_ + 1 == kPinForGood ? kNoPin + 1 : last_pin_ + 1; }
  void Drop(uint32_t bundle);
  void StartReading(uint32_t bundle, uint32_t slot);
  void QueueReads(uint32_t layer, std::span<const uint32_t> positions);
  void QueuePlanned(uint32_t layer, std::span<const uint32_t> positions);
  void QueueRead(PendingRead read);
  void Queue(uint32_t read);
  void QueueFirst(uint32_t read);
  void FreeRead(uint32_t read);
  void GiveUpGuesses();
  bool TrySubmitRead(uint32_t read);
  void CountAsked(uint32_t bundle);
  void AskForTables(uint32_t layer, std::span<const uint32_t> positions, size_t from) const;
  void QueueWaitingDowns();
  Status FinishBundle(uint32_t bundle);
  Error ReadError(uint32_t bundle, const ReadFailure& failure) const;

  const BundleSpace space_;
  const CacheOptions options_;
  WholeReader& reader_;
  const ReadPlanner planner_;
  std::unique_ptr<EvictionPolicy> policy_;
  AlignedBuffer memory_;                // [num_slots, stride_bytes]
  AlignedBuffer scraps_;                // [kNumScraps, longest gap]; empty where none are read over
  std::vector<uint8_t> free_scraps_;    // stack
  std::vector<uint32_t> slot_of_;       // [num_bundles], kNoSlot when absent
  std::vector<uint16_t> pins_;          // [num_bundles]
  std::vector<uint8_t> flags_;          // [num_bundles], rounded up to whole words
  uint32_t hand_ = 0;                   // the bundle at which the search for victims goes on
  float limit_ = -std::numeric_limits<float>::infinity();  // of a victim's priority, in this round of the hand
  bool has_no_victims_ = false;         // nothing is both ready and unpinned
  std::vector<float> sample_;           // scratch of SetLimit
  std::vector<uint32_t> free_slots_;    // stack of empty ones
  uint32_t num_lent_ = 0;               // of the last slots
  std::vector<uint32_t> misses_;        // scratch of Acquire and Prefetch
  std::vector<uint32_t> guessed_, next_guessed_;  // bundles that Prefetch has begun to read, for this use and for the next
  uint16_t last_pin_ = 2;
  uint16_t asked_pin_ = 1, next_guess_pin_ = 2;
  uint16_t guess_pin_ = kNoPin;  // of this use's guesses and PinPresent; kNoPin between uses, or when they are pinned no more
  std::vector<uint32_t> waiting_downs_;  // kHalves: bundles whose down half is read when num_ups_ is 0
  size_t num_ups_ = 0;                   // up halves queued or in flight
  std::vector<PendingRead> reads_;      // pool: a reading slot has at most one read, so num_slots are enough
  std::vector<uint32_t> free_reads_;    // stack of unused entries of reads_
  std::vector<uint32_t> queue_;         // reads not yet taken by the reader: ring
  size_t queue_head_ = 0, queue_size_ = 0;
  std::vector<uint32_t> held_;          // reads that wait for StartPrefetched
  enum class QueueAs : uint8_t { kLast, kFirst, kHeldGuess };
  QueueAs queues_as_ = QueueAs::kLast;  // what is queued now
  size_t num_reading_ = 0;
  uint32_t step_ = 0;
  CacheStatistics statistics_;
};

}  // namespace frugal
