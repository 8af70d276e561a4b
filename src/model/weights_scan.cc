// Layers that are read past the cache: most of a layer's bundles are wanted, by a batch of several tokens.
#include <algorithm>
#include <array>
#include <utility>

#include "src/model/weights.h"

namespace frugal {

void Weights::PrefetchWhole(uint32_t layer) {
  if (!scanned_last_ || !plan_.overlap || error_) return;
  StartScan(layer);
  scan_ahead_ = layer;
}

void Weights::StartScan(uint32_t layer) {
  scan_layout_ = LayOutScan(model_, layer, plan_.block_bytes);
  scan_->Start(scan_layout_.groups, StreamRing::Order::kOnce, plan_.overlap);
}

// While a prompt's attention computes, its FFN is read, as far as there are buffers: slots lend theirs. The attention of so many rows takes
// about as long as a layer's read (docs/decisions/0020-slots-lend-buffers.md).
void Weights::LendToScan(uint32_t num_tokens) {
  constexpr uint64_t kRowsPerLayer = 128;
  if (has_lent_ || !plan_.overlap) return;
  const uint64_t layer_bytes = cache_->stride_bytes() * model_.config().ffn_size;
  scan_->Extend(cache_->Lend(layer_bytes * std::min<uint64_t>(num_tokens, kRowsPerLayer) / kRowsPerLayer));
  has_lent_ = true;
}

// A block of the open layer whose data are there, unless that was done.
Status Weights::VerifyScanned(uint32_t index) {
  if (index < open_.num_verified) return {};
  open_.num_verified = index + 1;
  const bool is_known = plan_.verify == VerifyMode::kFirst && scan_verified_[open_.layer] != 0;
  if (plan_.verify == VerifyMode::kOff || is_known) return {};
  const WeightBlock& block = scan_layout_.blocks[index];
  return VerifyBundles(block, scan_->data(block.group) + block.memory_offset);
}

Result<BundleWave> Weights::NextScanWave() {
  FRUGAL_TRY(TakeError());  // of a block that a poll has checked
  while (open_.block < scan_layout_.blocks.size()) {
    const WeightBlock& block = scan_layout_.blocks[open_.block];
    FRUGAL_TRY(WaitForGroup(*scan_, block.group));
    FRUGAL_TRY(VerifyScanned(open_.block));
    const std::byte* data = scan_->data(block.group) + block.memory_offset;
    block_ffn_bytes_ += block.extent.size_bytes;
    const StreamGroup& group = scan_layout_.groups[block.group];
    ++open_.block;
    open_.release.reset();
    if (open_.block == group.first_block + group.num_blocks) open_.release = block.group;
    const BundleWave wave = MakeBlockWave(block, data);
    open_.is_kept = false;
    if (wave.end > wave.begin) return wave;
    EndWave();
  }
  scan_verified_[open_.layer] = 1;
  return BundleWave{open_.cursor, open_.cursor, {}};
}

void Weights::KeepRecent(std::span<const uint32_t> positions, std::span<const uint32_t> counts) {
  CHECK(scans() && positions.size() == counts.size());
  cache_->NoteUses(open_.layer, positions, counts);
  const uint32_t share = (cache_->num_slots() - cache_->num_lent()) / model_.config().num_layers;
  std::array<uint32_t, kRecentTokens + 1> num_used{};  // by how many of the tokens
  for (const uint32_t count : counts) ++num_used[count];
  uint32_t least = kRecentTokens + 1, num_kept = 0;  // all that were used at least so often
  while (least > 1 && num_kept + num_used[least - 1] <= share) num_kept += num_used[--least];
  uint32_t room = share - num_kept;  // for some that were used once less
  for (size_t i = 0; i < positions.size(); ++i) {
    kept_[positions[i]] = counts[i] >= least;
    if (counts[i] + 1 != least || room == 0) continue;
    kept_[positions[i]] = 1;
    --room;
  }
}

void Weights::KeepWave() {
  if (std::exchange(open_.is_kept, true)) return;
  const BundleWave& wave = open_.wave;
  for (size_t i = wave.begin; i < wave.end; ++i) {
    const uint32_t position = open_.positions[i];
    if (kept_[position] != 0 && !cache_->Keep(open_.layer, position, wave.rows.row(i - wave.begin))) return;
  }
}

}  // namespace frugal
