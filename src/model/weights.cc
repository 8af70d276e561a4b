#include "src/model/weights.h"

#include <algorithm>
#include <array>
#include <bit>
#include <utility>

#include "src/base/bytes.h"
#include "src/base/clock.h"
#include "src/format/packed_format.h"
#include "src/kernels/interleaved_rows.h"
#include "src/model/weights_internal.h"

namespace frugal {

// Reads are drained by their owners before their memory goes: the rings' memory lies in stream_ and scan_, the cache drains itself.
Weights::~Weights() {
  if (reader_ != nullptr) DrainAndDiscard(*reader_);
}

std::span<const float> Weights::vector(uint32_t layer, LayerVector which) const {
  return {vectors_.data() + vector_at_[layer][static_cast<size_t>(which)], model_.vector(layer, which).size};
}

std::span<const float> Weights::vector(GlobalVector which) const {
  return {vectors_.data() + global_vector_at_[static_cast<size_t>(which)], model_.vector(which).size};
}

void Weights::Dispatch(std::span<const WholeCompletion> completions) {
  for (const WholeCompletion& completion : completions) {
    Status status;
    if ((completion.tag & BundleCache::kTagOwner) != 0) {
      status = cache_->OnCompletion(completion);
    } else if (completion.failed) {
      const bool is_stream = (completion.tag & kStreamTag) != 0;
      status = StreamError(is_stream ? layout_ : scan_layout_, (is_stream ? *stream_ : *scan_).GroupOf(completion), completion.failure);
    } else if ((completion.tag & kStreamTag) != 0) {
      stream_->OnCompletion(completion);
    } else {
      scan_->OnCompletion(completion);
    }
    if (!status && !error_.has_value()) error_ = std::move(status).error();
  }
  if (cache_ != nullptr) cache_->SubmitQueued();
  if (has_lent_) scan_->Advance();  // more buffers than reads in flight
}

void Weights::Reap(WaitMode mode) {
  std::array<WholeCompletion, 32> completions;
  const size_t count = reader_->Reap(completions, mode, kMostStarts);
  Dispatch({completions.data(), count});
}

void Weights::Poll() {
  if (reader_->num_pending() > 0) Reap(WaitMode::kPoll);
  if (cache_ != nullptr) cache_->FreeAhead();
  if (!scans() || error_) return;
  KeepWave();
  if (open_.block == scan_layout_.blocks.size() || !scan_->ready(scan_layout_.blocks[open_.block].group)) return;
  if (Status status = VerifyScanned(open_.block); !status) error_ = std::move(status).error();
}

std::array<std::span<const std::byte>, 2> Weights::memory() const {
  std::array<std::span<const std::byte>, 2> memory = {std::span(resident_.data(), resident_.size_bytes())};
  if (cache_ != nullptr) memory[1] = {cache_->slots_base(), cache_->num_slots() * cache_->stride_bytes()};
  return memory;
}

Status Weights::TakeError() {
  if (!error_.has_value()) return {};
  return *error_;  // kept: after an error every further call fails the same way
}

Status Weights::WaitSome() {
  FRUGAL_TRY(TakeError());
  CHECK(reader_->num_pending() > 0);
  const uint64_t start = NowNs();
  Reap(WaitMode::kBlock);
  stall_ns_ += NowNs() - start;
  return TakeError();
}

Status Weights::Settle() {
  while (!error_ && reader_->num_pending() > 0) Reap(WaitMode::kBlock);
  return TakeError();
}

Status Weights::WaitForGroup(StreamRing& ring, uint64_t sequence) {
  while (!ring.ready(sequence)) {
    ring.Advance();
    ring.Demand(sequence);
    FRUGAL_TRY(WaitSome());
  }
  return {};
}

Result<const std::byte*> Weights::BlockData(uint32_t index, std::optional<uint64_t>* release) {
  const WeightBlock& block = layout_.blocks[index];
  release->reset();
  if (block.resident) return resident_.data() + block.memory_offset;
  const uint64_t sequence = stream_base_ + block.group;
  CHECK(sequence == stream_->next_to_release());  // asked for in the order of the forward pass
  FRUGAL_TRY(WaitForGroup(*stream_, sequence));
  const std::byte* data = stream_->data(sequence) + block.memory_offset;
  if (plan_.verify == VerifyMode::kAlways || (plan_.verify == VerifyMode::kFirst && block_verified_[index] == 0)) {
    FRUGAL_TRY(VerifyBlock(block, data));
    block_verified_[index] = 1;
  }
  const StreamGroup& group = layout_.groups[block.group];
  if (index + 1 == group.first_block + group.num_blocks) *release = sequence;
  return data;
}

// What is resident side by side is one product.
RowBlock Weights::TakeRows(const std::byte* data, uint32_t* index) const {
  const WeightBlock& first = layout_.blocks[*index];
  const size_t row_bytes = static_cast<size_t>(*RowBytes(matrix_type(first.matrix), model_.matrices()[first.matrix].columns));
  const auto follows_in_memory = [&](uint32_t i) {
    const WeightBlock &block = layout_.blocks[i], &before = layout_.blocks[i - 1];
    return block.matrix == first.matrix && block.resident && before.resident &&
           block.memory_offset == before.memory_offset + before.memory_bytes;
  };
  RowBlock rows{first.first_row, 0, RowSet{data, row_bytes, nullptr}, first.resident && interleaved_[first.matrix] != 0};
  do {
    rows.num_rows += layout_.blocks[(*index)++].num_rows;
  } while (*index < layout_.blocks.size() && follows_in_memory(*index));
  return rows;
}

std::optional<RowBlock> Weights::ResidentRows(uint32_t matrix) const {
  uint32_t i = matrix_first_block_[matrix];
  CHECK(i != kNoMatrix);
  if (!layout_.blocks[i].resident) return std::nullopt;
  const RowBlock rows = TakeRows(resident_.data() + layout_.blocks[i].memory_offset, &i);
  return rows.num_rows == model_.matrices()[matrix].rows ? std::optional(rows) : std::nullopt;
}

Status Weights::ForEachRowBlock(uint32_t matrix, FunctionRef<void(const RowBlock&)> fn) {
  const uint32_t first = matrix_first_block_[matrix];
  CHECK(first != kNoMatrix);
  for (uint32_t i = first; i < layout_.blocks.size() && layout_.blocks[i].matrix == matrix;) {
    std::optional<uint64_t> release;
    FRUGAL_ASSIGN(const std::byte* data, BlockData(i, &release));
    const RowBlock rows = TakeRows(data, &i);
    fn(rows);
    if (release) stream_->Release(*release);
    FRUGAL_TRY(TakeError());
  }
  return {};
}

Status Weights::ReadRow(uint32_t matrix, uint64_t row, std::span<float> out) {
  const MatrixInfo& info = model_.matrices()[matrix];
  CHECK(row < info.rows && out.size() == info.columns);
  for (uint32_t i = matrix_first_block_[matrix]; i < layout_.blocks.size() && layout_.blocks[i].matrix == matrix;) {
    if (!layout_.blocks[i].resident) {
      ++i;
      continue;
    }
    const RowBlock block = TakeRows(resident_.data() + layout_.blocks[i].memory_offset, &i);
    if (row < block.first_row || row >= block.first_row + block.num_rows) continue;
    const std::byte* bytes = block.rows.row(row - block.first_row);
    if (block.interleaved) {
      CopyInterleavedRow(block.rows.base, block.num_rows, info.columns, row - block.first_row, row_scratch_.data());
      bytes = row_scratch_.data();
    }
    ConvertToFloat(matrix_type(matrix), bytes, info.columns, out.data());
    return {};
  }
  if (!model_.is_packed()) {
    const uint64_t offset = info.OffsetOfRow(row);
    const uint64_t begin = RoundDown(offset, 4096);
    const uint64_t end = std::min(RoundUp(offset + info.row_bytes, 4096), files_[info.file_index].size_bytes());
    FRUGAL_TRY(Direct(info.file_index, begin, row_scratch_.bytes().first(end - begin), fmt::format("{}: row {}", info.name, row)));
    ConvertToFloat(info.dtype, row_scratch_.data() + (offset - begin), info.columns, out.data());
    return {};
  }
  // Whole hash chunks are read, so that the row can be verified.
  const uint64_t begin = RoundDown(row * info.row_bytes, kHashChunkBytes);
  const uint64_t end = std::min(RoundUp((row + 1) * info.row_bytes, kHashChunkBytes), info.extent.size_bytes);
  const std::span<std::byte> bytes = row_scratch_.bytes().first(RoundUp(end - begin, 4096));
  FRUGAL_TRY(Direct(0, info.extent.offset_bytes + begin, bytes, fmt::format("{}: row {}", info.name, row)));
  if (plan_.verify != VerifyMode::kOff) {
    FRUGAL_TRY(VerifyChunks(info.name, info.row_bytes, begin, info.first_hash + begin / kHashChunkBytes,
                            bytes.first(end - begin), info.extent.offset_bytes + begin));
  }
  ConvertToFloat(info.dtype, bytes.data() + (row * info.row_bytes - begin), info.columns, out.data());
  return {};
}

uint64_t Weights::ReadBytes(uint64_t size_bytes) const { return model_.is_packed() ? RoundUp(size_bytes, 4096) : size_bytes; }

// Reads into memory and waits; other reads go on meanwhile.
Status Weights::Direct(uint32_t file_index, uint64_t offset_bytes, std::span<std::byte> destination, const std::string& what) {
  FRUGAL_TRY(TakeError());
  const uint64_t start = NowNs();
  Status status = reader_->ReadNow(files_[file_index], offset_bytes, destination, fmt::format("{}: {}", files_[file_index].path(), what));
  stall_ns_ += NowNs() - start;
  if (!status) error_ = std::move(status).error();
  return TakeError();
}

Status Weights::BeginBundles(uint32_t layer, std::span<const uint32_t> positions, std::span<const uint32_t> counts,
                             uint32_t num_tokens) {
  CHECK(open_.source == BundleSource::kNone);
  open_ = {};
  open_.layer = layer;
  open_.positions = positions;
  if (cache_ == nullptr) {
    open_.source = BundleSource::kBlocks;
    open_.block = bundle_first_block_[layer];
    return TakeError();
  }
  cache_->BeginUse();
  const uint32_t ffn_size = model_.config().ffn_size;
  // A prompt's union of active neurons is most of the layer: large sequential reads past the cache are cheaper.
  scanned_last_ = num_tokens > 1 && scan_.has_value() && positions.size() * 2 >= ffn_size;
  if (scanned_last_ || scan_ahead_) {
    open_.source = BundleSource::kScan;
    if (!scan_ahead_) {
      LendToScan(num_tokens);
      StartScan(layer);
    }
    CHECK(scan_ahead_.value_or(layer) == layer);
    scan_ahead_.reset();
    std::fill(kept_.begin(), kept_.end(), uint8_t{0});
    return TakeError();
  }
  open_.source = BundleSource::kCache;
  cache_->NoteUses(layer, positions, counts);
  open_.wave_cap = positions.size();
  if (positions.size() > cache_->num_slots()) {
    // The set goes through the slots in waves; a wave must not push out what a later wave of this set would hit.
    open_.wave_cap = std::max<size_t>(1, cache_->num_slots() / 4);
    cache_->PinPresent(layer, positions, cache_->num_slots() / 4);
  }
  return TakeError();
}

Result<BundleWave> Weights::NextWave() {
  open_.num_given = 0;
  switch (open_.source) {
    case BundleSource::kBlocks:
      return NextBlockWave();
    case BundleSource::kScan:
      return NextScanWave();
    case BundleSource::kCache:
      return NextCacheWave();
    case BundleSource::kNone:
      break;
  }
  CHECK(false);
  return BundleWave{};
}

// Members of the active list that lie in the block; rows count from the block's start.
BundleWave Weights::MakeBlockWave(const WeightBlock& block, const std::byte* data) {
  BundleWave wave;
  wave.begin = wave.end = open_.cursor;
  while (wave.end < open_.positions.size() && open_.positions[wave.end] < block.first_row + block.num_rows) {
    wave_index_[wave.end] = static_cast<uint32_t>(open_.positions[wave.end] - block.first_row);
    ++wave.end;
  }
  wave.rows = {data, static_cast<size_t>(model_.bundles()[block.layer].stride_bytes), wave_index_.data() + wave.begin};
  open_.cursor = wave.end;
  open_.wave = wave;
  return wave;
}

Result<BundleWave> Weights::NextBlockWave() {
  const auto in_layer = [this](uint32_t i) {
    return i < layout_.blocks.size() && layout_.blocks[i].matrix == kNoMatrix && layout_.blocks[i].layer == open_.layer;
  };
  while (in_layer(open_.block)) {
    const uint32_t index = open_.block++;
    FRUGAL_ASSIGN(const std::byte* data, BlockData(index, &open_.release));
    if (!layout_.blocks[index].resident) block_ffn_bytes_ += layout_.blocks[index].extent.size_bytes;
    const BundleWave wave = MakeBlockWave(layout_.blocks[index], data);
    if (wave.end > wave.begin) return wave;
    EndWave();
  }
  return BundleWave{open_.cursor, open_.cursor, {}};
}

Result<BundleWave> Weights::NextCacheWave() {
  const auto acquire = [this] {
    const size_t wanted = std::min(open_.wave_cap, open_.positions.size() - open_.cursor);
    const size_t taken = cache_->Acquire(open_.layer, open_.positions.subspan(open_.cursor, wanted),
                                         std::span<uint32_t>(wave_index_).subspan(open_.cursor));
    open_.cursor += taken;
    return taken;
  };
  BundleWave wave;
  if (open_.ahead_end > open_.ahead_begin) {
    wave.begin = open_.ahead_begin;
    wave.end = open_.ahead_end;
    open_.ahead_begin = open_.ahead_end = 0;
  } else {
    wave.begin = open_.cursor;
    size_t taken = 0;
    while (open_.cursor < open_.positions.size() && (taken = acquire()) == 0) {
      // Every slot is held by a guess, by a hit kept for later, or by a read that is still going on.
      cache_->UnpinGuesses();
      if (cache_->num_reading() > 0) FRUGAL_TRY(WaitSome());
    }
    wave.end = wave.begin + taken;
  }
  std::fill(given_.begin(), given_.begin() + static_cast<std::ptrdiff_t>(wave.end - wave.begin), uint8_t{0});
  wave.rows = {cache_->slots_base(), static_cast<size_t>(cache_->stride_bytes()), wave_index_.data() + wave.begin};
  open_.wave = wave;
  if (plan_.overlap && wave.end > wave.begin && open_.cursor < open_.positions.size()) {
    open_.ahead_begin = open_.cursor;
    open_.ahead_end = open_.ahead_begin + acquire();
  }
  FRUGAL_TRY(TakeError());  // reads start between the tiles of what is there, or by the wait for the first of them
  return wave;
}

Result<std::span<const uint32_t>> Weights::NextReady(RowSet* rows) {
  const size_t size = open_.wave.end - open_.wave.begin;
  size_t count = 0;
  if (open_.source != BundleSource::kCache) {
    if (open_.num_given == 0) {
      for (; count < size; ++count) ready_members_[count] = static_cast<uint32_t>(count);
    }
    *rows = open_.wave.rows;
    open_.num_given = size;
    return std::span<const uint32_t>(ready_members_.data(), count);
  }
  FRUGAL_TRY(TakeError());
  if (!plan_.overlap && plan_.cache.bundling == Bundling::kTogether) FRUGAL_TRY(FinishWave());
  while (open_.num_given < size && count == 0) {
    for (size_t i = 0; i < size; ++i) {
      if (given_[i] != 0 || !cache_->up_ready(open_.layer, open_.positions[open_.wave.begin + i])) continue;
      given_[i] = 1;
      ready_members_[count] = static_cast<uint32_t>(i);
      ready_rows_[count] = wave_index_[open_.wave.begin + i];
      ++count;
    }
    if (count == 0) FRUGAL_TRY(WaitSome());
  }
  open_.num_given += count;
  *rows = {cache_->slots_base(), static_cast<size_t>(cache_->stride_bytes()), ready_rows_.data()};
  return std::span<const uint32_t>(ready_members_.data(), count);
}

Status Weights::FinishWave() {
  if (open_.source != BundleSource::kCache) return TakeError();
  for (size_t i = open_.wave.begin; i < open_.wave.end; ++i) {
    while (!cache_->ready(open_.layer, open_.positions[i])) FRUGAL_TRY(WaitSome());
  }
  return TakeError();
}

void Weights::EndWave() {
  if (open_.source == BundleSource::kCache) {
    // The last wave's slots are unpinned with the layer's use.
    if (open_.wave.end < open_.positions.size()) {
      cache_->Unpin(open_.layer, open_.positions.subspan(open_.wave.begin, open_.wave.end - open_.wave.begin));
    }
  } else {
    if (scans()) KeepWave();
    if (open_.release) (scans() ? *scan_ : *stream_).Release(*open_.release);
    open_.release.reset();
  }
  open_.wave.begin = open_.wave.end;
}

void Weights::EndBundles() {
  if (cache_ != nullptr) cache_->EndUse();
  open_.source = BundleSource::kNone;
}

void Weights::Prefetch(uint32_t layer, std::span<const uint32_t> positions, Need need) {
  if (cache_ != nullptr) cache_->Prefetch(layer, positions, need);
}

void Weights::StartPrefetched() {
  if (cache_ != nullptr) cache_->StartPrefetched();  // polls start the reads, while the other threads work
}

Status Weights::EndStep() {
  if (cache_ != nullptr) cache_->EndStep();
  if (has_lent_) {
    scan_->Shrink();
    cache_->TakeBack();
    has_lent_ = false;
  }
  stream_base_ += layout_.groups.size();
  scanned_last_ = false;
  return TakeError();
}

const std::byte* Weights::PeekBundle(uint32_t layer, uint32_t position) const {
  if (cache_ == nullptr) return nullptr;
  const uint32_t slot = cache_->FindReady(layer, position);
  if (slot == BundleCache::kNoSlot) return nullptr;
  return cache_->slots_base() + slot * cache_->stride_bytes();
}

Status Weights::ReadBundle(uint32_t layer, uint32_t position, std::span<std::byte> out) {
  const BundleInfo& bundle = model_.bundles()[layer];
  return Direct(0, bundle.extent.offset_bytes + position * bundle.stride_bytes, out.first(bundle.stride_bytes),
                fmt::format("{}: row {}", bundle.name, position));
}

WeightsStatistics Weights::statistics() const {
  WeightsStatistics statistics;
  statistics.reads = reader_->statistics();
  statistics.stall_ns = stall_ns_;
  statistics.hash_bytes = hash_bytes_;
  statistics.ffn_bytes_read = block_ffn_bytes_;
  if (cache_ != nullptr) {
    statistics.cache = cache_->statistics();
    uint64_t bundle_bytes = cache_->stride_bytes();
    if (plan_.cache.bundling == Bundling::kHalves) {
      const uint64_t up_bytes = cache_->space().up_bytes;
      bundle_bytes += RoundUp(up_bytes, kSectorBytes) - RoundDown(up_bytes, kSectorBytes);
    }
    statistics.ffn_bytes_read +=
        (statistics.cache.num_misses + statistics.cache.num_prefetched) * bundle_bytes + statistics.cache.gap_bytes;
  }
  return statistics;
}

}  // namespace frugal
