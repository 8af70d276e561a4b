// The cache's reads: planned and queued, held where they are guesses, given to the reader, and handed over when they complete.
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <bit>
#include <utility>

#include "src/base/bytes.h"
#include "src/cache/bundle_cache.h"

namespace frugal {
namespace {

// Bundles from the first wanted one, bit 0, to the last.
uint32_t SpanOf(uint64_t wanted) { return static_cast<uint32_t>(std::bit_width(wanted)); }

}  // namespace

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
  reads_[index].is_guess = queues_as_ == QueueAs::kHeldGuess;
  switch (queues_as_) {
    case QueueAs::kLast: return Queue(index);
    case QueueAs::kFirst: return QueueFirst(index);
    case QueueAs::kHeldGuess: return held_.push_back(index);
  }
}

void BundleCache::FreeRead(uint32_t read) {
  free_reads_.push_back(read);
  if (reads_[read].scrap != kNoScrap) free_scraps_.push_back(reads_[read].scrap);
}

void BundleCache::Queue(uint32_t read) {
  queue_[(queue_head_ + queue_size_) % queue_.size()] = read;
  ++queue_size_;
}

void BundleCache::QueueFirst(uint32_t read) {
  queue_head_ = (queue_head_ + queue_.size() - 1) % queue_.size();
  queue_[queue_head_] = read;
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
  FreeRead(read_index);
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
    flags_[read.first_bundle] |= kUpArrived;
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
  --num_reading_;
  const bool verified = (flags_[bundle] & kVerified) != 0;
  if (options_.verify == VerifyMode::kAlways || (options_.verify == VerifyMode::kFirst && !verified)) {
    const std::byte* bytes = memory_.data() + slot_of_[bundle] * space_.stride_bytes;
    if (XXH3_64bits(bytes, space_.stride_bytes) != space_.hashes[bundle]) {
      const uint32_t layer = bundle / space_.bundles_per_layer;
      const uint32_t position = bundle % space_.bundles_per_layer;
      return BadModel("{}: {}: row {} at offset {}: its bytes do not match their hash: the file is damaged", space_.file->path(),
                      space_.layer_tensor_names[layer], position,
                      space_.layer_offset_bytes[layer] + position * space_.stride_bytes);
    }
    flags_[bundle] |= kVerified;
  }
  flags_[bundle] = static_cast<uint8_t>((flags_[bundle] & (kPrefetched | kMissed | kVerified)) | kReady);
  has_no_victims_ = false;
  return {};
}

Error BundleCache::ReadError(uint32_t bundle, const ReadFailure& failure) const {
  const uint32_t layer = bundle / space_.bundles_per_layer;
  return MakeError(ErrorCode::kIo, "{}: {}: row {}: {}", space_.file->path(), space_.layer_tensor_names[layer],
                   bundle % space_.bundles_per_layer, DescribeFailure(failure));
}

void BundleCache::StartPrefetched() {
  for (const uint32_t read : held_) Queue(read);
  held_.clear();
  SubmitQueued();
}

// Those whose reads are still queued here. In halves, a down half would wait for the others' up halves.
void BundleCache::GiveUpGuesses() {
  if (options_.bundling == Bundling::kHalves) return;
  const size_t num_queued = std::exchange(queue_size_, 0);
  for (size_t i = 0; i < num_queued; ++i) {
    const uint32_t index = queue_[(queue_head_ + i) % queue_.size()];
    const PendingRead read = reads_[index];
    if (!read.is_guess) {
      Queue(index);
      continue;
    }
    FreeRead(index);
    for (uint64_t rest = read.wanted; rest != 0; rest &= rest - 1) {
      const uint32_t bundle = read.first_bundle + static_cast<uint32_t>(std::countr_zero(rest));
      free_slots_.push_back(slot_of_[bundle]);
      slot_of_[bundle] = kNoSlot;
      flags_[bundle] &= kVerified;
      --num_reading_;
      --statistics_.num_prefetched;
    }
  }
}

}  // namespace frugal
